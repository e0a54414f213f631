"""The demo's table shows the results of both trainings."""

from __future__ import annotations

from types import SimpleNamespace

from infobatch_client.demo.table import side_by_side


def outcome(errors: int, pruned_shares: list[float], wall_s: float, ranks: int = 1) -> SimpleNamespace:
    trained = round(sum(1000 * (1 - share) for share in pruned_shares))
    return SimpleNamespace(
        test_errors=errors,
        num_test=450,
        samples_trained=trained,
        samples_by_rank=[trained // ranks] * ranks,
        pruned_shares=pruned_shares,
        wall_s=wall_s,
    )


def test_both_trainings_are_side_by_side() -> None:
    full = outcome(5, [0.0] * 8, 12.34)
    pruned = outcome(6, [0.0, 0.25, 0.4, 0.4, 0.4, 0.4, 0.4, 0.0], 9.87)
    assert side_by_side(full, pruned, "pruned").splitlines() == [  # type: ignore[arg-type]
        "                        full data                pruned",
        "----------------------  -----------------------  -----------------------",
        "ranks                   1                        1",
        "test accuracy           98.89% (5 of 450 wrong)  98.67% (6 of 450 wrong)",
        "samples trained         8,000                    5,750 (28.1% fewer)",
        "wall time, training     12.3 s                   9.9 s",
        "% pruned, epoch 0 to 5   0  0  0  0  0  0         0 25 40 40 40 40",
        "% pruned, epoch 6 to 7   0  0                    40  0",
    ]


def test_each_rank_has_a_row() -> None:
    table = side_by_side(outcome(5, [0.0], 1.0, ranks=2), outcome(6, [0.5], 1.0, ranks=2), "pruned")  # type: ignore[arg-type]
    rows = [line.split() for line in table.splitlines()]
    assert ["ranks", "2", "2"] in rows
    assert ["by", "rank", "0", "500", "250"] in rows
    assert ["by", "rank", "1", "500", "250"] in rows
