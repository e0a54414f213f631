"""Whether the server of this container is ready: asks /readyz at 127.0.0.1:8080, over TLS if it has TLS.

Another port may be given as the only argument.
"""

import http.client
import ssl
import sys

_TIMEOUT_S = 2.0


def is_ready(port: int) -> bool:
    """Asks without a look at the certificate, which is for other names than the container's own loopback."""
    unchecked = ssl.create_default_context()
    unchecked.check_hostname = False
    unchecked.verify_mode = ssl.CERT_NONE
    for connection in (
        http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S),
        http.client.HTTPSConnection("127.0.0.1", port, timeout=_TIMEOUT_S, context=unchecked),
    ):
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            continue
        finally:
            connection.close()
    return False


if __name__ == "__main__":
    sys.exit(not is_ready(int(sys.argv[1]) if sys.argv[1:] else 8080))
