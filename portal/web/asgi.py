"""Requests and answers between uvicorn's event loop, which waits for clients, and the few threads that make pages.

A thread is taken for a request that has come in whole, and for one piece of its answer at a time. So clients that send
or read slowly hold none.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from contextvars import copy_context
from functools import partial
from http import HTTPStatus
from ipaddress import IPv4Network, IPv6Network
from tempfile import SpooledTemporaryFile
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from werkzeug.wrappers import Request

from portal.core import i18n
from portal.services.people import refused_logins
from portal.services.people.login_limits import list_networks
from portal.services.people.password_hashing import MAX_STRANGERS
from portal.web.core.headers import RETRY_AFTER_S
from portal.web.core.proxies import resolve_client_address

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]

# A larger body waits in a file, and only so many are let in at once, of one address and in all.
_BODY_BYTES_IN_MEMORY = 1 << 16
_MAX_LARGE_BODIES_OF_NETWORK, _MAX_LARGE_BODIES = 4, 32
_BODY_SECONDS = 300.0
# So long what comes of a refused body is read: most clients read no answer before they have sent it.
_REFUSED_BODY_SECONDS = 2.0
# More than any page has, so that one is made in one go.
_PIECE_BYTES = 1 << 18
# Who takes longer for a piece is cut off: downloads are few at a time.
_PIECE_SECONDS = 120.0

# Others are refused before they take a thread (see `password_hashing`): that costs a tenth, and pages don't wait for
# it. So many are let in at once of one network. Who comes with a browser in which somebody has logged in before has
# places of their own, one for each browser, and so many for each person: whoever has an account can have many browsers.
# Where these are taken they are strangers, too.
_LOGIN_PATH = "/login"
_MAX_LOGINS_OF_ONE = 2


class _RequestRefused(Exception):
    """Args: `page`: HTML, where the request has come in whole and people are to read why."""

    def __init__(self, status: HTTPStatus, page: str = "") -> None:
        self.status = status
        self.page = page


class ThreadedApplication:
    """An ASGI application that runs a WSGI application in threads.

    Args:
        threads: how many.
        max_body_bytes: a request with more is refused.
        trusted_proxies: see `resolve_client_address`.
        find_browser: a browser in which somebody has logged in before, and who that was last; "", "" for another one.
        build_busy_page: HTML for those who find too many others logging in; called with their language.
        headers: of the answers that are not the WSGI application's.
    """

    def __init__(
        self,
        wsgi_app: "WSGIApplication",
        threads: int,
        max_body_bytes: int,
        trusted_proxies: Sequence[IPv4Network | IPv6Network],
        find_browser: "Callable[[WSGIEnvironment], tuple[str, str]]",
        build_busy_page: Callable[[str], str],
        headers: Mapping[str, str],
    ) -> None:
        self._wsgi_app = wsgi_app
        self._pool = ThreadPoolExecutor(threads, "pages")
        self._max_body_bytes = max_body_bytes
        self._trusted_proxies = trusted_proxies
        self._find_browser = find_browser
        self._build_busy_page = build_busy_page
        self._headers = headers
        self._large_body_networks: list[str] = []
        # Strangers leave half of the threads to others, and so do those who are known.
        self._max_logins = min(MAX_STRANGERS, max(1, threads // 2))
        self._login_networks: list[str] = []
        self._login_browsers: list[str] = []
        self._login_people: list[str] = []

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Answer one request, which is of the type "http" (ASGI 3.0)."""
        try:
            environ = _build_environ(scope)
            with SpooledTemporaryFile(_BODY_BYTES_IN_MEMORY) as body, ExitStack() as held:
                try:
                    async with asyncio.timeout(_BODY_SECONDS):
                        await self._receive_body(environ, receive, body, held)
                except TimeoutError:
                    raise _RequestRefused(HTTPStatus.REQUEST_TIMEOUT) from None
                if environ["PATH_INFO"] == _LOGIN_PATH and environ["REQUEST_METHOD"] == "POST":
                    self._count_login(environ, held)
                await self._send_answer(environ, receive, send)
        except _RequestRefused as refused:
            await _send_refusal(refused, self._headers, receive, send)
        except (ConnectionError, TimeoutError, asyncio.CancelledError):
            pass  # the last one where a stop has waited long enough; uvicorn closes a connection without a whole answer

    async def _receive_body(
        self, environ: "WSGIEnvironment", receive: _Receive, body: IO[bytes], held: ExitStack
    ) -> None:
        length = int(environ.get("CONTENT_LENGTH", 0))
        is_large, has_more = False, True
        while has_more:
            if length > self._max_body_bytes:
                raise _RequestRefused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            if length > _BODY_BYTES_IN_MEMORY and not is_large:
                is_large = True
                self._count_large_body(environ, held)
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionAbortedError
            body.write(message.get("body", b""))
            length, has_more = max(length, body.tell()), message.get("more_body", False)
        environ["wsgi.input"] = body
        # It is whole now, however it has come.
        environ.pop("HTTP_TRANSFER_ENCODING", None)
        environ["CONTENT_LENGTH"] = str(body.tell())
        body.seek(0)

    def _count_large_body(self, environ: "WSGIEnvironment", held: ExitStack) -> None:
        network = _get_network(self._resolve_address(environ))
        if not _take_place(self._large_body_networks, network, _MAX_LARGE_BODIES_OF_NETWORK, _MAX_LARGE_BODIES, held):
            raise _RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE)

    def _resolve_address(self, environ: "WSGIEnvironment") -> str:
        return resolve_client_address(environ, self._trusted_proxies)

    def _count_login(self, environ: "WSGIEnvironment", held: ExitStack) -> None:
        (browser, person), address = self._find_browser(environ), self._resolve_address(environ)
        is_known = (
            browser
            and _take_place(self._login_browsers, browser, 1, sys.maxsize, held)
            and _take_place(self._login_people, person, _MAX_LOGINS_OF_ONE, self._max_logins, held)
        )
        if not is_known and not _take_place(
            self._login_networks, _get_network(address), _MAX_LOGINS_OF_ONE, self._max_logins, held
        ):
            refused_logins.record_refused_login(refused_logins.THROTTLED, "", address)
            language = i18n.best_language(list(Request(environ).accept_languages.values()))
            raise _RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, self._build_busy_page(language))

    async def _send_answer(self, environ: "WSGIEnvironment", receive: _Receive, send: _Send) -> None:
        head: _Message = {"type": "http.response.start"}
        pieces = _iterate_pieces(self._wsgi_app, environ, head)
        # The same for all pieces: Flask keeps there what the request is about.
        run_in_context = copy_context().run
        make_piece = partial(asyncio.get_running_loop().run_in_executor, self._pool, run_in_context, next, pieces)
        piece = await make_piece()
        disconnected = asyncio.ensure_future(receive())
        try:
            await send(head)
            while len(piece) >= _PIECE_BYTES and not disconnected.done():
                async with asyncio.timeout(_PIECE_SECONDS):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                piece = await make_piece()
            await send({"type": "http.response.body", "body": piece})
        finally:
            disconnected.cancel()
            self._pool.submit(run_in_context, pieces.close)


