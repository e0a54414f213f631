"""What a seeded training sends, receives and reads, byte for byte: a change that isn't meant to change it, doesn't.

The golden file was made before the code was laid out in rooms. `python -m tests.e2e.test_seeded_run` makes it anew, for
a change that is meant to.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import secrets
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from infobatch_server.server import ScoreServer
from infobatch_stream import InfoBatchLoader, InfoBatchStreamDataset
from infobatch_stream.v1 import score_service_pb2 as pb
from tests.e2e.conftest import make_shards
from tests.e2e.dataset_arguments import dataset_arguments
from tests.e2e.recorder import Call, recorder

GOLDEN = Path(__file__).with_name("golden_seeded_run.json")
EPOCHS = 4
SETTINGS: dict[str, dict[str, Any]] = {
    "infobatch": {"prune_ratio": 0.5},
    "exact": {"prune_ratio": "0.3", "draw": "exact", "delta": "0.6"},
    "fraction": {"prune_fraction": 0.4},
    "random": {"policy": "random", "prune_ratio": 0.25},
    "hard": {"policy": "hard", "threshold": "quantile:0.3"},
    "hard_fraction": {"policy": "hard", "prune_fraction": 0.2, "condition": "high"},
    "levels": {"policy": "levels", "levels": [(0.20, 0.75), (0.85, 0.5)]},
    "full": {"policy": "full"},
    "unscaled": {"rescale": False, "anneal": False},
}


def scores_of(index: np.ndarray, epoch: int) -> torch.Tensor:
    spread = index.clip(0) * 2_654_435_761 % 1_000_003 / 1_000_003
    return torch.from_numpy((spread * (1 + index % 7) / (1 + epoch)).astype(np.float32))


def digest(*parts: object) -> str:
    return hashlib.sha256(b"".join(p if isinstance(p, bytes) else repr(p).encode() for p in parts)).hexdigest()


def train(dataset: InfoBatchStreamDataset) -> list[str]:
    """Trains with InfoBatchLoader; order and weights of each epoch."""
    orders = []
    with InfoBatchLoader(dataset, batch_size=32) as loader:
        for epoch in loader.epochs():
            rows: list[object] = []
            for ticket, _ in loader.ticketed():
                rows += [ticket.index.tolist(), ticket.weight.tolist()]
                loader.update(scores_of(ticket.index, epoch), batch=ticket)
            orders.append(digest(rows))
    return orders


def train_plainly(dataset: InfoBatchStreamDataset) -> list[str]:
    """Trains with torch's DataLoader; order and weights of each epoch."""
    orders = []
    with dataset:
        for epoch in range(EPOCHS):
            dataset.set_epoch(epoch)
            rows: list[object] = []
            for *_, index, weight in DataLoader(dataset, batch_size=32):
                rows += [index.tolist(), weight.tolist()]
                dataset.update(scores_of(index.numpy(), epoch), index, weight)
            orders.append(digest(rows))
    return orders


def on_the_wire(calls: Iterable[Call]) -> dict[str, str]:
    """A digest by rpc, of all that doesn't depend on time, process or host."""
    parts: dict[str, set[bytes]] = {}
    pushed: dict[int, list[np.ndarray]] = {}
    for rpc, sent, received in calls:
        if rpc == "PushScores":  # how many records a push holds depends on timing
            push = pb.PushScoresRequest.FromString(sent[0])
            records = np.empty(len(push.scores) // 4, [("index", "<i8"), ("score", "<f4")])
            records["index"], records["score"] = np.frombuffer(push.indices, "<i8"), np.frombuffer(push.scores, "<f4")
            pushed.setdefault(push.epoch, []).append(records)
        if lasting := without_passing(rpc, sent, received):
            parts.setdefault(rpc, set()).add(b"\0".join(lasting))
    for epoch, records in pushed.items():
        parts["PushScores"].add(epoch.to_bytes(8, "big") + np.sort(np.concatenate(records), order="index").tobytes())
    return {rpc: digest(*sorted(content)) for rpc, content in sorted(parts.items())}


def without_passing(rpc: str, sent: list[bytes], received: list[bytes]) -> list[bytes]:
    """A call's messages without the fields that differ from run to run; none if nothing is left of it."""
    if rpc == "PushScores":
        return [cleared(pb.PushScoresRequest, sent[0], "client_id", "sequence", "indices", "scores")]
    if rpc == "AttachRun":
        return [cleared(pb.AttachRunRequest, sent[0], "job", "nonce", "host", "pid"), *received]
    if rpc == "EndEpoch":
        return [cleared(pb.EndEpochRequest, sent[0], "plan_id"), *received]
    if rpc == "GetEpochPlan":
        header = pb.GetEpochPlanResponse.FromString(received[0]).header
        if not header.num_samples:
            return []  # not ready
        # The position in the journal is the number of pushes, and the plan's name follows from it.
        plain = cleared(pb.PlanHeader, header.SerializeToString(), "journal_position", "plan_id", "digest")
        return [*sent, plain, *received[1:]]
    return [] if rpc in ("GetServer", "Heartbeat") else [*sent, *received]


def cleared(kind: Any, data: bytes, *names: str) -> bytes:
    message = kind.FromString(data)
    for name in names:
        message.ClearField(name)
    return bytes(message.SerializeToString(deterministic=True))


def record(name: str, shards: str) -> dict[str, Any]:
    """One training, from the first call to the last."""
    with ScoreServer() as server, recorder(str(server.grpc_address)) as between:
        plain = name == "plain"
        dataset = InfoBatchStreamDataset(
            shards,
            url=between.address,
            run=name,
            epochs=EPOCHS,
            seed=7,
            batch_size=32 if plain else None,
            **dataset_arguments(**SETTINGS.get(name, {})),
        )
        dataset = dataset.decode().to_tuple("txt", "cls")
        orders = train_plainly(dataset) if plain else train(dataset)
        return {"orders": orders, "wire": on_the_wire(between.calls)}


def count_random_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run ids are counted up, as plan ids hold them."""
    numbers = itertools.count(1)
    genuine = os.urandom
    monkeypatch.setattr(os, "urandom", lambda n: next(numbers).to_bytes(16, "big") if n == 16 else genuine(n))
    monkeypatch.setattr(secrets, "token_bytes", lambda n: bytes(n))


@pytest.mark.filterwarnings("ignore:policy 'infobatch' never anneals", "ignore:epoch . low", "ignore:.*scored samples")
@pytest.mark.parametrize("name", [*SETTINGS, "plain"])
def test_a_seeded_run_is_what_it_was(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count_random_bytes(monkeypatch)
    assert record(name, str(make_shards(tmp_path, [100, 1, 307, 250, 351]))) == json.loads(GOLDEN.read_text())[name]


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        answers = {}
        make_shards(Path(folder), [100, 1, 307, 250, 351])
        for setting in [*SETTINGS, "plain"]:
            count_random_bytes(patch)
            answers[setting] = record(setting, folder)
        GOLDEN.write_text(json.dumps(answers, indent=1) + "\n")
