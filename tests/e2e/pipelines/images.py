"""Pipelines of images: with captions, classes, filters, crops, masks and embeddings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset as wds

from tests.e2e.pipelines.pipeline import (
    Pipeline,
    as_json,
    as_tensor,
    has_both,
    image,
    image_number,
    log_and_continue,
    opened,
)

__all__ = ["IMAGES"]

FORMATS = [("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP"), ("jpeg", "JPEG")]


def laion_files(number: int) -> list[tuple[str, bytes]]:
    """Four kinds of images, some of them broken; some captions are missing or empty; numbers as text in a json."""
    extension, format = FORMATS[number % 4]
    files = [(f"{number:08d}.{extension}", image(number, format) if number % 17 != 5 else b"<html>gone</html>")]
    if number % 13 != 4:
        files.append((f"{number:08d}.txt", f"caption {number}".encode() if number % 19 != 6 else b"  "))
    facts = {"width": 100 * (number % 7), "pwatermark": (number % 10) / 10}
    return [*files, (f"{number:08d}.json", as_json(facts))]


def tokens(text: bytes | str) -> torch.Tensor:
    codes = list(text if isinstance(text, bytes) else text.encode())[:16]
    return torch.tensor(codes + [0] * (16 - len(codes)))


def not_empty(sample: dict[str, Any]) -> bool:
    return bool(sample["text"].strip())


def image_text_stages() -> list[Any]:
    """As open_clip has it."""
    return [
        wds.select(has_both),
        wds.rename(image="jpg;png;jpeg;webp", text="txt", keep=False),
        wds.select(not_empty),
        wds.map_dict(text=tokens),
        wds.map_dict(image=opened, handler=log_and_continue),
        wds.map_dict(image=as_tensor),
        wds.to_tuple("image", "text"),
    ]


def imagenet_files(number: int) -> list[tuple[str, bytes]]:
    key = f"n{number % 5:08d}_{number}"
    label = number % 5 - (6 if number % 9 == 0 else 0)
    return [(f"{key}.png", image(number, "PNG")), (f"{key}.json", as_json({"label": label, "filename": key}))]


def labelled(sample: dict[str, Any], image_key: str, target_key: str) -> dict[str, Any] | None:
    target = json.loads(sample["json"])[target_key]
    if target < 0:
        return None
    return {"jpg": opened(wds.getfirst(sample, image_key)), "target": target}


def image_and_target(sample: dict[str, Any]) -> tuple[torch.Tensor, int]:
    return as_tensor(sample["image"]), sample["target"]


def classification_stages() -> list[Any]:
    """As timm has it: the label is in a json, and a negative one drops the sample."""
    decode = partial(labelled, image_key="jpg;png;webp", target_key="label")
    return [
        wds.map(decode, handler=log_and_continue),
        wds.rename(image="jpg;png;webp", target="target"),
        wds.map(image_and_target),
    ]


class SizeAndWatermark:
    """As diffusers' text-to-image scripts have it."""

    def __init__(self, min_size: int, max_pwatermark: float) -> None:
        self.min_size, self.max_pwatermark = min_size, max_pwatermark

    def __call__(self, sample: dict[str, Any]) -> bool:
        facts = json.loads(sample["json"])
        return (facts.get("width") or 0) >= self.min_size and (facts.get("pwatermark") or 1.0) <= self.max_pwatermark


def cropped(sample: dict[str, Any]) -> dict[str, Any]:
    return {"image": as_tensor(sample["image"]), "text": sample["text"], "crop": torch.tensor([0, 0])}


def filtered_stages() -> list[Any]:
    return [
        wds.select(SizeAndWatermark(400, 0.5)),
        wds.select(has_both),
        wds.decode("pil", handler=log_and_continue),
        wds.rename(image="jpg;png;jpeg;webp", text="txt", handler=log_and_continue),
        wds.map(cropped, handler=log_and_continue),
    ]


def upper_case_files(number: int) -> list[tuple[str, bytes]]:
    key = f"img{number:08d}"
    return [
        (f"{key}.PNG", image(number, "PNG")),
        (f"{key}.CLS", str(number % 10).encode()),
        (f"{key}.META.JSON", as_json({"label": [1, number % 2]})),
    ]


