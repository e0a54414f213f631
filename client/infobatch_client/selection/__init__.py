"""Which samples a run has: by a predicate over their small members, or by keys."""
