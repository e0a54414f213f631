"""An epoch's plan on this machine: fetched, laid down as a file, shared by a node's ranks. No scores."""