def one_hot(label: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(int(label)), 10)


def upper_case_stages() -> list[Any]:
    return [
        wds.decode("pil"),
        wds.to_tuple("png;jpg", "cls", "__key__", "meta.json"),
        wds.map_tuple(as_tensor, one_hot, str, lambda meta: meta["label"]),
    ]


def crops(picture: Any) -> list[torch.Tensor]:
    """Two views of the whole and two of halves: lists, as DINO has them."""
    whole = as_tensor(picture)
    return [whole, whole.flip(2), whole[:, :4], whole[:, 4:]]


def multi_crop_stages() -> list[Any]:
    return [wds.decode("pil"), wds.to_tuple("png", "cls"), wds.map_tuple(crops, int)]


def dalle_files(number: int) -> list[tuple[str, bytes]]:
    return [(f"{number:09d}.jpg", image(number)), (f"{number:09d}.txt", b"a caption")]


def embeddings_inserted(samples: Iterator[Any], dim: int, handler: Any = wds.reraise_exception) -> Iterator[Any]:
    """A table of embeddings for each shard, made when its first sample comes, as DALLE2's loader reads an .npy."""
    shard, table = None, np.zeros((0, dim))
    for sample in samples:
        try:
            if Path(sample["__url__"]).stem != shard:
                shard = Path(sample["__url__"]).stem
                table = np.random.default_rng(int(shard)).random((100, dim), np.float32)
            sample["npy"] = table[int(sample["__key__"][-4:])]
            yield sample
        except Exception as error:
            if handler(error):
                continue
            break


def keys_verified(samples: Iterator[Any], required: tuple[str, ...] = ("jpg", "npy")) -> Iterator[Any]:
    for sample in samples:
        if any(key not in sample for key in required):
            continue
        yield {key: sample[key] for key in required}


def embedding_stages() -> list[Any]:
    return [
        wds.decode("pilrgb"),
        wds.pipelinefilter(embeddings_inserted)(dim=4, handler=log_and_continue),
        wds.pipelinefilter(keys_verified)(),
        wds.to_tuple("jpg", "npy"),
        wds.map_tuple(as_tensor, torch.from_numpy),
    ]


def mask_files(number: int) -> list[tuple[str, bytes]]:
    key = f"aachen/aachen_{number:06d}_000019_leftImg8bit"
    files = [(f"{key}.png", image(number, "PNG"))]
    return files + ([(f"{key}.seg.png", image(number % 3, "PNG", size=4))] if number % 5 else [])


def mask_of(member: Any) -> torch.Tensor:
    """Class numbers (4, 4); −1 where there is no mask."""
    if member is None:
        return torch.full((4, 4), -1)
    return (torch.from_numpy(np.asarray(member).copy())[..., 0].long() - 2) // 4


def mask_stages() -> list[Any]:
    """Segmentation with masks for some of the images."""
    return [
        wds.decode("pil"),
        wds.to_tuple("png", "seg.png", missing_is_error=False),
        wds.map_tuple(as_tensor, mask_of),
    ]


def of_first(batch: Any) -> torch.Tensor:
    return image_number(batch[0])


IMAGES = {
    "image and text": Pipeline(files=laion_files, stages=image_text_stages, numbers=of_first, kept=52),
    "classes from json": Pipeline(files=imagenet_files, stages=classification_stages, numbers=of_first, kept=56),
    "captions, most of them filtered": Pipeline(
        files=laion_files, stages=filtered_stages, numbers=lambda batch: image_number(batch["image"]), kept=13
    ),
    "upper-case extensions": Pipeline(files=upper_case_files, stages=upper_case_stages, numbers=of_first),
    "multi-crop lists": Pipeline(
        files=upper_case_files, stages=multi_crop_stages, numbers=lambda batch: image_number(batch[0][0])
    ),
    "embeddings beside images": Pipeline(files=dalle_files, stages=embedding_stages, numbers=of_first),
    "masks for some": Pipeline(files=mask_files, stages=mask_stages, numbers=of_first),
}
