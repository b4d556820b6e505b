"""The way through the portal: pages by their links, forms by what pages offer and what a good answer offers then."""

import re
import sqlite3
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import unquote

from flask import Flask
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RequestRedirect

from tests.web.crawling import asking, pages
from tests.web.crawling.asking import Answer, Asker, Parts
from tests.web.crawling.pages import Form
from tests.web.crawling.values import MARKER
from tests.web.crawling.world import Snapshot

_TOKEN = re.compile(r'name="csrf_token" value="([^"]+)"|"X-CSRFToken":"([^"]+)"')
# A question has a plain form where it is a page of its own, and one of htmx where it is a dialog.
_QUESTION = 'class="confirm"'
# How many addresses of one kind are opened: rows differ in what they offer.
_ROWS = 3
NOBODY = "nobody"
_STEPS = 3


@dataclass(frozen=True)
class Route:
    """What an address leads to."""

    endpoint: str
    arguments: tuple[tuple[str, object], ...]

    @property
    def account(self) -> object:
        return dict(self.arguments).get("name", "")


@dataclass
class Case:
    """A form in the state in which it was offered: everything that is needed to send it."""

    role: str
    form: Form
    route: Route
    cookies: dict[str, str]
    token: str
    snapshot: Snapshot
    page: str
    """The page's HTML."""
    steps: int = 0
    choice: str = ""
    """The button that was pressed, where it sends something of its own."""
    fields_of_page: set[str] = field(default_factory=set)
    controlled: bool = False
    """Whether it was sent with good values, and taken."""
    changed: bool = False
    refusal: str = ""
    more_fields: set[str] = field(default_factory=set)
    """Names that the view looks for and that the form doesn't show."""
    queries: set[str] = field(default_factory=set)
    """Names of its address's query, and those that the view looks for there."""

    @property
    def key(self) -> tuple[object, ...]:
        return (self.role, self.form.method, self.route.endpoint, tuple(sorted(self.form.fields)), self.choice)

    def __str__(self) -> str:
        return f"{self.role}: {self.form.method.upper()} {self.form.address}"


@dataclass
class Opened:
    """A page that answered: its address, with whose cookies, and the names of the query that it looks for."""

    role: str
    route: Route
    address: str
    cookies: dict[str, str]
    token: str
    names: set[str]


FillIn = Callable[[Case, str, bool], list[bytes]]
"""Good values for a field of a form, which the page may have filled; none: it stays as it is."""


