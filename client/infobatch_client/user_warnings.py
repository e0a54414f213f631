"""The user's line, at which warnings are given: the nearest one outside of these packages."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

__all__ = ["users_line", "warn_user"]

_OURS = ("infobatch_client.", "infobatch_stream.")


def warn_user(text: str) -> None:
    """Warns at the line of the user's program from which this package was called."""
    warnings.warn(text, stacklevel=_users_frame()[0])


def users_line() -> str:
    """The file and line of the user's program from which this package was called."""
    frame = _users_frame()[1]
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _users_frame() -> tuple[int, FrameType]:
    """The frame, and its level for the function that calls this one."""
    level, frame = 0, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_OURS):
        level, frame = level + 1, frame.f_back
    return level, frame
