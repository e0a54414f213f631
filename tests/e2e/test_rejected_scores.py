"""Losses that are NaN or infinite are counted with the end of their epoch, on the server too."""

from __future__ import annotations

from infobatch_server.server import ScoreServer
from infobatch_stream import InfoBatchLoader, InfoBatchStreamDataset
from tests.e2e.conftest import SAMPLES


def test_the_end_of_an_epoch_says_how_many_losses_were_rejected(shards: str) -> None:
    with ScoreServer() as server:
        dataset = InfoBatchStreamDataset(shards, url=str(server.grpc_address), run="rejected", epochs=4)
        with InfoBatchLoader(dataset.map(lambda sample: int(sample["txt"])), 64) as loader:
            for epoch in loader.epochs():
                if epoch == 2:
                    break
                for numbers in loader:
                    losses = numbers.float() + 1
                    losses[numbers < 5 * epoch] = float("nan")
                    losses[numbers == 1000] = float("inf")
                    loader.update(losses)
            assert loader.flush(20)
            barrier = server.registry.runs()[0].core.barrier
            counts = [mark.counts for epoch in range(2) for mark in barrier.marks(epoch)]
            rejected = loader.metrics()["scores_rejected"]
    assert (counts[0].real, counts[0].non_finite) == (SAMPLES, 1)
    assert 1 <= counts[1].non_finite <= 6
    assert sum(count.non_finite for count in counts) == rejected