@dataclass
class Walker:
    app: Flask
    conn: sqlite3.Connection
    asker: Asker
    fill_in: FillIn
    rows: int = _ROWS
    cases: list[Case] = field(default_factory=list)
    opened: list[Opened] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    reached: set[tuple[str, str]] = field(default_factory=set)
    """Endpoints with their methods."""
    marked: int = 0
    """Pages that show what was planted."""
    _seen: set[tuple[object, ...]] = field(default_factory=set)
    _kinds: Counter[tuple[object, ...]] = field(default_factory=Counter)

    def find_route(self, address: str, method: str) -> Route | None:
        try:
            endpoint, arguments = self.app.url_map.bind("localhost").match(
                unquote(address.partition("?")[0]), method.upper()
            )
        except (HTTPException, RequestRedirect):
            return None
        return Route(endpoint, tuple(sorted(arguments.items())))

    def walk(
        self, role: str, start: Sequence[str], cookies: dict[str, str], snapshot: Snapshot, *, only_look: bool = False
    ) -> None:
        """Follow all links from these addresses; then send each form once with good values, and go on from there."""
        snapshot.restore()
        waiting = deque(start)
        forms: deque[Case] = deque()
        while waiting:
            address = waiting.popleft()
            if not self._is_wanted(role, address):
                continue
            answer = self._open(role, address, cookies)
            cookies = answer.cookies
            if answer.location and answer.location.startswith("/"):
                waiting.append(answer.location)
            if answer.status == 200 and answer.is_html:
                page = pages.read_page(answer.text, address)
                waiting.extend(sorted(page.links))
                found = [*self._list_forms(role, page, answer, snapshot, 0)]
                forms.extend(each for each in found if each.form.method != "get")
                for each in found:
                    waiting.extend(_list_addresses(each.form) if each.form.method == "get" else ())
                if _QUESTION in answer.text:
                    dialog = self.asker.ask("GET", address, cookies, headers={"HX-Request": "true"})
                    page = pages.read_page(dialog.text, address)
                    forms.extend(self._list_forms(role, page, dialog, snapshot, 0))
        while forms and not only_look:
            case = forms.popleft()
            if case.key not in self._seen:
                self._seen.add(case.key)
                self.cases.append(case)
                forms.extend(self._control(case))

    def _is_wanted(self, role: str, address: str) -> bool:
        route = self.find_route(address, "GET")
        if route is None:
            return False
        exact = (role, address)
        names = pages.list_query_names(address)
        # Filters, their pages and their files have hundreds of queries, all of which say what each alone does.
        kind = (role, route.endpoint, *(sorted(names) if len(names) < 2 else ["several"]))
        is_first = not names and not self._kinds[(*kind, route.account)]
        if exact in self._seen or (self._kinds[kind] >= self.rows and not is_first):
            return False
        self._seen.add(exact)
        self._kinds.update([kind, (*kind, route.account)])
        return True

    def _open(self, role: str, address: str, cookies: dict[str, str]) -> Answer:
        answer = self.asker.ask("GET", address, cookies)
        route = self.find_route(address, "GET")
        assert route
        self.reached.add((route.endpoint, "GET"))
        self.problems += [f"{role}: GET {address}: {each}" for each in answer.errors]
        self.marked += MARKER in answer.text if answer.is_html else 0
        if answer.status < 400:
            names = pages.list_query_names(address) | answer.asked_for.get("args", set())
            self.opened.append(Opened(role, route, address, answer.cookies, find_token(answer), names))
        return answer

    def _list_forms(
        self, role: str, page: pages.Page, answer: Answer, snapshot: Snapshot, steps: int, token: str = ""
    ) -> Iterator[Case]:
        token = find_token(answer) or token
        for form in page.forms:
            route = self.find_route(form.address, form.method)
            if route is None:
                self.problems.append(f"{role}: {answer.address} has a form that leads nowhere: {form.address}")
                continue
            fields = {name: each for name, each in form.fields.items() if each.kind != "submit"}
            others = {name for each in page.forms for name in each.fields} | {"csrf_token"}
            buttons = [each for each in form.fields.values() if each.kind == "submit"]
            for name, value in [(each.name, value) for each in buttons for value in each.choices] or [("", "")]:
                own = fields | ({name: pages.Field(name, "submit", [value], [value])} if name else {})
                yield Case(
                    role,
                    replace(form, fields=own),
                    route,
                    answer.cookies,
                    token,
                    snapshot,
                    answer.text,
                    steps,
                    f"{name}={value}" if name else "",
                    others,
                )

    def send(
        self,
        case: Case,
        parts: Parts,
        *,
        address: str = "",
        htmx: bool = False,
        headers: Mapping[str, str] | None = None,
        cookies: dict[str, str] | None = None,
        multipart: bool = False,
    ) -> Answer:
        body, content_type = asking.encode_form(parts, case.form.multipart or multipart)
        address, method = address or case.form.address, case.form.method
        if method in ("get", "delete"):
            # Neither has a body: htmx puts the fields into the query.
            address += (
                ("&" if "?" in address else "?") + body.decode("latin-1") if body and not case.form.multipart else ""
            )
            body, content_type = b"", ""
        sent = dict(headers or {})
        if htmx or case.form.is_htmx:
            sent["HX-Request"] = "true"
            sent.setdefault("X-CSRFToken", case.token)
        return self.asker.ask(
            method,
            address,
            case.cookies if cookies is None else cookies,
            body=body,
            content_type=content_type,
            headers={k: v for k, v in sent.items() if v},
        )

    def list_good_parts(self, case: Case) -> list[tuple[str, bytes, str | None]]:
        """What a person would send: what the page gives, and good values where it leaves a field empty."""
        parts: list[tuple[str, bytes, str | None]] = []
        for each in case.form.fields.values():
            given = [value.encode() for value in each.values if value]
            good = self.fill_in(case, each.name, bool(given))
            given = [] if good else given
            if each.kind == "file":
                parts += [(each.name, content, f"{each.name}.pdf") for content in good]
            elif each.kind in ("checkbox", "radio"):
                parts += [(each.name, value, None) for value in given or good]
            else:
                parts += [(each.name, value, None) for value in given or good or [b""]]
        return parts

    def _control(self, case: Case) -> Iterator[Case]:
        """Send it with good values; yield what the answer offers then. By htmx, too, where that is asked otherwise."""
        self.reached.add((case.route.endpoint, case.form.method.upper()))
        for htmx in (False, True):
            if case.form.is_htmx and not htmx:
                continue
            case.snapshot.restore()
            version = read_version(self.conn)
            answer = self.send(case, self.list_good_parts(case), htmx=htmx)
            self.problems += [f"{case}: {each}" for each in answer.errors]
            case.more_fields |= answer.asked_for.get("form", set()) - case.fields_of_page - case.form.fields.keys()
            case.queries |= pages.list_query_names(case.form.address) | answer.asked_for.get("args", set())
            taken = answer.status < 400 and not answer.location.startswith("/login?")
            if taken:
                case.controlled = True
                case.changed |= read_version(self.conn) != version
            else:
                case.refusal = f"{answer.status} {_list_errors(answer)}"
            if taken and case.steps < _STEPS:
                yield from self._follow(case, answer)

    def _follow(self, case: Case, answer: Answer) -> Iterator[Case]:
        snapshot = case.snapshot.take_another(self.conn)
        if answer.location.startswith("/"):
            answer = self.asker.ask("GET", answer.location, answer.cookies)
            self.problems += [f"{case}, then {answer.address}: {each}" for each in answer.errors]
            route = self.find_route(answer.address, "GET")
            if route:
                self.reached.add((route.endpoint, "GET"))
        if answer.status == 200 and answer.is_html:
            page = pages.read_page(answer.text, answer.address)
            for found in self._list_forms(case.role, page, answer, snapshot, case.steps + 1, case.token):
                is_login = case.role != NOBODY and found.route.endpoint.startswith("login.login")
                if found.form.method != "get" and found.key not in self._seen and not is_login:
                    yield found


def _list_addresses(form: Form) -> Iterator[str]:
    """Where a form leads that only asks: with what it has, and with all ticked that can be."""
    fields = form.fields.values()
    asked = [(each.name, value) for each in fields for value in each.values]
    ticked = [(each.name, value) for each in fields if each.kind == "checkbox" for value in each.choices]
    for pairs in (asked, ticked):
        query = asking.encode_query([(name, value.encode()) for name, value in pairs])
        yield f"{form.address}{'&' if '?' in form.address else '?'}{query}" if query else form.address


def find_token(answer: Answer) -> str:
    found = _TOKEN.search(answer.text) if answer.is_html else None
    return (found[1] or found[2]) if found else ""


def _list_errors(answer: Answer) -> str:
    text = re.sub(
        r"<[^>]+>",
        " ",
        " ".join(re.findall(r'class="error"[^>]*>.*?</p>|role="alert">.*?</div>\s*</div>', answer.text, re.DOTALL)),
    )
    return " ".join(text.split())[:200]


def read_version(conn: sqlite3.Connection) -> int:
    version: int = conn.execute("PRAGMA data_version").fetchone()[0]
    return version
