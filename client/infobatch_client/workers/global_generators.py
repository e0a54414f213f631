"""The states of the generators that user code draws from: torch's CPU generator, numpy's global one, and `random`'s."""

from __future__ import annotations

import ctypes
import random
from typing import Any, NamedTuple

import numpy as np
import torch

__all__ = ["GlobalStates", "numpy_can_be_seeded", "restore", "save"]

_numpy: Any = np.random  # numpy's stubs leave get_bit_generator out
_WORDS = 624
_STATE_BYTES = 4 * (_WORDS + 1)  # of MT19937: its words, and the position in them


class _NumpyState(NamedTuple):
    """The state of numpy's global generator.

    Args:
        generator: the bit generator itself.
        words: its words and its position, as it keeps them in memory.
        normal: the second half of a pair of normal variates that is still to be returned, or None.
    """

    generator: Any
    words: bytes
    normal: float | None


GlobalStates = tuple[torch.Tensor, "_NumpyState | dict[str, Any] | None", tuple[Any, ...]]
"""Of torch, numpy and `random`; None for a generator of numpy's that can't be seeded."""


def numpy_can_be_seeded() -> bool:
    """Whether numpy's global generator is its usual one: another (`np.random.set_bit_generator`) takes no seed."""
    return isinstance(_numpy.get_bit_generator(), np.random.MT19937)


def save() -> GlobalStates:
    """The present states."""
    of_numpy = _numpy_state() if numpy_can_be_seeded() else None
    return torch.default_generator.get_state(), of_numpy, random.getstate()


def restore(states: GlobalStates) -> None:
    """Sets all three as they were."""
    for_torch, for_numpy, for_random = states
    torch.default_generator.set_state(for_torch)
    if isinstance(for_numpy, _NumpyState):
        _set_numpy_state(for_numpy)
    elif for_numpy is not None:
        np.random.set_state(for_numpy)
    random.setstate(for_random)


def _numpy_state() -> _NumpyState | dict[str, Any]:
    """As `np.random.get_state` (24 µs), by a copy of the memory (2 µs).

    Whether a normal variate is pending shows in whether the next one changes the words.
    """
    if not _LAYOUT_IS_KNOWN:
        return dict(np.random.get_state(legacy=False))
    generator = _numpy.get_bit_generator()
    address = generator.ctypes.state_address
    words = ctypes.string_at(address, _STATE_BYTES)
    normal = np.random.standard_normal()
    pending = ctypes.string_at(address, _STATE_BYTES) == words
    state = _NumpyState(generator, words, normal if pending else None)
    _set_numpy_state(state)
    return state


def _set_numpy_state(state: _NumpyState) -> None:
    ctypes.memmove(state.generator.ctypes.state_address, state.words, _STATE_BYTES)
    _numpy.set_bit_generator(state.generator)  # drops a pending normal variate
    if state.normal is not None:
        words = np.frombuffer(state.words, np.uint32)
        np.random.set_state(("MT19937", words[:_WORDS], int(words[_WORDS]), 1, state.normal))


def _layout_is_known() -> bool:
    """Whether MT19937 keeps its state as this module takes it to."""
    generator: Any = np.random.MT19937(5)
    state = generator.state["state"]
    words = np.append(state["key"], np.uint32(state["pos"])).astype(np.uint32)
    return ctypes.string_at(generator.ctypes.state_address, _STATE_BYTES) == words.tobytes()


_LAYOUT_IS_KNOWN = _layout_is_known()
