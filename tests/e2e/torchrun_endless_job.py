"""A training under torchrun that goes on until Ctrl-C; a second start, with `once`, trains one epoch."""

from __future__ import annotations

import sys
import time

import torch.distributed as dist

from tests.e2e.training import make_loader, score


def main(shards: str, url: str, run: str, num_workers: str, once: str = "") -> None:
    dist.init_process_group("gloo")
    settings = {"if_exists": "restart"} if once else {}
    with make_loader(shards, url, run, 8, epochs=9999, num_workers=int(num_workers), **settings) as loader:
        for _ in loader.epochs():
            for numbers in loader:
                loader.update(score(numbers))
                time.sleep(0 if once else 0.002)  # the work of a step
            if once:
                break


if __name__ == "__main__":
    main(*sys.argv[1:])
