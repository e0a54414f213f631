"""An epoch's plan on this machine: fetched, stored as a file, shared by a node's ranks. No scores."""
