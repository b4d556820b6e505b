"""What the crawler does with each form and each page, and what must follow from it."""

import json
import secrets
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from urllib.parse import parse_qsl, quote, quote_from_bytes

from tests.web.billing import ordering
from tests.web.crawling import asking, values
from tests.web.crawling.asking import Answer
from tests.web.crawling.values import Value
from tests.web.crawling.walking import Case, Opened, Route, Walker, read_version
from tests.web.crawling.world import (
    COMMON_TABLES,
    GLOBEX_WORD,
    REFUSAL_TRACES,
    REFUSED_PAYMENT_TRACES,
    TRACES,
    Change,
    Ledger,
    Snapshot,
    read_rows,
)

_Part = tuple[str, bytes, str | None]
OPERATOR = "operator"
_NO_CHANGE: dict[str, str] = {}


@dataclass
class Attacker:
    """Args:
    customer: the id of the customer whose people act, where they are no operators.
    """

    walker: Walker
    conn: sqlite3.Connection
    customer: int
    ledger: Ledger
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    # --- values

    def send_values(self, case: Case, names: Iterable[str]) -> None:
        """Send the form with each value in each of these fields in turn, the others as they should be."""
        good = self.walker.list_good_parts(case)
        self.counts["forms"] += 1
        texts = values.OF_OPERATORS if case.role == OPERATOR else values.ALL
        for name in names:
            self.counts["fields"] += 1
            is_file = case.form.fields[name].kind == "file" if name in case.form.fields else False
            # Each form has its token, which one function looks at.
            is_token = name.endswith("csrf_token")
            for value in values.FILES if is_file else values.SOME[::4] if is_token else texts:
                what = f"{name} = {value.kind}: {value.name}"
                # A whole page shows a value in more places; a part of it takes less time.
                htmx = value.kind != "script"
                parts = [*_replace(good, name, value)]
                self._send(case, parts, value.kind, what, htmx=htmx, multipart=value.as_file)
            for file in values.FILE_NAMES if is_file else ():
                parts = [(n, content, f if f is None else file) for n, content, f in good]
                self._send(case, parts, "file name", f"{name} is called {file[:40]!r}", multipart=True)

    def send_addresses(self, case: Case) -> None:
        """Send the good form to addresses with wrong values in them, and in their queries."""
        good = self.walker.list_good_parts(case)
        self.counts["parameters"] += len(case.queries)
        for name in sorted(case.queries):
            for value in values.FEW:
                address = _replace_in_query(case.form.address, name, value)
                self._send(case, good, "query", f"?{name} = {value.name}", address=address, htmx=value.kind != "script")
        for value in values.FEW:
            for name, _ in case.route.arguments:
                address = _replace_in_address(case.form.address, case.route, name, value)
                if address:
                    self._send(case, good, "address", f"<{name}> = {value.name}", address=address, htmx=True)

    def send_shapes(self, case: Case) -> None:
        """Send bodies that are no form, or no good one."""
        good = self.walker.list_good_parts(case)
        body, _ = asking.encode_form(good, False)
        as_json = json.dumps(dict.fromkeys((name for name, _, _ in good), 7)).encode()
        bodies = [
            ("application/json", as_json),
            ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\nx"),
            ("application/x-www-form-urlencoded; charset=utf-16", body),
            ("application/x-www-form-urlencoded", b"%&&==%zz&" * 1000 + body),
        ]
        if values.SENDS_ALL:
            many = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' * 200 + b"--x--"
            bodies += [
                ("application/json", b"[7, null]"),
                ("application/json", b"[" * 10_000),
                ("multipart/form-data", body),
                ("multipart/form-data; boundary=x", many),
            ]
        for kind, sent in bodies:
            send = partial(
                self.walker.asker.ask,
                case.form.method,
                case.form.address,
                case.cookies,
                body=sent,
                content_type=kind,
                headers={"X-CSRFToken": case.token},
            )
            self._judge_sent(case, "body", f"{kind}, {len(sent)} octets", send)

    # --- other people's rows

    def send_others_ids(
        self, case: Case, fields: Iterable[str], names: Sequence[str], ids: Sequence[str], *, address: bool
    ) -> None:
        """Send the form with names and ids of another customer in these fields and, where wanted, in its address."""
        good = self.walker.list_good_parts(case)
        if address:
            for name, other in product(sorted(case.queries), [*ids[:3], *names]):
                value = Value("others' ids", other, other.encode())
                replaced = _replace_in_query(case.form.address, name, value)
                self._send(case, good, "others' ids", f"?{name} = {other}", address=replaced, htmx=False)
            for what, other in _list_others_addresses(case.form.address, case.route, names, ids):
                self._send(case, good, "others' ids", what, address=other, htmx=False)
        for name in fields:
            for other in [] if name in ("csrf_token", "form") else _list_others(case, name, names, ids):
                value = Value("others' ids", other, other.encode())
                self._send(case, [*_replace(good, name, value)], "others' ids", f"{name} = {other}", htmx=True)

    def ask_others_ids(self, page: Opened, snapshot: Snapshot, names: Sequence[str], ids: Sequence[str]) -> None:
        """Ask for a page with names and ids of another customer in its address and in its query."""
        path = page.address.partition("?")[0]
        for what, other in _list_others_addresses(path, page.route, names, ids):
            self._ask(page, other, what, snapshot, htmx=False)
        for name in sorted(page.names):
            for other in [*ids[:3], *names]:
                query = asking.encode_query([(name, other.encode())])
                self._ask(page, f"{path}?{query}", f"{name} = {other}", snapshot, htmx=True)

    # --- forged

    def send_forged(self, case: Case, other_token: str) -> None:
        """Send the good form without the token, with somebody else's, and from another site: nothing may change."""
        good = self.walker.list_good_parts(case)
        bare = [each for each in good if not each[0].endswith("csrf_token")]
        foreign = {"Origin": "https://evil.example", "Referer": "https://evil.example/"}
        for what, parts, headers in (
            ("no token", bare, {}),
            ("an empty token", [*bare, ("csrf_token", b"", None)], {}),
            ("another person's token", [*bare, ("csrf_token", other_token.encode(), None)], {}),
            ("another site, no token", bare, foreign),
            ("another site, with the token", good, foreign),
            ("a sandboxed page, with the token", good, {"Origin": "null"}),
            ("another site as its browser says, with the token", good, {"Sec-Fetch-Site": "cross-site"}),
            ("another host of the domain, with the token", good, {"Sec-Fetch-Site": "same-site"}),
        ):
            for htmx in (False, True):
                # What has no csrf_token among its fields is sent by htmx, with a header that only `good` may have.
                token = case.token if parts is good else ""
                self._send(
                    case,
                    parts,
                    "forged",
                    what,
                    htmx=htmx,
                    headers={**headers, "X-CSRFToken": token},
                    allowed=_NO_CHANGE,
                )

    def send_as(self, case: Case, cookies: dict[str, str], token: str) -> None:
        """Send somebody's form as somebody who may not."""
        good = [each for each in self.walker.list_good_parts(case) if not each[0].endswith("csrf_token")]
        parts = [*good, ("csrf_token", token.encode(), None)]
        for htmx in (False, True):
            self._send(
                case,
                parts,
                "by a viewer",
                "as a viewer",
                htmx=htmx,
                headers={"X-CSRFToken": token},
                cookies=cookies,
                allowed=_NO_CHANGE,
            )

    # --- the payment page

    def call_back(self, snapshot: Snapshot, good: Mapping[str, object]) -> None:
        """Call back as the payment page does, with JSON of each type in each field."""
        bodies = [(f"{name} = {str(each)[:40]!r}", {**good, name: each}) for name in good for each in values.JSON]
        bodies += [(f"without {name}", {n: each for n, each in good.items() if n != name}) for name in good]
        sent = [(what, json.dumps(each).encode()) for what, each in bodies]
        sent += [(f"body = {str(each)[:40]!r}", json.dumps(each).encode()) for each in values.JSON]
        sent += [(each.name, each.octets) for each in values.ALL if each.octets is not None]
        for signed in (True, False):
            for what, body in sent:
                self._enter(snapshot)
                before = read_version(self.conn)
                headers = ordering.sign(body) if signed else {"webhook-id": "m1"}
                answer = self.walker.asker.ask(
                    "POST", "/payments/callback", {}, body=body, content_type="application/json", headers=headers
                )
                self.counts["posts, signed" if signed else "posts, unsigned"] += 1
                self.counts["taken"] += answer.status < 400
                problems = list(answer.errors)
                if read_version(self.conn) != before:
                    allowed = None if answer.status < 400 else REFUSED_PAYMENT_TRACES if signed else _NO_CHANGE
                    problems += self._find_changes(snapshot, allowed, "payment page")
                    snapshot.restore()
                self._note(problems, f"callback, signed: {signed}: {what}")

    # --- queries

    def ask_queries(self, page: Opened, names: Iterable[str], snapshot: Snapshot) -> None:
        """Ask for a page with each value in each of these parameters of its query."""
        path = page.address.partition("?")[0]
        for name in sorted(names):
            self.counts["parameters"] += 1
            for value in values.SOME:
                if value.octets is not None and not value.as_file:
                    query = asking.encode_query([(name, value.octets)] * value.times)
                    self._ask(page, f"{path}?{query}", f"{name} = {value.name}", snapshot, htmx=value.kind != "script")

    def ask_addresses(self, page: Opened, snapshot: Snapshot) -> None:
        """Ask for a page with each value in each argument of its address."""
        for argument, _ in page.route.arguments:
            for value in values.SOME:
                address = _replace_in_address(page.address, page.route, argument, value)
                if address:
                    self._ask(page, address, f"<{argument}> = {value.name}", snapshot, htmx=False)

    def _ask(self, page: Opened, address: str, what: str, snapshot: Snapshot, htmx: bool) -> None:
        headers = {"HX-Request": "true"} if htmx else {}
        self._enter(snapshot)
        before = read_version(self.conn)
        answer = self.walker.asker.ask("GET", address, page.cookies, headers=headers)
        self.counts["queries"] += 1
        problems = [*answer.errors, *self._find_leaks(page.role, answer)]
        if read_version(self.conn) != before:
            problems += self._find_changes(snapshot, _NO_CHANGE, page.role)
            snapshot.restore()
        self._note(problems, f"{page.role}: GET {path_of(address)}: {what}")

    # --- what stays

    def plant(self, case: Case, script: Value) -> None:
        """Send the form with a script in each field that takes one, and keep what it changes."""
        assert script.octets is not None
        good = self.walker.list_good_parts(case)
        for each in case.form.fields.values():
            if each.kind not in ("text", "textarea", "hidden", "email", "file") or each.name == "csrf_token":
                continue
            parts = [*_replace(good, each.name, script)]
            # A key is good once.
            parts = [(n, secrets.token_hex().encode() if n == "form" else c, f) for n, c, f in parts]
            before = read_version(self.conn)
            answer = self.walker.send(case, parts)
            self.counts["posts"] += 1
            if answer.status < 400 and read_version(self.conn) != before:
                self.counts["fields that have taken it"] += 1
            self._note(answer.errors, f"{case}: {each.name} = {script.name}")

    # --- judging

    def _send(
        self,
        case: Case,
        parts: Sequence[_Part],
        kind: str,
        what: str,
        *,
        address: str = "",
        htmx: bool = False,
        headers: Mapping[str, str] | None = None,
        cookies: dict[str, str] | None = None,
        allowed: dict[str, str] | None = None,
        multipart: bool = False,
    ) -> None:
        def send() -> Answer:
            return self.walker.send(
                case, parts, address=address, htmx=htmx, headers=headers, cookies=cookies, multipart=multipart
            )

        self._judge_sent(case, kind, what, send, allowed)

    def _judge_sent(
        self,
        case: Case,
        kind: str,
        what: str,
        send: Callable[[], Answer],
        allowed: dict[str, str] | None = None,
    ) -> None:
        """Look at the answer, and at what has changed; afterwards the database is as before."""
        self._enter(case.snapshot)
        before = read_version(self.conn)
        answer = send()
        self.counts["posts"] += 1
        self.counts[f"posts, {kind}"] += 1
        problems = [*answer.errors, *self._find_leaks(case.role, answer)]
        taken = answer.status < 400
        if read_version(self.conn) != before:
            if allowed is None and not taken:
                allowed = REFUSAL_TRACES
            problems += self._find_changes(case.snapshot, allowed, case.role)
            case.snapshot.restore()
        self.counts["posts that were taken"] += taken
        self._note(problems, f"{case}: {what}")

    _entered: Snapshot | None = None

    def _enter(self, snapshot: Snapshot) -> None:
        if self._entered is not snapshot:
            snapshot.restore()
            self._entered = snapshot

    def _find_changes(self, snapshot: Snapshot, allowed: dict[str, str] | None, role: str) -> Iterator[str]:
        """What has changed that must not; with `allowed` nothing but that."""
        changes = self.ledger.list_changes(snapshot.rows, read_rows(self.conn))
        changes = [each for each in changes if not each.is_among(TRACES)]
        if allowed is not None:
            yield from (f"{each} has changed" for each in changes if not each.is_among(allowed))
        elif role == OPERATOR:
            owners = {each.owner for each in changes} - {None}
            if len(owners) > 1:
                yield f"rows of several customers have changed: {[str(each) for each in changes]}"
        else:
            yield from (f"{each} has changed" for each in changes if not self._is_own(each))

    def _is_own(self, change: Change) -> bool:
        return change.owner == self.customer or (change.owner is None and change.is_among(COMMON_TABLES))

    def _find_leaks(self, role: str, answer: Answer) -> Iterator[str]:
        if role != OPERATOR and GLOBEX_WORD.lower().encode() in answer.body.lower():
            yield "it tells what is another customer's"

    def _note(self, problems: Iterable[str], where: str) -> None:
        self.problems += [f"{where}: {each}" for each in problems]


