"""Certificates for tests, made by the openssl binary."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ["Authority", "Signed", "needs_openssl"]

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl binary")

_CA_CONFIG = """
[ca]
default_ca = own
[own]
database = {folder}/index.txt
serial = {folder}/serial
new_certs_dir = {folder}
default_md = sha256
policy = anything
unique_subject = no
copy_extensions = copy
[anything]
commonName = supplied
"""


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@dataclass(frozen=True)
class Signed:
    """A certificate and its key, as files."""

    cert: Path
    key: Path


class Authority:
    """An authority with a folder of its own, which signs certificates."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self.cert, self._key = folder / "ca.pem", folder / "ca.key"
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")
        _openssl("req", "-x509", *curve, "-subj", "/CN=test authority", "-keyout", self._key, "-out", self.cert)
        (folder / "index.txt").touch()
        (folder / "serial").write_text("01\n")
        (folder / "ca.cnf").write_text(_CA_CONFIG.format(folder=folder))

    def sign(self, name: str, alternatives: str = "DNS:localhost,IP:127.0.0.1", *, expired: bool = False) -> Signed:
        """A new certificate for a name; an expired one ended in 2021."""
        request, cert, key = (self._folder / f"{name}.{end}" for end in ("csr", "pem", "key"))
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")
        names = ("-subj", f"/CN={name}", "-addext", f"subjectAltName={alternatives}")
        _openssl("req", "-new", *curve, *names, "-keyout", key, "-out", request)
        end = "20210101000000Z" if expired else "20991231000000Z"
        signer = ("-config", self._folder / "ca.cnf", "-cert", self.cert, "-keyfile", self._key, "-batch", "-notext")
        _openssl("ca", *signer, "-startdate", "20200101000000Z", "-enddate", end, "-in", request, "-out", cert)
        key.chmod(0o600)
        return Signed(cert, key)
