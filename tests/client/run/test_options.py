"""A run's options are checked when the dataset is made."""

from __future__ import annotations

from typing import Any

import pytest

from infobatch_stream import ConfigError, Timeouts


@pytest.mark.parametrize("seconds", ["5", None, True, float("nan")])
@pytest.mark.parametrize("name", ["connect_timeout_s", "flush_timeout_s", "agree_timeout_s"])
def test_a_time_out_is_a_number_of_seconds(name: str, seconds: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be a number of seconds, got"):
        Timeouts(**{name: seconds})
