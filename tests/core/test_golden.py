"""Known answers for the draw, the threshold and the order: bits that no refactoring and no numpy may change."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from infobatch_stream.philox import Stream, WordStream
from infobatch_stream.plan.order import PlanOrder
from infobatch_stream.planner import draw_plan
from tests.core.worlds import make_spec, make_table

ANSWERS = json.loads(Path(__file__).with_name("golden_draw_and_order.json").read_text())
PLANS = ANSWERS["plans"]


def scores_of(answer):
    if isinstance(answer["scores"], list):
        return np.array([np.nan if score is None else score for score in answer["scores"]], np.float32)
    # The formula that stands in place of the list: words under key (99, 0).
    words = WordStream(seed=99, epoch=0, generation=0, stream=Stream.DRAW).words(0, sum(answer["shard_sizes"]))
    return np.where(words % 16 == 0, np.nan, ((words >> 40) + 1) / 2**20).astype(np.float32)


def plan_of(answer, draw):
    k = answer["keep_65536"]
    ratio = f"{(65536 - k) / 65536:.16f}".rstrip("0").rstrip(".")
    spec = make_spec(
        answer["shard_sizes"],
        prune_ratio=ratio,
        draw=draw,
        seed=answer["seed"],
        order={name: answer[name] for name in ("lanes", "stripe", "window_shards", "run_samples")},
    )
    assert spec.policy.derived_params(spec.num_samples)["keep_65536"] == k
    return spec, draw_plan(
        spec,
        make_table(scores_of(answer)),
        run_id=bytes(16),
        generation=answer["generation"],
        epoch=answer["epoch"],
    )


def digest(values):
    return hashlib.sha256(np.asarray(values).astype("<i8").tobytes()).hexdigest()


@pytest.mark.parametrize("answer", ANSWERS["draws"], ids=lambda answer: f"sample {answer['index']}")
def test_a_lane_is_sixteen_bits_of_the_word_of_four_samples(answer):
    stream = WordStream(answer["seed"], answer["epoch"], answer["generation"], Stream(answer["stream"]))
    index = answer["index"]
    assert stream.lanes(index, index + 1).tolist() == [answer["lane"]]
    (word,) = stream.words(index // 4, index // 4 + 1).tolist()
    assert word >> 16 * (index % 4) & 0xFFFF == answer["lane"]


@pytest.mark.parametrize("answer", ANSWERS["draws"], ids=lambda answer: f"word {answer['index']}")
def test_any_word_is_had_without_those_before_it(answer):
    stream = WordStream(answer["seed"], answer["epoch"], answer["generation"], Stream(answer["stream"]))
    index = answer["index"]
    assert stream.words(index, index + 1).tolist() == [answer["word"]]
    assert stream.words_at(np.array([index])).tolist() == [answer["word"]]


@pytest.mark.parametrize("answer", PLANS, ids=range(len(PLANS)))
def test_threshold_and_bernoulli_draw(answer):
    _, plan = plan_of(answer, "bernoulli")
    kept = plan.kept_between(0, plan.num_samples)
    assert plan.threshold == np.float32(answer["threshold"])
    assert plan.classes[1].size == answer["low"]
    assert plan.kept == len(kept) == answer["kept"]
    assert digest(kept) == answer["kept_sha256"]


@pytest.mark.parametrize("answer", PLANS, ids=range(len(PLANS)))
def test_exact_draw(answer):
    _, plan = plan_of(answer, "exact")
    kept = plan.kept_between(0, plan.num_samples)
    assert plan.kept == len(kept) == answer["kept_exact"]
    assert digest(kept) == answer["kept_exact_sha256"]


@pytest.mark.parametrize("answer", PLANS, ids=range(len(PLANS)))
def test_order_of_the_bernoulli_plan(answer):
    spec, plan = plan_of(answer, "bernoulli")
    offsets = np.r_[0, np.cumsum(spec.shard_sizes)]
    order = PlanOrder(plan, offsets).samples(0, plan.kept)
    assert order[: len(answer["order_first"])].tolist() == answer["order_first"]
    assert digest(order) == answer["order_sha256"]


def test_one_answer_is_decided_by_the_tie_break():
    answer = next(answer for answer in PLANS if answer["tie_break_decides"])
    _, plan = plan_of(answer, "exact")
    low = np.flatnonzero(plan.codes(np.arange(plan.num_samples)) == 1)
    lanes = WordStream(answer["seed"], answer["epoch"], answer["generation"], Stream.DRAW).lanes(0, plan.num_samples)
    kept = np.isin(low, plan.kept_between(0, plan.num_samples))
    assert lanes[low][kept].max() == lanes[low][~kept].min()
