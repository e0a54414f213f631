"""A policy's answer, checked: what a class of another distribution returns decides bits, and is trusted in nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from infobatch_stream.errors import ConfigError, InfoBatchError
from infobatch_stream.pruning.draw import CodesOf
from infobatch_stream.pruning.policies import Classification, ClassRow, Policy, Position, ScoreView

__all__ = ["checked_classes"]

_MAX_ROWS = 254  # codes are uint8, and the mask and what was dropped take two


def checked_classes(policy: Policy, view: ScoreView, position: Position) -> Classification:
    """What `policy.classes` returns, with codes that are checked as they are read.

    Args:
        policy: a built-in one or one of another distribution.
        view: its view of the scores; read-only.
        position: of the epoch.

    Raises:
        ConfigError: `classes` raised an error, or returned anything but a valid classification; names the policy. Also
            from the codes, while they are read.
    """
    where = f"policy {policy.name!r}, epoch {position.epoch}"
    try:
        answer = policy.classes(view, position)
    except InfoBatchError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{where}: classes() raised {type(error).__name__}: {error}") from error
    if not isinstance(answer, Classification):
        raise ConfigError(f"{where}: classes() returned a {type(answer).__name__}; it must return a Classification")
    rows = tuple(answer.rows)
    if not 1 <= len(rows) <= _MAX_ROWS or not all(isinstance(row, ClassRow) for row in rows):
        raise ConfigError(f"{where}: classes() returned {len(rows)} rows; it must return 1 to {_MAX_ROWS} ClassRows")
    return replace(answer, codes=_checked_codes(answer.codes, len(rows), where), rows=rows)


def _checked_codes(codes: CodesOf, num_rows: int, where: str) -> CodesOf:
    def checked(part: slice) -> npt.NDArray[np.uint8]:
        try:
            block = codes(part)
        except InfoBatchError:
            raise
        except (Exception, SystemExit) as error:
            raise ConfigError(f"{where}: its codes raised {type(error).__name__}: {error}") from error
        if not isinstance(block, np.ndarray) or block.dtype not in (np.uint8, np.bool_):
            kind = block.dtype if isinstance(block, np.ndarray) else type(block).__name__
            raise ConfigError(f"{where}: its codes are {kind}; they must be a numpy array of uint8")
        if block.shape != (part.stop - part.start,):
            raise ConfigError(
                f"{where}: it returned codes {block.shape} for samples {part.start} to {part.stop}; it must return one "
                "per sample"
            )
        values = block.view(np.uint8)
        if (highest := int(values.max(initial=0))) >= num_rows:
            raise ConfigError(
                f"{where}: a sample has class code {highest}, and there are {num_rows} rows, for the codes 0 to "
                f"{num_rows - 1}: return a row for each code"
            )
        return values

    return checked
