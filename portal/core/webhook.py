"""Sending JSON to an address that operators have set."""

import json
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection, responses
from urllib.parse import urlsplit

from portal import __version__
from portal.core.tls_client import create_client_context

# Of connecting to an address, of sending, and of each wait for the answer; and of all that together.
_TIMEOUT_S, _TOTAL_S = 10.0, 30.0
# Some chat tools refuse what doesn't say who it is.
_HEADERS = {"Content-Type": "application/json", "User-Agent": f"SMPP-Portal/{__version__}"}


def post_json(url: str, value: Mapping[str, object]) -> None:
    """Send an object by POST (RFC 9110, 9.3.3). No redirect is followed: it could lead to anybody.

    Args:
        url: https, or http to this machine; a server's certificate has to be valid.

    Raises:
        OSError: it didn't arrive, or was answered by anything but 2xx; the text says why, without the url.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    if parts.scheme == "https":
        connection: HTTPConnection = HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=create_client_context())
    else:
        connection = HTTPConnection(host, port, timeout=_TIMEOUT_S)
    target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
    # An answer that comes octet by octet is in time for each wait, and never ends.
    began_at = time.monotonic()
    timer = threading.Timer(_TOTAL_S, _interrupt, [connection])
    timer.start()
    try:
        connection.connect()
        # It is not interrupted while it looks for an address that answers.
        if time.monotonic() - began_at >= _TOTAL_S:
            raise TimeoutError("connecting takes too long")
        connection.request("POST", target, json.dumps(value).encode(), _HEADERS)
        status = connection.getresponse().status
    except HTTPException as error:
        if time.monotonic() - began_at >= _TOTAL_S:
            raise TimeoutError("its answer takes too long") from None
        # Its text may hold what the server has sent.
        raise OSError(f"its answer is no HTTP ({type(error).__name__})") from None
    finally:
        timer.cancel()
        connection.close()
    if not 200 <= status < 300:
        raise OSError(f"{status} {responses.get(status, '')}".rstrip())


def _interrupt(connection: HTTPConnection) -> None:
    with suppress(OSError):
        if connection.sock is not None:
            connection.sock.shutdown(socket.SHUT_RDWR)