def path_of(address: str) -> str:
    return address.partition("?")[0][:100]


def _replace(good: Sequence[_Part], name: str, value: Value) -> Iterator[_Part]:
    """The parts with this value in place of the field's."""
    places = [n for n, each in enumerate(good) if each[0] == name]
    place = places[0] if places else len(good)
    for n, each in enumerate([*good, None]):
        if n == place and value.octets is not None:
            file = "file.pdf" if value.as_file else None
            yield from [(name, value.octets, file)] * value.times
        if each is not None and n not in places:
            yield each


def _replace_in_address(address: str, route: Route, name: str, value: Value) -> str:
    """The address with raw octets in place of one of its arguments; empty where they would make it another address."""
    current = quote(str(dict(route.arguments)[name]))
    # Servers refuse longer ones.
    octets = (value.octets or b"")[:8000]
    if not octets or f"/{current}" not in address or value.as_file:
        return ""
    return address.replace(f"/{current}", f"/{quote_from_bytes(octets, '')}", 1)


def _replace_in_query(address: str, name: str, value: Value) -> str:
    """The address with this value in its query in place of what is there."""
    path, _, query = address.partition("?")
    kept = [(each, text.encode()) for each, text in parse_qsl(query) if each != name]
    return f"{path}?{asking.encode_query([*kept, *[(name, value.octets or b'')] * value.times])}"


def _list_others(case: Case, name: str, names: Sequence[str], ids: Sequence[str]) -> Sequence[str]:
    """Numbers for a field that has them, and words for one that has these; all where that is unknown."""
    field = case.form.fields.get(name)
    if field and field.kind in ("text", "textarea", "email"):
        return names
    kinds = {each.isdecimal() for each in (*field.values, *field.choices) if each} if field else set()
    return [each for each in (*ids, *names) if not kinds or each.isdecimal() in kinds]


def _list_others_addresses(
    address: str, route: Route, names: Sequence[str], ids: Sequence[str]
) -> Iterator[tuple[str, str]]:
    for argument, current in route.arguments:
        for other in ids if isinstance(current, int) else names:
            value = Value("others' ids", other, other.encode())
            replaced = _replace_in_address(address, route, argument, value)
            if replaced:
                yield f"<{argument}> = {other}", replaced
