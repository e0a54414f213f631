"""HOST:PORT addresses, as in the command line and the endpoint file."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace

from infobatch_stream.errors import ConfigError

__all__ = ["Address"]


@dataclass(frozen=True)
class Address:
    """An address at which a server listens.

    Args:
        host: a name or an IP address, IPv6 without brackets.
        port: in [0, 65535]; 0 for any free port.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, option: str) -> Address:
        """Parses HOST:PORT.

        Args:
            text: the text, IPv6 addresses with brackets.
            option: the option, for messages.

        Raises:
            ConfigError: the text is not HOST:PORT.
        """
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            colon = ""
        if not (colon and host and port.isascii() and port.isdigit() and int(port) <= 65535):
            raise ConfigError(f"{option} must be HOST:PORT, such as 127.0.0.1:0 or [::1]:8080; got {text!r}")
        return cls(host, int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def at(self, port: int) -> Address:
        """The address with the same host and another port."""
        return replace(self, port=port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
