"""CLIP's loss compares the rows of a batch: the example's losses are those of a plain loop over the same pairs."""

from __future__ import annotations

import io
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from infobatch_stream import InfoBatchLoader, InfoBatchStreamDataset
from infobatch_stream.plan.epoch_plan import EpochPlan
from infobatch_stream.plan.order import PlanOrder
from tests.e2e.conftest import Server
from tests.shards import write_tar

pytestmark = pytest.mark.filterwarnings("ignore:the pipeline has dropped")  # on purpose

N, B = 103, 16
SIZES = [40, 1, 62]


@pytest.fixture(scope="module")
def example() -> Any:
    path = Path(__file__).parents[2] / "examples" / "clip" / "train.py"
    spec = spec_from_file_location("clip_train", path)  # another example has a train.py too
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["clip_train"] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def picture(number: int) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, "PNG")
        return Image.open(io.BytesIO(file.getvalue()))


def caption(number: int) -> str:
    """Every third pair has none, and so have so many in a row that a batch is left without a pair."""
    return "" if number % 3 == 1 else f"picture {number}"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder, first = tmp_path_factory.mktemp("pairs"), 0
    for shard, size in enumerate(SIZES):
        files = []
        for number in range(first, first + size):
            with io.BytesIO() as file:
                picture(number).save(file, "PNG")
                files += [(f"{number:05d}.jpg", file.getvalue()), (f"{number:05d}.txt", caption(number).encode())]
        write_tar(folder / f"{shard}.tar", files)
        first += size
    return str(folder)


def batches_of(plan: EpochPlan) -> list[list[int]]:
    """The pairs of every batch, by the plan alone."""
    order = PlanOrder(plan, np.cumsum([0, *SIZES])).samples(0, plan.kept).tolist()
    return [[n for n in order[at : at + B] if caption(n)] for at in range(0, len(order), B)]


def test_the_example_trains_as_a_plain_loop_over_the_same_pairs(server: Server, pairs: str, example: Any) -> None:
    torch.manual_seed(0)
    model, plain = example.Clip(), example.Clip()
    plain.load_state_dict(model.state_dict())
    plans: list[EpochPlan] = []
    loader = example.make_loader(pairs, B, url=server.url, run="clip", epochs=4, delta="0.75", seed=7)
    epochs = loader.epochs
    loader.epochs = lambda: (plans.append(loader.plan) or epoch for epoch in epochs())
    with loader:
        example.train(loader, model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert [plan.pruned > 0 for plan in plans] == [False, True, True, False]

    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    scores = np.full(N, np.nan, np.float32)
    for plan in plans:
        for batch in batches_of(plan):
            images = torch.stack([example.to_image(picture(n)) for n in batch])
            losses = example.clip_losses(plain(images, torch.stack([example.to_tokens(caption(n)) for n in batch])))
            scores[batch] = losses.detach().numpy()
            optimizer.zero_grad()
            ((torch.from_numpy(plan.weights(np.array(batch))) * losses).sum() / B).backward()
            optimizer.step()
    np.testing.assert_allclose(server.scores("clip"), scores, rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def perfect(numbers: torch.Tensor) -> torch.Tensor:
    """Logits of encoders that know every pair: each loss is 0 as long as no pair is there twice."""
    known = torch.nn.functional.one_hot(numbers, N).float()
    return 50 * known @ known.T


@pytest.mark.parametrize("way", ["compact", "masked", "filled"])
def test_with_perfect_encoders_every_score_is_0(way: str, server: Server, pairs: str, example: Any) -> None:
    dataset = InfoBatchStreamDataset(pairs, url=server.url, run=f"perfect-{way}", epochs=3)
    dataset = dataset.select(example.has_caption).map(lambda sample: int(sample["__key__"]))
    with InfoBatchLoader(dataset, B, compact=way == "compact") as loader:
        for numbers in loader:
            logits = perfect(numbers)
            losses = example.clip_losses(logits)
            if way == "masked":  # symmetric: one direction says it all
                logits = logits.masked_fill(~loader.valid(), torch.finfo(logits.dtype).min)
                losses = torch.nn.functional.cross_entropy(logits, torch.arange(B), reduction="none")
            loader.update(losses)
        loader.flush()
    scores = server.scores(f"perfect-{way}")
    scored = np.flatnonzero(np.isfinite(scores)).tolist()
    assert scored == [n for n in range(N) if caption(n)]
    wrong = int((scores[scored] > 1e-3).sum())
    assert (wrong > 0) == (way == "filled"), f"{wrong} of {len(scored)} pairs have seen a copy of themselves"
