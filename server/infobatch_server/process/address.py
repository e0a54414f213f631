"""HOST:PORT, as the command line and the endpoint file have it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace

from infobatch_stream.errors import ConfigError

__all__ = ["Address"]


@dataclass(frozen=True)
class Address:
    """Where a server listens.

    Args:
        host: a name or an IP address, IPv6 without brackets.
        port: in [0, 65535]; 0 takes a free one.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, option: str) -> Address:
        """The address that an option names.

        Raises:
            ConfigError: it is not HOST:PORT.
        """
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            colon = ""
        if not (colon and host and port.isascii() and port.isdigit() and int(port) <= 65535):
            raise ConfigError(f"{option} {text!r} is not HOST:PORT, such as 127.0.0.1:0 or [::1]:8080")
        return cls(host, int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def at(self, port: int) -> Address:
        """The same host with the port that was bound."""
        return replace(self, port=port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
