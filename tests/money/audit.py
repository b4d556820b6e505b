"""Compares what happened in a database with the simple model, operation by operation, in the order of the commits."""

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from portal.services.common import ids
from portal.services.credits import alerts, ledger
from portal.services.operations import self_check
from portal.services.statistics import rollup
from tests.money import event_log
from tests.money.event_log import Line
from tests.money.model import Fact, Model, is_refusal
from tests.money.operations import Answer, Operation


@dataclass(slots=True)
class Attempt:
    """An operation that a process was about to do, and what it was answered.

    `since` and `until` are the chronicle's last lines before it and after its answer; without an answer the process was
    killed before it had one, or before it could say so.
    """

    operation: Operation
    since: int
    answered: bool = False
    answer: Answer = None
    until: int = 0
    at: int = 0
    """When it was answered (milliseconds)."""


@dataclass
class Audit:
    """Follows a database's chronicle with a model, and collects what is wrong.

    Args:
        model: as the database was when the chronicle began.
    """

    model: Model
    problems: list[str] = field(default_factory=list)
    seq: int = 0
    """The chronicle's last line that was looked at."""
    _done: dict[str, int] = field(default_factory=dict)
    """Where each operation's last line is."""
    _texts: dict[int, str] = field(default_factory=dict)
    _ids: dict[str, int] = field(default_factory=dict)
    _forms: dict[str, int] = field(default_factory=dict)
    _closed: dict[int, int] = field(default_factory=dict)
    _ended: dict[int, int] = field(default_factory=dict)
    _refunded: dict[int | None, int] = field(default_factory=dict)
    _ran_out: Counter[str] = field(default_factory=Counter)
    _balances: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    """Each account's balances, and the line from which on it had them."""
    _chains: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for account_id, account in self.model.accounts.items():
            self._balances[account_id] = [(0, account.balance)]
            self._chains[account_id] = account.balance

    def follow(self, conn: sqlite3.Connection, attempts: Mapping[str, Attempt]) -> None:
        """Replay what has happened since the last time, and judge what these attempts were answered."""
        for key, lines in event_log.read(conn, self.seq):
            self.seq = lines[-1].seq
            try:
                if key not in attempts:
                    self._wrong(key, f"nobody asked for it: {lines}")
                elif attempts[key].operation["kind"] == "expire":
                    self._run_out(key, lines)
                elif key in self._done:
                    self._wrong(key, "was done twice, or in more than one transaction")
                else:
                    self._replay(key, attempts[key], lines)
            except KeyError as missing:
                self._wrong(key, f"is about what is not there: {missing}", attempts[key])
            self._done[key] = self.seq
        for key, attempt in attempts.items():
            if attempt.answered and attempt.operation["kind"] == "expire":
                self._same(f"{key}: movements", attempt.answer, self._ran_out[key])
            elif key not in self._done and attempt.answered:
                try:
                    for wrong in self._without_effect(attempt):
                        self._wrong(key, wrong, attempt)
                except KeyError as missing:
                    self._wrong(key, f"is about what is not there: {missing}", attempt)

    def _wrong(self, key: str, what: str, attempt: Attempt | None = None) -> None:
        self.problems.append(f"{key}: {what}" + (f" ({attempt.operation})" if attempt else ""))

    def _replay(self, key: str, attempt: Attempt, lines: list[Line]) -> None:
        self._learn(lines)
        # Ids hold it to the millisecond, which decides about days and dates.
        at = next((ids.time_of(each.facts[0]) for each in lines if each.what == "message"), lines[0].at)
        times = {each.facts[1:3]: ids.time_of(each.facts[0]) for each in lines if each.what == "movement"}
        answer, expected = self.model.apply(key, attempt.operation, at, times)
        if is_refusal(answer):
            self._wrong(key, f"was done, but had to be refused: {answer}", attempt)
        if (seen := self._seen(lines)) != expected:
            self._wrong(key, f"did not {dict(expected - seen)}, but {dict(seen - expected)}", attempt)
        self._bind_lots(lines)
        if attempt.answered and (said := self._answer(attempt)) != answer:
            self._wrong(key, f"was answered {said}, and had to be {answer}", attempt)
        self._follow_balances(key, lines)
        if form := attempt.operation.get("form"):
            self._forms[form] = lines[-1].seq

    def _run_out(self, key: str, lines: list[Line]) -> None:
        """One or more lots of those that an operation lets run out, each in a transaction of its own."""
        lots = [(line.facts[0], line.facts[1], line.facts[2]) for line in lines if line.what == "ran out"]
        count, expected = self.model.run_out(lots, lines[0].at)
        self._ran_out[key] += count
        if (seen := self._seen(lines)) != expected:
            self._wrong(key, f"did not let run out {dict(expected - seen)}, but {dict(seen - expected)}")
        self._follow_balances(key, lines)

    def _seen(self, lines: list[Line]) -> Counter[Fact]:
        return Counter(fact for line in lines if (fact := self._fact(line)) is not None)

    def _bind_lots(self, lines: list[Line]) -> None:
        """Tell the model by which movements its newest lots have come."""
        for account_id, movement, expires_at, _ in (line.facts for line in lines if line.what == "lot"):
            for lot in self.model.lots:
                if (lot.account, lot.expires_at, lot.movement) == (account_id, expires_at, None):
                    lot.movement = movement
                    break

    def _learn(self, lines: list[Line]) -> None:
        for line in lines:
            if line.what == "message":
                self._texts[line.facts[0]] = line.facts[2]
                if line.facts[2] in self._ids:
                    self._wrong(line.key, f"the message {line.facts[2]} is there twice")
                self._ids[line.facts[2]] = line.facts[0]
            elif line.what in ("paid", "cancelled"):
                self._closed[line.facts[0]] = line.seq
            elif line.what == "ended":
                self._ended[line.facts[0]] = line.seq
            elif line.what == "movement" and line.facts[2] == ledger.REFUND:
                self._refunded[line.facts[7]] = line.seq

    def _fact(self, line: Line) -> Fact | None:
        """A line of the chronicle in the model's words, in which a message's name is its text."""
        facts: tuple[Any, ...] = line.facts
        if line.what == "balance":
            return None  # each has its movement, which is looked at in `_follow_balances`
        if line.what == "message":
            return line.what, *facts[1:]
        if line.what in ("ended", "sent"):
            return line.what, self._texts.get(facts[0]), *facts[1:]
        if line.what == "lot":
            return line.what, facts[0], *facts[2:]
        if line.what == "movement":
            _, account, kind, amount, _, counterpart, messages, first, last = facts
            return line.what, account, kind, amount, counterpart, messages, *map(self._texts.get, (first, last))
        if line.what == "notice" and facts[1] != alerts.LOW:
            return line.what, *facts[:2]  # before the debit, in whose transaction it is
        return line.what, *facts

    def _follow_balances(self, key: str, lines: list[Line]) -> None:
        for line in lines:
            if line.what == "balance":
                account_id, before, after = line.facts
                if before != self._balances[account_id][-1][1]:
                    self._wrong(key, f"account {account_id} held {before}, and was not left with that")
                self._balances[account_id].append((line.seq, after))
            elif line.what == "movement":
                _, account_id, _, amount, after, *_ = line.facts
                if self._chains[account_id] + amount != after:
                    self._wrong(key, f"movement {line.facts[0]} does not follow from the one before it")
                self._chains[account_id] = after
                if after < 0:
                    self._wrong(key, f"account {account_id} is left with {after}")
        for account_id, account in self.model.accounts.items():
            held = self._balances[account_id][-1][1]
            if not held == self._chains[account_id] == account.balance:
                self._wrong(
                    key, f"{account_id} holds {held}, ledger {self._chains[account_id]}, model {account.balance}"
                )
                # What is wrong is said once.
                account.balance = self._chains[account_id] = held

    def _answer(self, attempt: Attempt) -> Answer:
        """What was answered, in the model's words: the text of a message for its id."""
        if attempt.operation["kind"] != "submit":
            return attempt.answer
        return [each if each is None else self._texts.get(each, "no message") for each in attempt.answer]

    def _without_effect(self, attempt: Attempt) -> Iterator[str]:
        """What is wrong about an answer to something that has left no trace."""
        operation, answer = attempt.operation, attempt.answer
        kind, refused = operation["kind"], answer.get("refused") if isinstance(answer, dict) else None
        if refused == "AlreadySent":
            if self._forms.get(operation["form"], attempt.until + 1) > attempt.until:
                yield "was refused as sent before, which it was not"
        elif refused == "NotEnoughCredits":
            account = operation["source"] if kind == "transfer" else operation["account"]
            if self._lowest(account, attempt) >= abs(operation["amount"]):
                yield "was refused, and there were enough credits all the time"
        elif refused in ("OrderClosed", "OrderCredited"):
            order = self.model.orders[operation["order"]]
            if refused == "OrderClosed" and self._closed.get(operation["order"], attempt.until + 1) > attempt.until:
                yield "was refused, and the order was open"
            if refused == "OrderCredited" and not order.credited:
                yield "was refused as credited, which it never was"
        elif refused == "DateOutOfRange":
            if operation["expires_at"] > attempt.at:
                yield "was refused for a date that was still to come"
        elif refused == "NotFinished":
            if self._ended.get(operation["message"][0], attempt.until + 1) <= attempt.since:
                yield "was refused as on its way, and had ended before"
        elif refused == "AlreadyRefunded":
            if self._refunded.get(operation["message"][0], attempt.until + 1) > attempt.until:
                yield "was refused as given back, which it was not"
        elif refused == "CostNothing":
            if self.model.messages[operation["message"][1]].price:
                yield "was refused as for nothing, and cost something"
        elif refused == "NotListed":
            return
        elif refused is not None:
            yield f"was refused: {answer}"
        elif kind == "cancel":
            if any(answer):
                yield "was told that messages were called back, and none was"
        elif kind not in ("finish", "due", "list") and answer != []:
            yield f"was acknowledged ({answer}), and is not there"

    def _lowest(self, account_id: int, attempt: Attempt) -> int:
        """The least that an account held while an operation was under way."""
        history = self._balances[account_id]
        before = [balance for seq, balance in history if seq <= attempt.since][-1]
        return min([before] + [balance for seq, balance in history if attempt.since < seq <= attempt.until])

    # --- the end

    def compare(self, conn: sqlite3.Connection) -> None:
        """Compare what is there now with the model, and have the program check itself."""
        self.problems += [f"check: {each}" for each in self_check.problems(conn)]
        rows = conn.execute("SELECT id, balance FROM accounts").fetchall()
        self._same("balances", dict(map(tuple, rows)), {key: each.balance for key, each in self.model.accounts.items()})
        self._same("sums of movements", _sums(conn, self.model), {k: v for k, v in self.model.moved.items() if v})
        rows = conn.execute("SELECT text, state, price FROM messages").fetchall()
        stored = {text: (state, price) for text, state, price in rows}
        self._same("messages", stored, {text: (each.state, each.price) for text, each in self.model.messages.items()})
        self._same("number of messages", len(rows), len(stored))
        rollup.gather_all(conn)
        rows = conn.execute(
            "SELECT account_id, begins, country, source, sent, parts, price FROM statistics"
            f" WHERE length = {rollup.MONTH} AND sent > 0"
        )
        usage: Counter[tuple[object, ...]] = Counter()
        for *month, messages, parts, price in rows:
            usage.update({(*month, "messages"): messages, (*month, "parts"): parts, (*month, "price"): price})
        self._same("monthly usage", usage, self.model.usage)
        names = "sent, delivered, failed, price".split(", ")
        row = conn.execute(f"SELECT {', '.join(f'coalesce(sum({name}), 0)' for name in names)} FROM daily_totals")
        self._same("daily totals", dict(zip(names, row.fetchone(), strict=True)), self.model.totals())
        rows = conn.execute(
            "SELECT id, account_id, credits, movement_id IS NOT NULL, paid_at IS NOT NULL OR cancelled_at IS NOT NULL"
            " FROM orders"
        ).fetchall()
        orders = {
            key: (each.account, each.credits, each.credited, each.closed) for key, each in self.model.orders.items()
        }
        self._same("orders", {row[0]: tuple(row)[1:] for row in rows}, orders)
        self._conserve()

    def _same(self, what: str, found: object, expected: object) -> None:
        if found != expected:
            self.problems.append(f"{what}: {_short(found, expected)}")

    def _conserve(self) -> None:
        """Credits come from grants, purchases and corrections, go by usage and expiry, and come back by refunds."""
        moved = self.model.moved
        self._same("transfers out and in", moved["transfer_out"] + moved["transfer_in"], 0)
        begun = sum(history[0][1] for history in self._balances.values())
        changed = sum(moved[kind] for kind in "grant purchase correction refund usage expiry".split())
        self._same("all balances together", sum(each.balance for each in self.model.accounts.values()), begun + changed)


def _sums(conn: sqlite3.Connection, model: Model) -> dict[str, int]:
    """What each kind of movement has changed since the chronicle began."""
    rows = conn.execute(
        "SELECT facts ->> '$[2]', sum(facts ->> '$[3]') FROM chronicle WHERE what = 'movement' GROUP BY 1"
    )
    return {kind: amount for kind, amount in rows if amount}


def _short(found: object, expected: object) -> str:
    if isinstance(found, Mapping) and isinstance(expected, Mapping):
        keys = [key for key in {*found, *expected} if found.get(key) != expected.get(key)]
        return "; ".join(f"{key}: {found.get(key)}, to be {expected.get(key)}" for key in keys[:5])
    return f"{found}, to be {expected}"
