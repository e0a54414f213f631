"""The push window, compared with a set of all sequence numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infobatch_server.runs.push_window import WINDOW, PushWindow
from infobatch_stream.errors import ConfigError


@given(st.lists(st.integers(1, 100), max_size=200))
def test_a_push_within_the_window_is_stored_exactly_once(sequences: list[int]) -> None:
    window, stored = PushWindow(), set[int]()
    for sequence in sequences:
        if sequence <= max(stored, default=0) - WINDOW:
            with pytest.raises(ConfigError, match=f"push {sequence} is .* only the last 32 are known"):
                window.is_stored(sequence)
            continue
        assert window.is_stored(sequence) == (sequence in stored)
        window.begin(sequence)
        window.end(sequence, stored=True)
        stored.add(sequence)


def test_a_failed_push_may_be_sent_again() -> None:
    window = PushWindow()
    window.begin(1)
    assert window.is_pending(1)
    window.end(1, stored=False)
    assert not window.is_pending(1)
    assert not window.is_stored(1)


def test_a_jump_over_the_window_clears_the_bits_before() -> None:
    window = PushWindow()
    window.end(1, stored=True)
    window.end(10**12, stored=True)
    assert not window.is_stored(10**12 - 1)
    with pytest.raises(ConfigError, match="32 behind push 1000000000000"):
        window.is_stored(10**12 - WINDOW)
