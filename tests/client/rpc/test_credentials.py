"""Where a client's token comes from, where it never shows, and where it is never sent."""

from __future__ import annotations

import copy
import dataclasses
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from infobatch_client.rpc.address import check_url
from infobatch_client.rpc.credentials import Credentials
from infobatch_client.rpc.rest import get_json
from infobatch_client.rpc.secret import Secret
from infobatch_stream import ConfigError, Connection, InfoBatchStreamDataset

TOKEN = "secret-" + "s" * 30


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("INFOBATCH_TOKEN", "INFOBATCH_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)


def file_with(path: Path, text: str) -> Path:
    """A file that replaces the one before at once."""
    path.with_suffix(".new").write_text(text)
    os.replace(path.with_suffix(".new"), path)
    return path


def test_the_nearest_token_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Credentials().newest_token() is None
    monkeypatch.setenv("INFOBATCH_TOKEN_FILE", str(file_with(tmp_path / "a", "of-variables-file\n")))
    assert Credentials().newest_token() == "of-variables-file"
    monkeypatch.setenv("INFOBATCH_TOKEN", " of-variable ")
    assert Credentials().newest_token() == "of-variable"
    assert Credentials(token_file=file_with(tmp_path / "b", "of-file")).newest_token() == "of-file"
    assert Credentials(token=Secret("given")).metadata() == (("authorization", "Bearer given"),)
    assert Credentials(token=Secret("")).metadata() == ()


def test_a_file_is_read_again_when_it_changes_and_kept_while_it_is_invalid(tmp_path: Path) -> None:
    path = file_with(tmp_path / "token", "first")
    credentials = Credentials(token_file=path)
    assert credentials.newest_token() == "first"
    for invalid in ("", "two words", "\x01"):
        file_with(path, invalid)
        assert credentials.newest_token() == "first"
    path.unlink()
    assert credentials.newest_token() == "first"
    file_with(path, "second")
    assert credentials.newest_token() == "second"


@pytest.mark.parametrize("text", ["", " \n", f"{TOKEN} {TOKEN}", f"{TOKEN}\n{TOKEN}", TOKEN + "\x7f", TOKEN + "é"])
def test_what_is_no_token_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"token file .*/token holds no token") as of_file:
        Credentials(token_file=file_with(tmp_path / "token", text)).newest_token()
    with pytest.raises(ConfigError, match="token= holds no token") as given:
        Connection(token=text)
    assert TOKEN not in f"{of_file.value}{given.value}"


def shows(value: object) -> str:
    """Every way in which a value shows itself."""
    return repr(value) + str(value) + repr(vars(value)) + repr(pickle.dumps(value))


def test_a_token_is_never_shown() -> None:
    connection = Connection(token=TOKEN)
    for value in (connection, connection.credentials, dataclasses.replace(connection), copy.deepcopy(connection)):
        assert TOKEN not in shows(value)
        assert TOKEN not in repr(dataclasses.asdict(value))


def test_copies_have_the_token_and_pickles_say_that_they_have_none() -> None:
    connection = Connection(token=TOKEN)
    for same in (copy.copy(connection), copy.deepcopy(connection), dataclasses.replace(connection, takeover=True)):
        assert same.credentials.newest_token() == TOKEN
    assert Connection(token=TOKEN) == connection != Connection(token="x" * 30)
    elsewhere = pickle.loads(pickle.dumps(connection))
    with pytest.raises(ConfigError, match=r"a pickled Connection has no token=.*give token_file="):
        elsewhere.credentials.newest_token()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"token": 5}, "token= is a int; it must be a str"),
        ({"token": TOKEN.encode()}, "token= is a bytes; it must be a str"),
        ({"token": TOKEN, "token_file": "f"}, "token= and token_file= are two tokens"),
        ({"client_cert": "f"}, "client_cert= and client_key= belong together"),
        ({"client_key": "f"}, "client_cert= and client_key= belong together"),
        ({"ca": 5}, "ca=5 is a int; give a path"),
        ({"tokens_without_tls": "yes"}, "tokens_without_tls='yes' is a str; give True or False"),
    ],
)
def test_invalid_settings_are_refused_without_showing_a_token(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        Connection(**settings)
    assert TOKEN not in str(caught.value)


def dataset(url: str | None, connection: Any) -> None:
    InfoBatchStreamDataset("none.tar", url=url, epochs=3, connection=connection)


def test_a_dataset_refuses_what_is_no_connection_without_showing_it() -> None:
    with pytest.raises(ConfigError, match=r"connection= takes a Connection.*type dict") as caught:
        dataset("127.0.0.1:1", {"token": TOKEN})
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("url", [f"grpcs://{TOKEN}@host:1", f"{TOKEN}@host:1", f"grpcs://user:{TOKEN}@host:1"])
def test_a_token_in_a_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigError, match=r"Connection\(token_file=…\), never in a URL") as caught:
        check_url(url)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("url", ["grpcs://host:1", "grpcs://[::1]:50051", "host:1"])
def test_an_address_may_ask_for_tls(url: str) -> None:
    assert check_url(url) == url


@pytest.mark.parametrize("url", ["grpc://host:1", "https://host:1", "grpcs://host", "grpcs://host:0", "GRPCS://host:1"])
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="'grpcs://HOST:PORT' for TLS"):
        check_url(url)


def test_a_token_is_not_sent_to_another_machine_in_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    for connection in (Connection(token=TOKEN), Connection()):
        with pytest.raises(ConfigError, match=r"would travel to node1:50051 in plain text.*tokens_without_tls"):
            dataset("node1:50051", connection)
        monkeypatch.setenv("INFOBATCH_TOKEN", TOKEN)
    with pytest.raises(ConfigError, match=r"the token would travel to http://node1:8080 in plain text"):
        get_json("node1:8080", "/v1/runs", credentials=Credentials())
    for url in ("localhost:1", "127.0.0.1:1", "[::1]:1", "127.8.8.8:1", "grpcs://node1:1"):
        Credentials().check_for(url)
    Credentials(tokens_without_tls=True).check_for("node1:50051")
    for url in ("localhost.example:1", "127.0.0.1.example:1", "[::2]:1"):
        with pytest.raises(ConfigError, match="in plain text"):
            Credentials().check_for(url)


def test_files_for_tls_need_an_address_with_tls(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ca= is for TLS, and node1:50051 is without: give 'grpcs://node1:50051'"):
        dataset("node1:50051", Connection(ca=tmp_path / "ca.pem"))
    with pytest.raises(ConfigError, match="must be a file with certificates, PEM: No such file"):
        dataset("grpcs://node1:50051", Connection(ca=tmp_path / "none"))


@pytest.mark.parametrize("settings", [{"token": TOKEN}, {"token_file": "f"}, {"ca": "f"}])
def test_an_embedded_server_takes_no_credentials_of_the_user(settings: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="are for a server of your own: give its url="):
        dataset(None, Connection(**settings))  # type: ignore[arg-type]
