"""Warnings at the user's line: the nearest one outside of this package."""

from __future__ import annotations

import sys
import warnings

__all__ = ["warn_user"]


def warn_user(text: str) -> None:
    """Warns at the line of the user's program from which this package was called."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("infobatch_client."):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)
