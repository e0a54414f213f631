"""Arrays that an object gives out as copies, so that a caller who writes into one changes nothing of the object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

__all__ = ["GivesCopies"]


class GivesCopies:
    """A mix-in: an array among the attributes comes as a new copy at every look.

    A read-only view would not do: `torch.from_numpy` makes a tensor of it that can be written. The object's own code
    reads `vars(self)[name]`, which copies nothing.
    """

    if not TYPE_CHECKING:  # a type checker would take any name for an attribute

        def __getattribute__(self, name: str) -> Any:
            value = object.__getattribute__(self, name)
            return value.copy() if isinstance(value, np.ndarray) else value
