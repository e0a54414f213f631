"""Where runs are kept. No rules."""
