"""A run that begins with another run's scores: they arrive, it prunes from epoch 0 on, and its draw is its own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from infobatch_client.rpc.client import ScoreClient
from infobatch_stream.v1 import score_service_pb2 as pb
from tests.e2e.conftest import SAMPLES, Server
from tests.e2e.training import make_loader, score, train_pass


def import_scores(server: Server, run: str, scores: np.ndarray) -> None:
    client = ScoreClient(server.url)

    def requests() -> Iterator[pb.SeedRunRequest]:
        yield pb.SeedRunRequest(run_id=server.info(run).run_id)
        yield pb.SeedRunRequest(scores=pb.SeedRunRequest.Scores(scores=scores.astype("<f4").tobytes()))

    client.seed_run(requests())
    client.close()


def test_a_run_that_begins_with_anothers_scores_prunes_from_its_first_epoch(server: Server, shards: str) -> None:
    plans = []
    with make_loader(shards, server.url, "first", 64) as loader:
        for epoch in loader.epochs():
            plans.append(loader.plan.keep_bits.copy())
            train_pass(loader)
            if epoch == 1:
                break
    scores = server.scores("first")
    np.testing.assert_array_equal(scores, score(torch.arange(SAMPLES)).numpy())
    low = scores < scores.mean()

    with make_loader(shards, server.url, "second", 64) as loader:
        next(loader.epochs())  # creates the run, and trains nothing
    import_scores(server, "second", scores)
    np.testing.assert_array_equal(server.scores("second"), scores)
    with make_loader(shards, server.url, "second", 64) as loader:
        assert next(loader.epochs()) == 0
        plan = loader.plan
        kept = np.unpackbits(plan.keep_bits, bitorder="little")[:SAMPLES].astype(bool)
        seen = train_pass(loader)
    assert sorted(seen) == np.flatnonzero(kept).tolist()
    assert kept[~low].all()
    assert 0.35 < kept[low].mean() < 0.65  # r = 0.5
    of_first = np.unpackbits(plans[1], bitorder="little")[:SAMPLES].astype(bool)
    assert 0.35 < (kept == of_first)[low].mean() < 0.65  # drawn independently
