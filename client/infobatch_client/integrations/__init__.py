"""Loaders for training frameworks, one module each; a module imports its framework, the package imports none."""
