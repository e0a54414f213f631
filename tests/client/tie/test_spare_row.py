"""A row to fill up with is found where there is one, and who dropped them all is named where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from webdataset import filters

from infobatch_client.tie.spare_row import MAX_MISSES, spare_row
from infobatch_stream.errors import PipelineError


def samples() -> Iterator[dict[str, Any]]:
    number = 0
    while True:
        yield {"__key__": f"k{number}", "num": number}
        number += 1


def at_least_five(sample: dict[str, Any]) -> int:
    if sample["num"] < 5:
        raise ValueError("too small")
    return int(sample["num"])


def test_the_first_that_comes_out() -> None:
    assert spare_row([filters.select(lambda s: s["num"] > 7), filters.map(lambda s: s["num"])], samples()) == 8


def test_a_sample_on_which_a_stage_raises_is_passed_over_where_errors_are_skipped() -> None:
    assert spare_row([filters.map(at_least_five)], samples(), skip_errors=True) == 5
    with pytest.raises(ValueError, match="too small"):
        spare_row([filters.map(at_least_five)], samples())


def test_a_stage_that_drops_all_is_named() -> None:
    def never(sample: dict[str, Any]) -> bool:
        return False

    with pytest.raises(PipelineError, match=rf"first {MAX_MISSES} samples of the epoch gave none: select\(never\)"):
        spare_row([filters.map(lambda s: s), filters.select(never)], samples())


def test_a_stage_that_raises_before_it_takes_a_sample_does_not_go_on_for_ever() -> None:
    def broken(source: Iterator[Any]) -> Iterator[Any]:
        raise ValueError("broken")
        yield

    with pytest.raises(ValueError, match="broken"):
        spare_row([broken], samples(), skip_errors=True)
