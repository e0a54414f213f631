"""Measures the cost of a plan: threshold and draw, as multiples of one pass that only computes the mean of the scores.

    python benchmarks/planning.py --samples 100000000
    python benchmarks/planning.py --json

Multiples are easier to compare between machines than seconds. The unit is `scores[block].mean(dtype=float64)` over
blocks of 2²⁰; the figures are medians of `--repeats` rounds, in one thread. The last column is the working memory: the
process's peak memory minus the score table and the finished plan, measured in a separate process.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from infobatch_stream.plan.order_params import OrderParams
from infobatch_stream.planner import draw_plan
from infobatch_stream.pruning.policies import make_policy
from infobatch_stream.pruning.threshold import mean_threshold
from infobatch_stream.run_spec import RunSpec
from infobatch_stream.scores.table import ScoreTable

UNIT_BLOCK = 2**20
SHARD_SAMPLES = 10_000
POLICIES: dict[str, tuple[str, dict[str, str]]] = {
    "threshold + Bernoulli draw": ("infobatch", {}),
    "threshold + exact draw": ("infobatch", {"draw": "exact"}),
    "prune_fraction=0.25": ("infobatch", {"prune_fraction": "0.25"}),
    "prune_fraction=0.6 (lowest scores)": ("infobatch", {"prune_fraction": "0.6"}),
    "levels 0.20:0.75,0.85:0.5": ("levels", {"levels": "0.20:0.75,0.85:0.5"}),
    "random": ("random", {}),
}


def make_table(num_samples: int) -> ScoreTable:
    """A score table in which one sample in 64 has no score."""
    table = ScoreTable(num_samples)
    random = np.random.default_rng(0)
    for start in range(0, num_samples, UNIT_BLOCK):
        block = table.score[start : start + UNIT_BLOCK]
        block[:] = random.standard_exponential(len(block), dtype=np.float32)
        block[::64] = np.nan
    return table


def make_spec(num_samples: int, policy: str, settings: dict[str, str]) -> RunSpec:
    """The spec of a run over shards of SHARD_SAMPLES samples."""
    full, rest = divmod(num_samples, SHARD_SAMPLES)
    sizes = np.array([SHARD_SAMPLES] * full + [rest] * (rest > 0), np.int64)
    return RunSpec(
        run="benchmark",
        manifest_fingerprint=bytes(32),
        shard_sizes=sizes,
        epochs=100,
        seed=0,
        policy=make_policy(policy, **settings),
        order=OrderParams(lanes=1, stripe=1024, window_shards=8),
    )


def median_s(call: Callable[[], object], repeats: int) -> float:
    """Median wall time of a call in seconds, after one call to warm up."""
    call()
    times = []
    for _ in range(repeats):
        start_s = time.perf_counter()
        call()
        times.append(time.perf_counter() - start_s)
    return statistics.median(times)


def unit(score: npt.NDArray[np.float32]) -> None:
    """The unit of the measurements: one pass that computes the mean."""
    for start in range(0, len(score), UNIT_BLOCK):
        score[start : start + UNIT_BLOCK].mean(dtype=np.float64)


def peak_bytes() -> int:
    """The peak memory of this process since it started this program, in bytes (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def working_bytes(num_samples: int, name: str) -> int:
    """The peak memory of drawing one plan, without the table and the plan, in bytes."""
    table = make_table(num_samples)
    spec = make_spec(num_samples, *POLICIES[name])
    peak_before = peak_bytes()
    plan = draw_plan(spec, table, run_id=bytes(16), generation=1, epoch=1)
    plan_bytes = plan.keep_bits.nbytes + (0 if plan.class_plane is None else plan.class_plane.nbytes)
    return max(0, peak_bytes() - peak_before - plan_bytes)


def measure(num_samples: int, repeats: int) -> dict[str, object]:
    """All figures, as plain values."""
    table = make_table(num_samples)
    mean_s = median_s(lambda: unit(table.score), repeats)
    rows: dict[str, dict[str, float]] = {
        "threshold": {"multiple": median_s(lambda: mean_threshold(table.score), repeats) / mean_s}
    }
    for name, (policy, settings) in POLICIES.items():
        spec = make_spec(num_samples, policy, settings)

        def draw(spec: RunSpec = spec) -> object:
            return draw_plan(spec, table, run_id=bytes(16), generation=1, epoch=1)

        rows[name] = {"multiple": median_s(draw, repeats) / mean_s}
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for name in POLICIES:
            rows[name]["working_mib"] = pool.apply(working_bytes, (num_samples, name)) / 2**20
    return {
        "samples": num_samples,
        "repeats": repeats,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "mean_ns_per_sample": mean_s / num_samples * 1e9,
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of a plan, as multiples of the mean of the scores.")
    parser.add_argument("--samples", type=int, default=10**7, help="N (default 10,000,000)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; the figures are their medians (default 5)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    if args.samples < UNIT_BLOCK:
        parser.error(f"--samples must be at least {UNIT_BLOCK}, one block of the unit; got {args.samples}")
    results = measure(args.samples, args.repeats)
    if args.json:
        print(json.dumps(results, indent=2))
        return
    print(f"N = {args.samples:,}; one mean = {results['mean_ns_per_sample']:.2f} ns a sample; numpy {results['numpy']}")
    print(f"{'':36}{'× mean':>8}{'working MiB':>14}")
    rows = results["rows"]
    assert isinstance(rows, dict)
    for name, row in rows.items():
        memory = f"{row['working_mib']:14.0f}" if "working_mib" in row else ""
        print(f"{name:36}{row['multiple']:8.1f}{memory}")


if __name__ == "__main__":
    main()
