"""webdataset's pipeline and its fluent methods as a base class, with the types that webdataset leaves out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

__all__ = ["FluidPipeline"]

if TYPE_CHECKING:
    from torch.utils.data import IterableDataset
    from typing_extensions import Self

    Handler = Callable[[Exception], bool]

    class FluidPipeline(IterableDataset[Any]):
        """`wds.DataPipeline` and `wds.FluidInterface`: each method adds a stage, and returns the pipeline itself."""

        pipeline: list[Any]

        def __init__(self, *stages: Any) -> None: ...

        def append(self, f: Any) -> None:
            """Adds a stage."""

        def compose(self, *stages: Any) -> Self:
            """A copy with more stages."""

        def map(self, f: Callable[[Any], Any], handler: Handler = ...) -> Self:
            """Applies a function to each sample."""

        def select(self, predicate: Callable[[Any], bool], **kw: Any) -> Self:
            """Keeps the samples for which a predicate is true."""

        def decode(
            self,
            *args: Any,
            pre: list[Callable[..., Any]] | None = None,
            post: list[Callable[..., Any]] | None = None,
            only: list[str] | str | None = None,
            partial: bool = False,
            handler: Handler = ...,
        ) -> Self:
            """Decodes the members of each sample by their extensions."""

        def to_tuple(self, *args: str | list[str], **kw: Any) -> Self:
            """Makes a tuple of some members."""

        def map_tuple(self, *args: Callable[[Any], Any], handler: Handler = ...) -> Self:
            """Applies one function to each element of a tuple."""

        def map_dict(self, handler: Handler = ..., **kw: Callable[[Any], Any]) -> Self:
            """Applies functions to the named members."""

        def rename(self, **kw: Any) -> Self:
            """Renames members."""

        def rename_keys(self, *args: Any, **kw: Any) -> Self:
            """Renames members by patterns."""

        def extract_keys(self, *args: Any, **kw: Any) -> Self:
            """Makes a tuple of the members that match patterns."""

        def rsample(self, p: float = 0.5) -> Self:
            """Keeps a random share of the samples."""

        def xdecode(self, *args: Any, **kw: Any) -> Self:
            """Decodes the members of each sample by patterns."""

        def log_keys(self, logfile: str | None = None) -> Self:
            """Writes the key of each sample to a file."""

        def close(self) -> None:
            """Closes the stages."""

else:
    from webdataset.compat import FluidInterface
    from webdataset.pipeline import DataPipeline

    class FluidPipeline(DataPipeline, FluidInterface):
        """webdataset's own code."""
