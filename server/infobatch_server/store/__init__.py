"""Stores, which keep runs. No rules."""
