"""Schedules over progress: their shapes, and that epochs of any length end up at the same rates."""

from __future__ import annotations

import pytest
import torch

from infobatch_client.progress_lr import ProgressLR, cosine, one_cycle
from infobatch_stream.errors import ConfigError


class Progress:
    """Stands in for a loader: says what it is told to."""

    def __init__(self, num_epochs: float, done: float = 0.0) -> None:
        self.num_epochs = num_epochs
        self.done = done

    def progress(self) -> float:
        return self.done


def sgd(*rates: float) -> torch.optim.SGD:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
    return torch.optim.SGD(groups, lr=1.0)


def test_construction_sets_the_rate_of_the_present_progress() -> None:
    optimizer = sgd(0.8)
    ProgressLR(optimizer, cosine(), Progress(10, done=5.0))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.4)


def test_every_group_keeps_its_own_scale() -> None:
    loader = Progress(4)
    schedule = ProgressLR(sgd(1.0, 0.01), lambda done: 1.0 - done, loader)
    loader.done = 3.0
    schedule.step()
    assert schedule.get_last_lr() == pytest.approx([0.25, 0.0025])


@pytest.mark.parametrize("steps_per_epoch", [[100, 100, 100], [100, 41, 73]])
def test_epochs_of_any_length_begin_at_the_unpruned_rate(
    steps_per_epoch: list[int],
) -> None:
    loader = Progress(3)
    schedule = ProgressLR(sgd(1.0), one_cycle(), loader)
    first_rates = []
    for epoch, steps in enumerate(steps_per_epoch):
        first_rates.append(schedule.get_last_lr()[0])
        for step in range(steps):
            loader.done = epoch + (step + 1) / steps
            schedule.step()
    assert first_rates == [one_cycle()(epoch / 3) for epoch in range(3)]


def test_progress_beyond_the_end_keeps_the_last_rate() -> None:
    schedule = ProgressLR(sgd(1.0), cosine(final=0.1), Progress(2, done=2.5))
    assert schedule.get_last_lr() == pytest.approx([0.1])


def test_one_cycle_has_the_shape_of_torchs() -> None:
    steps = 2000
    optimizer = sgd(1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.4, total_steps=steps, pct_start=0.3, div_factor=25, final_div_factor=1e4
    )
    theirs = []
    for _ in range(steps):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step() if len(theirs) < steps else None
    ours = [0.4 * one_cycle()(step / (steps - 1)) for step in range(steps)]
    assert max(ours) == pytest.approx(max(theirs), rel=1e-5)
    assert min(ours) == pytest.approx(min(theirs), rel=1e-5)
    assert ours[0] == pytest.approx(theirs[0])
    assert ours == pytest.approx(theirs, abs=0.4 * 3 / steps)


def test_cosine_warms_up_and_ends_where_it_was_told() -> None:
    factor = cosine(warmup=0.1, final=0.05)
    assert factor(0.0) == 0.0
    assert factor(0.05) == pytest.approx(0.5)
    assert factor(0.1) == pytest.approx(1.0)
    assert factor(1.0) == pytest.approx(0.05)
    assert factor(0.55) == pytest.approx((1.0 + 0.05) / 2)


def test_a_restored_schedule_goes_on_at_the_same_rates() -> None:
    loader = Progress(10, done=4.2)
    saved = ProgressLR(sgd(0.3, 0.7), one_cycle(), loader)
    restored = ProgressLR(sgd(9.0, 9.0), one_cycle(), loader)
    restored.load_state_dict(saved.state_dict())
    assert restored.get_last_lr() == saved.get_last_lr()
    loader.done = 4.3
    saved.step()
    restored.step()
    assert restored.get_last_lr() == saved.get_last_lr()


def test_restored_rates_do_not_need_the_loaders_progress() -> None:
    saved = ProgressLR(sgd(0.3), one_cycle(), Progress(10, done=4.2))
    restored = ProgressLR(sgd(0.3), one_cycle(), Progress(10, done=4.0))
    restored.load_state_dict(saved.state_dict())
    assert restored.get_last_lr() == saved.get_last_lr()


def test_a_second_schedule_on_an_optimizer_starts_from_the_initial_rates() -> None:
    optimizer = sgd(0.5)
    first = ProgressLR(optimizer, cosine(), Progress(10, done=6.0))
    second = ProgressLR(optimizer, cosine(), Progress(10, done=6.0))
    assert second.get_last_lr() == first.get_last_lr()


def test_a_state_of_other_groups_is_refused() -> None:
    state = ProgressLR(sgd(1.0), cosine(), Progress(1)).state_dict()
    with pytest.raises(ConfigError, match="1 parameter groups and the optimizer 2"):
        ProgressLR(sgd(1.0, 1.0), cosine(), Progress(1)).load_state_dict(state)


@pytest.mark.parametrize(
    "make",
    [
        lambda: one_cycle(pct_start=0.0),
        lambda: one_cycle(pct_start=1.0),
        lambda: one_cycle(div_factor=0.0),
        lambda: one_cycle(final_div_factor=-1.0),
        lambda: cosine(warmup=1.0),
        lambda: cosine(final=-0.1),
        lambda: ProgressLR(sgd(1.0), cosine(), Progress(0)),
    ],
)
def test_what_cannot_be_meant_is_refused(make: object) -> None:
    with pytest.raises(ConfigError):
        make()  # type: ignore[operator]
