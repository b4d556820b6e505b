"""Requests of the crawler, made octet by octet, and what is looked at in every answer."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

from flask import Flask, Request, request, request_finished
from werkzeug.test import run_wsgi_app

from tests.web.crawling.pages import find_scripts
from tests.web.crawling.values import HEADER, MARKER

# The one page elsewhere that an answer leads to.
PAYMENT_PAGE = "https://pay.example/?shop=7&"
_BOUNDARY = b"----crawler"
_EVALUATED = re.compile(rf"(49|x{MARKER}){MARKER}")
# A pair of a name and what is sent for it; with a file name it is a file.
Parts = Sequence[tuple[str, bytes, str | None]]


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    address: str
    cookies: dict[str, str]
    """The browser's after it."""
    errors: list[str]
    asked_for: dict[str, set[str]]
    """The names that the view has looked for, in `args` and in `form`."""

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def is_html(self) -> bool:
        return self.get_header("Content-Type").startswith("text/html")

    @property
    def location(self) -> str:
        return self.get_header("HX-Redirect") or self.get_header("Location")

    def get_header(self, name: str) -> str:
        return next((value for each, value in self.headers if each.lower() == name.lower()), "")


class _ErrorLog(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info or record.levelno >= logging.ERROR:
            self.lines.append(f"logged: {record.getMessage()}")


@dataclass
class Asker:
    """Sends requests to the application, as a browser and as whoever is no browser."""

    app: Flask
    count: int = 0
    _log: _ErrorLog = field(default_factory=_ErrorLog)
    _asked_for: dict[str, set[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        logging.getLogger().addHandler(self._log)
        request_finished.connect(self._note_names, self.app)

    def close(self) -> None:
        logging.getLogger().removeHandler(self._log)
        request_finished.disconnect(self._note_names, self.app)

    def _note_names(self, sender: Flask, **_: object) -> None:
        read: Request = request
        for name in ("args", "form"):
            names = getattr(read.__dict__.get(name), "asked_for", ())
            self._asked_for.setdefault(name, set()).update(names)

    def ask(
        self,
        method: str,
        address: str,
        cookies: Mapping[str, str],
        *,
        body: bytes = b"",
        content_type: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Args:
        address: a path with its query, encoded as browsers do.
        """
        self.count += 1
        self._log.lines, self._asked_for = [], {}
        path, _, query = address.partition("?")
        environ = {
            "REQUEST_METHOD": method.upper(),
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
            "QUERY_STRING": query,
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "HTTP_HOST": "localhost",
            "REMOTE_ADDR": "127.0.0.1",
            "HTTP_COOKIE": "; ".join(f"{name}={value}" for name, value in cookies.items()),
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": BytesIO(body),
            "wsgi.errors": BytesIO(),
            "wsgi.multithread": False,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            "CONTENT_LENGTH": str(len(body)),
            "CONTENT_TYPE": content_type,
        } | {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in (headers or {}).items()}
        errors: list[str] = []
        status, found, content = 500, [], b""
        try:
            chunks, status_line, answered = run_wsgi_app(self.app, environ, buffered=True)
            status, found, content = int(status_line.split()[0]), list(answered), b"".join(chunks)
        except Exception as error:  # whatever a view raises
            errors.append(f"{type(error).__name__}: {str(error)[:200]}{_find_place(error)}")
        if status >= 500:
            errors.append(f"status {status}")
        errors += self._log.lines
        answer = Answer(status, found, content, address, _update_cookies(cookies, found), errors, self._asked_for)
        errors += _find_faults(answer)
        return answer


def _find_place(error: BaseException) -> str:
    trace, places = error.__traceback__, []
    while trace:
        places.append(f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}")
        trace = trace.tb_next
    ours = [each for each in places if "/portal/" in each and "site-packages" not in each]
    return f" at {ours[-1].rpartition('/portal/')[2]}" if ours else ""


def _update_cookies(cookies: Mapping[str, str], headers: Sequence[tuple[str, str]]) -> dict[str, str]:
    updated = dict(cookies)
    for name, value in headers:
        if name == "Set-Cookie":
            cookie, _, content = value.partition(";")[0].partition("=")
            updated[cookie] = content
    return updated


def _find_faults(answer: Answer) -> Iterator[str]:
    for name, value in answer.headers:
        if name.lower() == HEADER.lower() or "\n" in value or "\r" in value:
            yield f"a header came out of a value: {name}"
    location = answer.location.removeprefix("http://localhost")
    if (
        location
        and not location.startswith(PAYMENT_PAGE)
        and not (location.startswith("/") and not location.startswith(("//", "/\\")))
    ):
        yield f"it leads elsewhere: {location[:80]!r}"
    if answer.is_html:
        try:
            text = answer.body.decode()
        except UnicodeDecodeError as error:
            yield f"no UTF-8: {error}"
            return
        yield from find_injections(text)
    elif MARKER.encode() in answer.body and answer.get_header("X-Content-Type-Options") != "nosniff":
        yield "a browser may take it for HTML"


def find_injections(html: str) -> Iterator[str]:
    """Where something that was sent runs in a page, or has run to make it."""
    yield from find_scripts(html, MARKER)
    if _EVALUATED.search(html):
        yield "a template was evaluated"


def encode_query(pairs: Sequence[tuple[str, bytes]]) -> str:
    return "&".join(f"{quote_from_bytes(name.encode(), '')}={quote_from_bytes(value, '')}" for name, value in pairs)


def encode_form(parts: Parts, multipart: bool) -> tuple[bytes, str]:
    """The body, and its Content-Type."""
    if not multipart:
        return encode_query([(name, value) for name, value, _ in parts]).encode(), "application/x-www-form-urlencoded"
    body = b""
    for name, value, file in parts:
        disposition = f'form-data; name="{name}"'
        if file is not None:
            disposition += f'; filename="{file}"'
        body += b"--%s\r\nContent-Disposition: %s\r\n\r\n%s\r\n" % (_BOUNDARY, disposition.encode(), value)
    return body + b"--%s--\r\n" % _BOUNDARY, f"multipart/form-data; boundary={_BOUNDARY.decode()}"


class _RecordingFields:
    """A query or form that remembers for which names a view has looked; before the class that holds the values."""

    @property
    def asked_for(self) -> set[str]:
        names: set[str] = self.__dict__.setdefault("names", set())
        return names

    def __contains__(self, name: object) -> bool:
        self.asked_for.add(str(name))
        return bool(super().__contains__(name))  # type: ignore[misc]

    def __getitem__(self, name: str) -> Any:
        self.asked_for.add(name)
        return super().__getitem__(name)  # type: ignore[misc]

    def get(self, name: str, *args: Any, **kwargs: Any) -> Any:
        self.asked_for.add(name)
        return super().get(name, *args, **kwargs)  # type: ignore[misc]

    def getlist(self, name: str, *args: Any, **kwargs: Any) -> Any:
        self.asked_for.add(name)
        return super().getlist(name, *args, **kwargs)  # type: ignore[misc]


def record_names(app: Flask) -> None:
    """Let queries and forms of this application remember for which names its views look."""
    fields = type("RecordingFields", (_RecordingFields, app.request_class.parameter_storage_class), {})
    app.request_class = type("RecordingRequest", (app.request_class,), {"parameter_storage_class": fields})
