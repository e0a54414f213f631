"""A text that is never shown: not in a repr, a log or a traceback, and not in a pickle."""

from __future__ import annotations

import hmac

from infobatch_stream.errors import ConfigError

__all__ = ["Secret"]


class Secret:
    """A token. Pickles don't hold it, as they may end up in a checkpoint; copies within the process do.

    Args:
        text: the token; "" stands for no token at all. None for one that a pickle has left out.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str | None) -> None:
        self._text = text

    def reveal(self) -> str:
        """The token.

        Raises:
            ConfigError: a pickle has left it out.
        """
        if self._text is None:
            raise ConfigError(
                "a pickled Connection has no token=, as a token must not end up in a file; give token_file=, or set "
                "INFOBATCH_TOKEN or INFOBATCH_TOKEN_FILE, which the other process reads by itself"
            )
        return self._text

    def __repr__(self) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        if self._text is None or other._text is None:
            return self._text is other._text
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce__(self) -> tuple[type[Secret], tuple[None]]:
        return Secret, (None,)