def _get_network(address: str) -> str:
    """Of IPv6 the /64, all of which is one client's."""
    return list_networks(address)[0]


def _take_place(places: list[str], name: str, max_of_one: int, max_in_all: int, held: ExitStack) -> bool:
    """Take a place until `held` ends, unless as many are taken as may be."""
    if places.count(name) >= max_of_one or len(places) >= max_in_all:
        return False
    places.append(name)
    held.callback(places.remove, name)
    return True


def _iterate_pieces(wsgi_app: "WSGIApplication", environ: "WSGIEnvironment", head: _Message) -> Generator[bytes]:
    """Run the application, and fill `head` in; each piece has `_PIECE_BYTES` or more, and the last one fewer."""

    def start_response(
        status: str, headers: list[tuple[str, str]], exc_info: object = None, /
    ) -> Callable[[bytes], object]:
        head["status"] = int(status[:3])
        head["headers"] = _encode_headers(headers)
        return _refuse_write

    chunks = wsgi_app(environ, start_response)
    piece = b""
    try:
        for chunk in chunks:
            piece += chunk
            if len(piece) >= _PIECE_BYTES:
                yield piece
                piece = b""
    finally:
        if hasattr(chunks, "close"):
            chunks.close()
    yield piece


def _encode_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def _refuse_write(data: bytes) -> object:
    raise NotImplementedError("Flask returns what it answers (PEP 3333 has write() for older programs)")


def _build_environ(scope: _Message) -> "WSGIEnvironment":
    """What WSGI says of a request (PEP 3333), but for its body. Raises _RequestRefused."""
    names = [name for name, _value in scope["headers"]]
    if names.count(b"host") > 1 or {b"content-length", b"transfer-encoding"} <= set(names):
        # A proxy in front may have read them otherwise (RFC 9112, sections 3.2 and 6.3).
        raise _RequestRefused(HTTPStatus.BAD_REQUEST)
    path: bytes = scope["raw_path"]
    if not path.startswith(b"/"):
        # In the absolute form, as clients send it to a proxy (RFC 9112, section 3.2.2).
        path = b"/" + path.partition(b"://")[2].partition(b"/")[2]
    environ: WSGIEnvironment = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_NAME": scope["server"][0],
        "SERVER_PORT": str(scope["server"][1]),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "REMOTE_ADDR": scope["client"][0] if scope["client"] else "",  # gone already
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in scope["headers"]:
        if b"_" in name:
            continue  # would be taken for the one with "-", which a proxy has looked at
        key = name.decode("latin-1").upper().replace("-", "_")
        key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
        separator = "; " if key == "HTTP_COOKIE" else ","
        text = value.decode("latin-1")
        environ[key] = f"{environ[key]}{separator}{text}" if key in environ else text
    return environ


async def _send_refusal(refused: _RequestRefused, headers: Mapping[str, str], receive: _Receive, send: _Send) -> None:
    if not refused.page:
        with suppress(TimeoutError):
            async with asyncio.timeout(_REFUSED_BODY_SECONDS):
                while (await receive()).get("more_body"):
                    pass
    text = (refused.page or f"{refused.status} {refused.status.phrase}\n").encode()
    head = {name.lower(): value for name, value in headers.items()} | {
        "content-type": f"text/{'html' if refused.page else 'plain'}; charset=utf-8",
        "content-length": str(len(text)),
        "connection": "close",
    }
    if refused.status == HTTPStatus.SERVICE_UNAVAILABLE:
        head["retry-after"] = str(RETRY_AFTER_S)
    await send(
        {"type": "http.response.start", "status": refused.status.value, "headers": _encode_headers(head.items())}
    )
    await send({"type": "http.response.body", "body": text})
