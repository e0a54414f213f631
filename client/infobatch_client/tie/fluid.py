"""webdataset's pipeline and its fluent methods as a base class, with the types that webdataset leaves out."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

__all__ = ["FluidPipeline"]

if TYPE_CHECKING:
    from torch.utils.data import IterableDataset
    from typing_extensions import Self

    Handler = Callable[[Exception], Any]
    Member = str | Sequence[str]

    class FluidPipeline(IterableDataset[Any]):
        """`wds.DataPipeline` and `wds.FluidInterface`: each method adds a stage, and returns the pipeline itself.

        A `Member` is the name of one, or alternatives of which the first that a sample has is taken: "jpg;png" or
        ["jpg", "png"].
        """

        pipeline: list[Any]

        def __init__(self, *stages: Any) -> None: ...

        def append(self, f: Any) -> None:
            """Adds a stage."""

        def compose(self, *stages: Any) -> Self:
            """A copy with more stages."""

        def map(self, f: Callable[[Any], Any], handler: Handler = ...) -> Self:
            """Applies a function to each sample; one for which it gives None is dropped."""

        def select(self, predicate: Callable[[Any], Any]) -> Self:
            """Keeps the samples for which a predicate is true."""

        def decode(
            self,
            *args: str | Callable[[str, Any], Any],
            pre: list[Callable[[str, Any], Any]] | None = None,
            post: list[Callable[[str, Any], Any]] | None = None,
            only: Collection[str] | None = None,
            partial: bool = False,
            handler: Handler = ...,
        ) -> Self:
            """Decodes the members of each sample by their extensions.

            Args:
                *args: what to make of images ("pil", "rgb", "torchrgb8", …), and functions of extension and bytes, of
                    which the first that doesn't give None decodes a member.
                pre: functions before these, in place of decompression.
                post: functions behind these, in place of webdataset's own.
                only: the extensions to decode: a collection, or a text with spaces.
                partial: members that aren't bytes are left as they are.
                handler: called with an exception; true drops the sample.
            """

        def to_tuple(
            self,
            *args: Member,
            handler: Handler = ...,
            missing_is_error: bool = True,
            none_is_error: bool | None = None,
        ) -> Self:
            """Makes a tuple of some members."""

        def map_tuple(self, *args: Callable[[Any], Any] | None, handler: Handler = ...) -> Self:
            """Applies one function to each element of a tuple; None leaves one as it is."""

        def map_dict(self, handler: Handler = ..., **kw: Callable[[Any], Any]) -> Self:
            """Applies functions to the named members."""

        def rename(self, *, handler: Handler = ..., keep: bool = True, **kw: Member) -> Self:
            """Renames members: new="old"."""

        def rename_keys(
            self,
            *args: tuple[str, str] | list[str],
            keep_unselected: bool = False,
            must_match: bool = True,
            duplicate_is_error: bool = True,
            **kw: str,
        ) -> Self:
            """Renames members by patterns: ("new", "pattern") or new="pattern"."""

        def extract_keys(self, *args: Member, duplicate_is_error: bool = True, ignore_missing: bool = False) -> Self:
            """Makes a tuple of the members that match patterns."""

        def rsample(self, p: float = 0.5) -> Self:
            """Keeps a random share of the samples."""

        def xdecode(
            self,
            *args: tuple[str, Callable[[Any], Any] | Literal[False]],
            must_decode: bool = True,
            defaults: Iterable[tuple[str, Callable[[Any], Any] | Literal[False]]] = ...,
            **kw: Callable[[Any], Any] | Literal[False],
        ) -> Self:
            """Decodes the members of each sample by patterns: functions of a binary stream; False leaves bytes."""

        def log_keys(self, logfile: str | os.PathLike[str] | None = None) -> Self:
            """Writes the key of each sample to a file."""

        def close(self) -> None:
            """Closes the stages."""

else:
    from webdataset.compat import FluidInterface
    from webdataset.pipeline import DataPipeline

    class FluidPipeline(DataPipeline, FluidInterface):
        """webdataset's own code."""
