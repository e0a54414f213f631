"""One rank of `test_frameworks_ranks`: a plain DataLoader as it is, or prepared by Accelerate against all advice."""

from __future__ import annotations

import sys
from pathlib import Path

from accelerate import Accelerator
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[2]))

from infobatch_stream import InfoBatchStreamDataset
from tests.e2e.framework_task import make_model, squared_errors, to_row

url, shards, *ways = sys.argv[1:]
accelerator = Accelerator(cpu=True)
for way in ways:
    dataset = InfoBatchStreamDataset(shards, url=url, run=f"prepared-{way}", epochs=3, batch_size=32).map(to_row)
    loader = DataLoader(dataset, batch_size=32)
    if way == "prepared":
        loader = accelerator.prepare(loader)
    model = accelerator.prepare(make_model())
    for epoch in range(3):
        dataset.set_epoch(epoch)
        for rows, numbers, index, weight in loader:
            accelerator.backward(dataset.update(squared_errors(model(rows), numbers), index, weight))
    dataset.close()
    print(f"{way}: trained", flush=True)
accelerator.end_training()
