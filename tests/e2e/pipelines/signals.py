"""Pipelines of sound and video. FLAC and MP4 are stood in for by members of these names with a format of our own.

Their decoders aren't dependencies; what matters here is that a decoder of a script's own is called for the extension.
"""

from __future__ import annotations

import io
import struct
import wave
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import webdataset as wds
from torch.nn.utils.rnn import pad_sequence

from tests.e2e.pipelines.pipeline import Pipeline, as_json, log_and_continue

__all__ = ["SIGNALS"]

RATE = 16000


def encoded(values: np.ndarray) -> bytes:
    """Our stand-in for a media file: a magic word, the number of dimensions and the shape, then int16 values."""
    return b"FAKE" + struct.pack(f"<{1 + values.ndim}I", values.ndim, *values.shape) + values.astype("<i2").tobytes()


def decoded(data: bytes) -> torch.Tensor:
    """Raises for other data."""
    if data[:4] != b"FAKE":
        raise ValueError("not a file of ours")
    (ndim,) = struct.unpack_from("<I", data, 4)
    shape = struct.unpack_from(f"<{ndim}I", data, 8)
    return torch.from_numpy(np.frombuffer(data, "<i2", offset=8 + 4 * ndim).reshape(shape).copy())


def media(key: str, data: bytes) -> Any:
    """A decoder of a script's own, by extension."""
    return decoded(data) if key.rpartition(".")[2] in ("flac", "mp4") else None


def clap_files(number: int) -> list[tuple[str, bytes]]:
    captions = [f"caption {number}", "another"] if number % 15 != 7 else []
    return [
        (f"esc50/train/{number}.flac", encoded(np.full(400 + 13 * (number % 11), number))),
        (f"esc50/train/{number}.json", as_json({"text": captions, "tag": ["x"], "original_data": {"title": None}})),
    ]


def captioned(sample: dict[str, Any]) -> dict[str, Any]:
    sound = sample["flac"]
    return {
        "waveform": sound[:300],
        "longer": len(sound) > 500,
        "text": sample["json"]["text"][0],  # an IndexError where there are no captions
        "audio_name": sample["__key__"].split("/")[-1] + ".flac",
        "__url__": sample["__url__"],
        "raw_text": sample["json"]["text"],
    }


def clap_batch(payloads: list[Any]) -> dict[str, Any]:
    batch: dict[str, Any] = {name: [payload[name] for payload in payloads] for name in ("audio_name", "raw_text")}
    batch["waveform"] = torch.stack([payload["waveform"] for payload in payloads])
    return batch


def clap_stages() -> list[Any]:
    return [wds.decode(media, handler=log_and_continue), wds.map(captioned, handler=log_and_continue)]


def speech_files(number: int) -> list[tuple[str, bytes]]:
    key = f"spk{number % 4}/utt_{number:05d}"
    with io.BytesIO() as stream:
        with wave.open(stream, "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(RATE)
            sound.writeframes(np.full(200 + 17 * (number % 23), number, "<i2").tobytes())
        return [(f"{key}.wav", stream.getvalue()), (f"{key}.txt", ("t" * (1 + number % 9)).encode())]


def waveform(key: str, data: bytes) -> torch.Tensor | None:
    """A decoder of WAV."""
    if not key.endswith("wav"):
        return None
    with io.BytesIO(data) as stream, wave.open(stream, "rb") as sound:
        return torch.from_numpy(np.frombuffer(sound.readframes(sound.getnframes()), "<i2").copy())


def short_enough(sample: dict[str, Any]) -> bool:
    return len(sample["wav"]) < 500


def sound_and_text(sample: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    return sample["wav"], torch.tensor([ord(char) for char in sample["txt"]])


def speech_batch(payloads: list[Any]) -> tuple[torch.Tensor, ...]:
    sounds, texts = zip(*payloads, strict=True)
    lengths = torch.tensor([len(sound) for sound in sounds])
    return pad_sequence(sounds, True), lengths, pad_sequence(texts, True, padding_value=-100)


def speech_stages() -> list[Any]:
    return [wds.decode(waveform), wds.select(short_enough), wds.map(sound_and_text)]


def video_files(number: int) -> list[tuple[str, bytes]]:
    key = f"{number // 30:05d}/{number:09d}"
    frames = np.full((4 + number % 3, 2, 2, 3), number)
    return [
        (f"{key}.mp4", encoded(frames) if number != 11 else b"\0\0\0\x20ftypisom"),
        (f"{key}.txt", b"a video"),
        (f"{key}.json", b'{"fps": 8, "subtitles": null}'),
    ]


def clip(sample: dict[str, Any]) -> dict[str, Any]:
    return {"mp4": sample["mp4"][:4].permute(3, 0, 1, 2), "txt": sample["txt"], "fps": sample["json"]["fps"]}


def video_stages() -> list[Any]:
    return [wds.decode(media, handler=log_and_continue), wds.map(clip, handler=log_and_continue)]


class Manifest:
    """As NeMo has it: an iterator object that filters (audio, key) by a manifest, then a build step."""

    def __init__(self) -> None:
        self.durations = {f"utt_{number:05d}": number for number in range(1000) if number % 5}

    def filtered(self, source: Iterator[Any]) -> Iterator[Any]:
        return Filtered(source, self.durations)

    def built(self, pair: tuple[bytes, str]) -> tuple[torch.Tensor | None, int]:
        return waveform("wav", pair[0]), self.durations[pair[1].rpartition("/")[2]]


class Filtered(Iterator[Any]):
    def __init__(self, source: Iterator[Any], wanted: dict[str, int]) -> None:
        self.source, self.wanted = source, wanted

    def __next__(self) -> Any:
        while True:
            sound, key = next(self.source)
            if key.rpartition("/")[2] in self.wanted:
                return sound, key


def manifest_batch(payloads: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    sounds, numbers = zip(*payloads, strict=True)
    return pad_sequence(sounds, True), torch.tensor(numbers)


def manifest_stages() -> list[Any]:
    manifest = Manifest()
    return [
        wds.rename(audio="wav;flac", key="__key__"),
        wds.to_tuple("audio", "key"),
        manifest.filtered,
        wds.map(manifest.built),
    ]


SIGNALS = {
    "sound and captions": Pipeline(
        files=clap_files,
        stages=clap_stages,
        numbers=lambda batch: batch["waveform"][:, 0],
        collate_fn=clap_batch,
        kept=59,
    ),
    "speech, padded": Pipeline(
        files=speech_files,
        stages=speech_stages,
        numbers=lambda batch: batch[0][:, 0],
        collate_fn=speech_batch,
        kept=53,
    ),
    "video": Pipeline(
        files=video_files, stages=video_stages, numbers=lambda batch: batch["mp4"][:, 0, 0, 0, 0], kept=62
    ),
    "tuples filtered by an iterator object": Pipeline(
        files=speech_files,
        stages=manifest_stages,
        numbers=lambda batch: batch[1],
        collate_fn=manifest_batch,
        kept=50,
    ),
}
