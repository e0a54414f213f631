"""Pipelines of text, boxes and arrays of different lengths, which a collate function makes into batches."""

from __future__ import annotations

import io
import json
from collections import UserDict
from typing import Any

import numpy as np
import torch
import webdataset as wds
from torch.nn.utils.rnn import pad_sequence

from tests.e2e.pipelines.images import laion_files
from tests.e2e.pipelines.pipeline import (
    Pipeline,
    as_json,
    as_tensor,
    has_both,
    image,
    image_number,
    log_and_continue,
)

__all__ = ["SEQUENCES"]


def interleaved_stages() -> list[Any]:
    """As OpenFlamingo has it, whose `.batched(n).map_tuple(images, texts)` becomes a collate function."""
    return [
        wds.select(has_both),
        wds.decode("pilrgb", handler=log_and_continue),
        wds.to_tuple("jpg;png;jpeg;webp", "txt", handler=log_and_continue),
    ]


def interleaved_batch(payloads: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    pictures, texts = zip(*payloads, strict=True)
    ids = pad_sequence([torch.tensor([ord(char) for char in text]) for text in texts], batch_first=True)
    return torch.stack([as_tensor(picture) for picture in pictures]), ids


def document_files(number: int) -> list[tuple[str, bytes]]:
    text = {"text": "word " * (1 + number % 30), "id": number}
    return [(f"doc/{number:05d}.jsonl", as_json(text) + b"\n"), (f"doc/{number:05d}.meta.json", b'{"src": "cc"}')]


def tokenized(sample: dict[str, Any]) -> dict[str, Any]:
    document = json.loads(sample["jsonl"])
    return {"input_ids": [document["id"] + 1, *[5] * len(document["text"].split())]}


def language_batch(payloads: list[Any]) -> dict[str, torch.Tensor]:
    ids = pad_sequence([torch.tensor(payload["input_ids"]) for payload in payloads], batch_first=True)
    return {"input_ids": ids, "labels": ids.masked_fill(ids == 0, -100)}


def chat_files(number: int) -> list[tuple[str, bytes]]:
    turns = [{"role": "user", "content": f"question {number}"}, {"role": "assistant", "content": "yes " * (number % 7)}]
    return [(f"{number:06d}.conversation.json", as_json({"id": number, "turns": turns}))]


def chat_stages() -> list[Any]:
    """Instruction tuning: a mask of the tokens that are answers; empty answers are dropped."""
    return [
        wds.rename_keys(chat="*conversation.json", keep_unselected=True),
        wds.map(lambda sample: json.loads(sample["chat"])),
        wds.map(masked_turns),
    ]


def masked_turns(chat: dict[str, Any]) -> tuple[int, list[int], list[int]] | None:
    ids = [len(word) for turn in chat["turns"] for word in turn["content"].split()]
    num_answered = len(chat["turns"][1]["content"].split())
    return (chat["id"], ids, [0] * (len(ids) - num_answered) + [1] * num_answered) if num_answered else None


class Encoding(UserDict[str, Any]):
    """A mapping that is no dict, as tokenizers of transformers give it."""


def chat_batch(payloads: list[Any]) -> Encoding:
    numbers, ids, masks = zip(*payloads, strict=True)
    padded = [pad_sequence([torch.tensor(row) for row in rows], batch_first=True) for rows in (ids, masks)]
    return Encoding(number=torch.tensor(numbers), input_ids=padded[0], loss_mask=padded[1])


def coco_files(number: int) -> list[tuple[str, bytes]]:
    boxes = [{"bbox": [j, j, 3, 4], "category_id": j, "iscrowd": 0} for j in range(number % 4)]
    facts = {"annotations": boxes, "image_id": number, "license": None}
    return [(f"{number:012d}.jpg", image(number)), (f"{number:012d}.json", as_json(facts))]


def target_of(pair: tuple[Any, dict[str, Any]]) -> tuple[torch.Tensor, dict[str, Any]]:
    picture, facts = pair
    boxes = torch.tensor([box["bbox"] for box in facts["annotations"]], dtype=torch.float32).reshape(-1, 4)
    labels = torch.tensor([box["category_id"] for box in facts["annotations"]], dtype=torch.int64)
    return as_tensor(picture), {"boxes": boxes, "labels": labels, "image_id": facts["image_id"]}


def detection_stages() -> list[Any]:
    return [wds.decode("pil"), wds.to_tuple("jpg", "json"), wds.map(target_of)]


def detection_batch(payloads: list[Any]) -> tuple[Any, ...]:
    return tuple(zip(*payloads, strict=True))


def arrays(**members: Any) -> bytes:
    with io.BytesIO() as stream:
        np.savez_compressed(stream, **members)
        return stream.getvalue()


def volume_files(number: int) -> list[tuple[str, bytes]]:
    """Dots in folders, and two members of one kind."""
    key = f"patient.{number % 7:02d}/series.3/vol_{number}"
    shape = (4, 4 + number % 3, 4)
    files = [
        (f"{key}.ct.npz", arrays(vol=np.full(shape, number, np.float16), spacing=np.array([1, 1, 2.5]))),
        (f"{key}.seg.npz", arrays(seg=np.full(shape, number % 2, np.uint8))),
    ]
    return files + ([(f"{key}.report.txt", "Befund über …".encode())] if number % 2 else [])


def padded_volumes(pair: tuple[Any, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    volume, mask = torch.from_numpy(pair[0]["vol"]).float(), torch.from_numpy(pair[1]["seg"]).long()
    space = (0, 0, 0, 6 - volume.shape[1])
    return torch.nn.functional.pad(volume, space), torch.nn.functional.pad(mask, space, value=-1)


def volume_stages() -> list[Any]:
    return [wds.decode(), wds.to_tuple("ct.npz", "seg.npz"), wds.map(padded_volumes)]


SEQUENCES = {
    "interleaved, batch by batch": Pipeline(
        files=laion_files,
        stages=interleaved_stages,
        numbers=lambda batch: image_number(batch[0]),
        collate_fn=interleaved_batch,
        kept=55,
    ),
    "documents, padded": Pipeline(
        files=document_files,
        stages=lambda: [wds.map(tokenized)],
        numbers=lambda batch: batch["input_ids"][:, 0] - 1,
        collate_fn=language_batch,
    ),
    "chats, with a mapping as batch": Pipeline(
        files=chat_files,
        stages=chat_stages,
        numbers=lambda batch: batch["number"],
        collate_fn=chat_batch,
        kept=54,
    ),
    "detection lists": Pipeline(
        files=coco_files,
        stages=detection_stages,
        numbers=lambda batch: torch.tensor([target["image_id"] for target in batch[1]]),
        collate_fn=detection_batch,
    ),
    "pairs of arrays, dotted folders": Pipeline(
        files=volume_files, stages=volume_stages, numbers=lambda batch: batch[0][:, 0, 0, 0].long()
    ),
}
