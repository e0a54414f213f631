"""Lets the API reference show a docstring's `Example:` as code, as it does `Examples:`, the word of Google's style."""

from __future__ import annotations

import re
from typing import Any

import griffe

_SECTION = re.compile(r"^( *)Example:$", re.MULTILINE)


class Examples(griffe.Extension):
    """Renames the section as the modules are loaded."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called with each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = _SECTION.sub(r"\1Examples:", obj.docstring.value)
