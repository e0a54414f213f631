"""A training on webdataset shards, as it is before infobatch-stream. The diff in README.md makes it prune.

The shards have images (`jpg`) and class numbers (`cls`).

    python examples/three_lines/train.py
"""

import numpy as np
import torch
import webdataset as wds
from torch.utils.data import DataLoader


def transform(image):
    return torch.from_numpy(np.asarray(image.resize((32, 32)), np.float32).transpose(2, 0, 1) / 255)


model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
criterion = torch.nn.CrossEntropyLoss(reduction="none")
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

dataset = wds.WebDataset("data/train-{0000..0049}.tar", shardshuffle=50).shuffle(1000)
dataset = dataset.decode("pil").to_tuple("jpg", "cls").map_tuple(transform, int)
loader = DataLoader(dataset, batch_size=128, num_workers=2)

for epoch in range(10):
    for images, labels in loader:
        losses = criterion(model(images), labels)
        loss = losses.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
