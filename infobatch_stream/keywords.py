"""Misspelt keywords: Python's TypeError, with the name that was probably meant."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar, cast

__all__ = ["check_keywords", "keywords_of", "suggesting"]

Callee = TypeVar("Callee", bound=Callable[..., Any])


def suggesting(callee: Callee) -> Callee:
    """Decorates a class, a function or a method, whose signature stays as it is: an unknown keyword is told apart.

    Raises:
        TypeError: while it is called: a keyword that it hasn't; the message suggests the nearest one, or names all.
    """
    if isinstance(callee, type):
        kind: Any = callee
        kind.__init__ = suggesting(kind.__init__)
        return callee
    known = keywords_of(callee)
    is_init = callee.__name__ == "__init__"

    @functools.wraps(callee)
    def checked(*args: Any, **keywords: Any) -> Any:
        if keywords and not known.issuperset(keywords):
            check_keywords(type(args[0]).__name__ if is_init else callee.__name__, keywords, known)
        return callee(*args, **keywords)

    return cast(Callee, checked)


def keywords_of(callee: Callable[..., Any]) -> frozenset[str]:
    """The names by which a function without `**` takes arguments."""
    return frozenset(inspect.signature(callee).parameters) - {"self"}


def check_keywords(owner: str, keywords: Iterable[str], known: Collection[str]) -> None:
    """Raises for the first keyword that isn't known.

    Args:
        owner: what is called.
        keywords: as they were passed.
        known: the names that it takes.

    Raises:
        TypeError: an unknown keyword.
    """
    by_letters = {name.replace("_", ""): name for name in known}
    for keyword in keywords:
        if keyword in known:
            continue
        near = difflib.get_close_matches(keyword.replace("_", "").lower(), by_letters, 1, 0.7)
        advice = f"did you mean {by_letters[near[0]]}=?" if near else f"it takes {', '.join(sorted(known))}"
        raise TypeError(f"{owner}() got an unexpected keyword argument {keyword!r}; {advice}")
