"""The one room that knows protobuf: specs and plans as messages, their one reader, and errors as statuses."""
