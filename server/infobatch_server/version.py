"""The server's version: that of the installed distribution."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["server_version"]


def server_version() -> str:
    """The version; "0+source" where the code runs without having been installed."""
    try:
        return version("infobatch-stream")
    except PackageNotFoundError:
        return "0+source"
