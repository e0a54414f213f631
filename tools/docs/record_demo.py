"""Trains the demo's network once more and writes down what the README's picture shows.

    python tools/docs/record_demo.py          # writes tools/docs/demo_scores.csv and demo_epochs.csv

The training is that of `infobatch demo`: the same shards, network, seed and settings. It needs the `demo` extra.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from infobatch_client.demo.model import make_model
from infobatch_client.demo.shards import make_shards
from infobatch_client.demo.training import BATCH_SIZE, PEAK_LR, to_tensor
from infobatch_stream import InfoBatchLoader, InfoBatchStreamDataset, ProgressLR, one_cycle

HERE = Path(__file__).parent
EPOCHS = 30
SHOWN_EPOCH = 6
"""The epoch whose scores are drawn."""


def main(shown: int) -> None:
    """Trains, and writes both files."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        shards = make_shards(Path(temporary))
        dataset = InfoBatchStreamDataset(shards.train, epochs=EPOCHS, run="record", state_dir=Path(temporary) / "state")
        dataset = dataset.decode("pil").to_tuple("png", "cls").map_tuple(to_tensor, int)
        model = make_model(0)
        optimizer = torch.optim.SGD(model.parameters(), lr=PEAK_LR, momentum=0.9, nesterov=True, weight_decay=5e-4)
        criterion = nn.CrossEntropyLoss(reduction="none")
        scores = np.full(shards.num_train, np.nan, np.float32)
        epochs: list[tuple[int, int, int]] = []
        with InfoBatchLoader(dataset, batch_size=BATCH_SIZE) as loader:
            schedule = ProgressLR(optimizer, one_cycle(), loader)
            for epoch in loader.epochs():
                epochs.append((epoch, loader.plan.kept, loader.plan.pruned))
                if epoch == shown:
                    _write_scores(scores, loader)
                for ticket, (images, labels) in loader.ticketed():
                    losses = criterion(model(images), labels)
                    loss = loader.update(losses, batch=ticket)
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    schedule.step()
                    real = ticket.weight > 0
                    scores[ticket.index[real]] = losses.detach().float().numpy()[real]
    with open(HERE / "demo_epochs.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([("epoch", "kept", "pruned"), *epochs])


def _write_scores(scores: np.ndarray, loader: InfoBatchLoader) -> None:
    kept = np.zeros(len(scores), bool)
    kept[loader.plan.kept_between(0, len(scores))] = True
    with open(HERE / "demo_scores.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("score", "kept"))
        writer.writerows((f"{score:.5g}", int(flag)) for score, flag in zip(scores, kept, strict=True))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epoch", type=int, default=SHOWN_EPOCH, help="whose scores to write (default: %(default)s)")
    main(parser.parse_args().epoch)
