"""Builds a wheel that registers a policy, without a build tool: it is a zip with the metadata that pip reads."""

from __future__ import annotations

import zipfile
from pathlib import Path

__all__ = ["unpack_policy", "write_wheel"]


def write_wheel(folder: Path, name: str, source: str, entry_points: dict[str, str]) -> Path:
    """The wheel of a distribution with one module.

    Args:
        folder: for the wheel.
        name: of the distribution and of its module.
        source: the module's code.
        entry_points: policy name → object in the module.
    """
    info = f"{name}-1.0.dist-info"
    lines = [f"{policy} = {name}:{value}" for policy, value in entry_points.items()]
    files = {
        f"{name}.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: by hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "\n".join(["[infobatch_stream.policies]", *lines, ""]),
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(path, text)
    return wheel


def unpack_policy(folder: Path, name: str, source: str, entry_points: dict[str, str]) -> None:
    """Puts such a distribution into `folder`, as an installed one lies there; the folder must be on sys.path."""
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(write_wheel(folder, name, source, entry_points)) as archive:
        archive.extractall(folder)
