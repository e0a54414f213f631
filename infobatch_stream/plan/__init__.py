"""An epoch plan, the order in which its samples are read, and its bytes. No policies."""
