"""Reads a score server's REST endpoint, and formats its values for the `runs` and `stats` commands."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import BadStatusLine, HTTPException
from typing import TypeAlias
from urllib.parse import quote, urlsplit

from infobatch_client.rpc.address import is_tls
from infobatch_client.rpc.credentials import Credentials
from infobatch_client.rpc.secret import Secret
from infobatch_stream.errors import (
    ConfigError,
    PermissionDeniedError,
    RunNotFoundError,
    ServerError,
    ServerUnreachableError,
    UnauthenticatedError,
)

__all__ = ["NONE", "Json", "aligned", "get_json", "percent", "run_path", "shown"]

NONE = Credentials(token=Secret(""))
"""No token, whatever the environment says."""

_REFUSALS = {401: UnauthenticatedError, 403: PermissionDeniedError}
_IS_IT_ONE = ": is it a score server's --http address?"

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
"""A value as JSON has it."""


def run_path(run: str) -> str:
    """The REST path of one run.

    Raises:
        ConfigError: an empty name.
    """
    if not run:
        raise ConfigError("a run's name can't be empty; `infobatch runs` lists the runs")
    return f"/v1/runs/{quote(run, safe='', errors='surrogateescape')}"


def get_json(http: str, path: str, *, credentials: Credentials = NONE, timeout_s: float = 10.0) -> Json:
    """The JSON at `path` of the server at `http` (host:port, or a URL); never through a proxy.

    Args:
        http: the server.
        path: of the resource.
        credentials: what is shown to the server; nothing by default.
        timeout_s: for the answer.

    Raises:
        ConfigError: `http` is no address, or the credentials aren't for it.
        RunNotFoundError: status 404.
        UnauthenticatedError, PermissionDeniedError: status 401, 403.
        ServerUnreachableError: no answer in time.
        ServerError: any other status, or an answer that isn't JSON.
    """
    url = _base_url(http) + path
    credentials.check_for(_base_url(http))
    handlers = [urllib.request.ProxyHandler({}), _NoRedirect()]
    if is_tls(url):
        handlers.append(urllib.request.HTTPSHandler(context=credentials.ssl_context()))
    opener = urllib.request.build_opener(*handlers)
    try:
        with opener.open(_request(url, credentials.newest_token()), timeout=timeout_s) as answer:
            value: Json = json.loads(answer.read())
            return value
    except urllib.error.HTTPError as error:
        with error:
            detail = _detail(error.read())
        words = f"{url} answered {error.code} {error.reason}{detail or _IS_IT_ONE}"
        if error.code in _REFUSALS:
            raise _REFUSALS[error.code](f"{words}; {credentials.remedy}") from error
        kind = RunNotFoundError if error.code == 404 and detail else ServerError
        raise kind(words) from error
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


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirection, which would take the token to another server."""

    def redirect_request(self, *_: object) -> None:
        return None


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
