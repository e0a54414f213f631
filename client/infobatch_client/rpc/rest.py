"""Reads a score server's REST endpoint, and formats its values for the `runs` and `stats` commands."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import BadStatusLine, HTTPException
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote, urlsplit

from infobatch_stream.errors import ConfigError, RunNotFoundError, ServerError, ServerUnreachableError

__all__ = ["TOKEN_VARIABLE", "Json", "aligned", "get_json", "percent", "read_token", "run_path", "shown"]

TOKEN_VARIABLE = "INFOBATCH_TOKEN"
_IS_IT_ONE = ": is it a score server's --http address?"

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
"""A value as JSON has it."""


def read_token(token_file: Path | None) -> str | None:
    """The token in `token_file`, else the environment's, else None.

    Raises:
        ConfigError: the file can't be read, or there is no token in it.
    """
    if token_file is None:
        token, place = os.environ.get(TOKEN_VARIABLE, "").strip(), f"the variable {TOKEN_VARIABLE}"
        if not token:
            return None
    else:
        place = f"the token file {token_file}"
        try:
            token = token_file.read_text(encoding="ascii", errors="replace").strip()
        except OSError as error:
            raise ConfigError(f"can't read {place}: {error.strerror}") from error
    if not (token and token.isascii() and token.isprintable()):
        raise ConfigError(f"{place} holds no token: it must be one line of printable ASCII characters")
    return token


def run_path(run: str) -> str:
    """The REST path of one run.

    Raises:
        ConfigError: an empty name.
    """
    if not run:
        raise ConfigError("a run's name can't be empty; `infobatch runs` lists the runs")
    return f"/v1/runs/{quote(run, safe='', errors='surrogateescape')}"


def get_json(http: str, path: str, *, token: str | None = None, timeout_s: float = 10.0) -> Json:
    """The JSON at `path` of the server at `http` (host:port, or a URL); never through a proxy.

    Raises:
        ConfigError: `http` is no address.
        RunNotFoundError: status 404.
        ServerUnreachableError: no answer in time.
        ServerError: any other status, or an answer that isn't JSON.
    """
    url = _base_url(http) + path
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(_request(url, token), timeout=timeout_s) as answer:
            value: Json = json.loads(answer.read())
            return value
    except urllib.error.HTTPError as error:
        with error:
            detail = _detail(error.read())
        kind = RunNotFoundError if error.code == 404 and detail else ServerError
        raise kind(f"{url} answered {error.code} {error.reason}{detail or _IS_IT_ONE}") from error
    except BadStatusLine as error:
        raise ServerError(
            f"{url} doesn't answer in HTTP: is it the port for training (--grpc), or one with TLS (https://)? --http "
            "takes a score server's REST address"
        ) from error
    except OSError as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise ServerUnreachableError(f"no score server at {url}: {reason}") from error
    except (ValueError, RecursionError, HTTPException) as error:
        raise ServerError(f"{url} answered no JSON{_IS_IT_ONE}") from error


def _request(url: str, token: str | None) -> urllib.request.Request:
    request = urllib.request.Request(url, headers={"Accept": "application/json"})
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    return request


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as lines: the first column starts at the left, the others end at the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(f"{text:{'>' if place else '<'}{widths[place]}}" for place, text in enumerate(row)) for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def shown(value: Json) -> str:
    """A number or a text of the server's as people read it; "-" for None."""
    if value is None:
        return "-"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def percent(share: Json) -> str:
    """A share in [0, 1]; "-" for anything that is not a number."""
    return f"{100 * share:.1f} %" if isinstance(share, (int, float)) else "-"


def _base_url(http: str) -> str:
    url = http if "://" in http else f"http://{http}"
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        host.encode("idna")  # a ValueError for a name that no host can have
        is_plain = url.isascii() and url.isprintable() and not {" ", "@"} & set(url)
        known = parts.scheme in ("http", "https") and host and parts.port != 0 and is_plain
    except ValueError:
        known = False
    if not known:
        raise ConfigError(f"--http takes HOST:PORT or an http(s):// URL, not {http!r}")
    return url.rstrip("/")


def _detail(body: bytes) -> str:
    """The server's own explanation of a status, if it sent one as JSON."""
    try:
        detail = json.loads(body)["detail"]
    except (ValueError, KeyError, TypeError):
        return ""
    return f": {detail}"
