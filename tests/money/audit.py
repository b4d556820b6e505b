"""Compares what happened in a database with the simple model, operation by operation, in the order of the commits."""

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from portal.core import db
from portal.services.common import ids
from portal.services.credits import alerts, ledger
from portal.services.operations import self_check
from portal.services.statistics import rollup
from tests.money import event_log
from tests.money.event_log import LoggedEvent
from tests.money.model import CreditModel, Effect, is_refusal
from tests.money.operations import Answer, Operation

_MOVEMENT_EVENTS = ("movement", "usage")


@dataclass(slots=True)
class OperationAttempt:
    """An operation that a process began, and its answer.

    `start_seq` and `end_seq` are the numbers of the last events before it and after its answer. Without an answer the
    process was killed before it had one, or before it could store it.
    """

    operation: Operation
    start_seq: int
    answered: bool = False
    answer: Answer = None
    end_seq: int = 0
    answered_at: int = 0
    """Milliseconds since 1970."""


@dataclass
class ModelComparison:
    """Replays the event log of a database on a model, and collects the differences.

    Args:
        model: the state of the database when the event log began.
    """

    model: CreditModel
    problems: list[str] = field(default_factory=list)
    last_seq: int = 0
    """The last event that was replayed."""
    _operation_seqs: dict[str, int] = field(default_factory=dict)
    """The last event of each operation."""
    _texts_by_id: dict[int, str] = field(default_factory=dict)
    _ids_by_text: dict[str, int] = field(default_factory=dict)
    _form_seqs: dict[str, int] = field(default_factory=dict)
    _order_closed_seqs: dict[int, int] = field(default_factory=dict)
    _message_ended_seqs: dict[int, int] = field(default_factory=dict)
    _refund_seqs: dict[int | None, int] = field(default_factory=dict)
    _expiry_counts: Counter[str] = field(default_factory=Counter)
    _balances: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    """Each account's balances, with the event since which it has them."""
    _ledger_balances: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for account_id, account in self.model.accounts.items():
            self._balances[account_id] = [(0, account.balance)]
            self._ledger_balances[account_id] = account.balance

    def replay_log(self, conn: sqlite3.Connection, attempts: Mapping[str, OperationAttempt]) -> None:
        """Replay what has happened since the last time, and judge what these attempts were answered."""
        for key, events in event_log.iterate_operations(conn, self.last_seq):
            self.last_seq = events[-1].seq
            try:
                if key not in attempts:
                    self._add_problem(key, f"nobody asked for it: {events}")
                elif attempts[key].operation["kind"] == "expire":
                    self._replay_expiry(key, events)
                elif key in self._operation_seqs:
                    self._add_problem(key, "was done twice, or in more than one transaction")
                else:
                    self._replay_operation(key, attempts[key], events)
            except KeyError as missing:
                self._add_problem(key, f"is about what is not there: {missing}", attempts[key])
            self._operation_seqs[key] = self.last_seq
        for key, attempt in attempts.items():
            if attempt.answered and attempt.operation["kind"] == "expire":
                self._check_equal(f"{key}: movements", attempt.answer, self._expiry_counts[key])
            elif key not in self._operation_seqs and attempt.answered:
                try:
                    for problem in self._check_no_effect(attempt):
                        self._add_problem(key, problem, attempt)
                except KeyError as missing:
                    self._add_problem(key, f"is about what is not there: {missing}", attempt)

    def _add_problem(self, key: str, problem: str, attempt: OperationAttempt | None = None) -> None:
        self.problems.append(f"{key}: {problem}" + (f" ({attempt.operation})" if attempt else ""))

    def _replay_operation(self, key: str, attempt: OperationAttempt, events: list[LoggedEvent]) -> None:
        self._index_events(events)
        # Ids hold it to the millisecond, which decides about days and dates.
        at = next((ids.time_from_id(each.values[0]) for each in events if each.kind == "message"), events[0].at)
        movement_ids = {each.values[1:3]: each.values[0] for each in events if each.kind in _MOVEMENT_EVENTS}
        answer, expected = self.model.apply(key, attempt.operation, at, movement_ids)
        if is_refusal(answer):
            self._add_problem(key, f"was done, but had to be refused: {answer}", attempt)
        if (effects := self._count_effects(events)) != expected:
            self._add_problem(key, f"did not {dict(expected - effects)}, but {dict(effects - expected)}", attempt)
        self._assign_lot_movements(events)
        if attempt.answered and (actual_answer := self._answer_with_texts(attempt)) != answer:
            self._add_problem(key, f"was answered {actual_answer}, and had to be {answer}", attempt)
        self._check_balances(key, events)
        if form := attempt.operation.get("form"):
            self._form_seqs[form] = events[-1].seq

    def _replay_expiry(self, key: str, events: list[LoggedEvent]) -> None:
        """One or more lots of those that an operation lets run out, each in a transaction of its own."""
        lots = [(event.values[0], event.values[1], event.values[2]) for event in events if event.kind == "ran out"]
        count, expected = self.model.expire_lots(lots, events[0].at)
        self._expiry_counts[key] += count
        if (effects := self._count_effects(events)) != expected:
            self._add_problem(key, f"did not let run out {dict(expected - effects)}, but {dict(effects - expected)}")
        self._check_balances(key, events)

    def _count_effects(self, events: list[LoggedEvent]) -> Counter[Effect]:
        return Counter(effect for event in events if (effect := self._effect_from_event(event)) is not None)

    def _assign_lot_movements(self, events: list[LoggedEvent]) -> None:
        """Tell the model by which movements its newest lots have come."""
        for account_id, movement, expires_at, amount in (event.values for event in events if event.kind == "lot"):
            new_lots = [
                lot
                for lot in self.model.lots
                if (lot.account, lot.expires_at, lot.movement) == (account_id, expires_at, None)
            ]
            # Two refunds of one transaction may expire at the same moment: the amount tells which is which.
            if new_lots:
                min(new_lots, key=lambda lot: lot.remaining != amount).movement = movement

    def _index_events(self, events: list[LoggedEvent]) -> None:
        for event in events:
            if event.kind == "message":
                self._texts_by_id[event.values[0]] = event.values[2]
                if event.values[2] in self._ids_by_text:
                    self._add_problem(event.key, f"the message {event.values[2]} is there twice")
                self._ids_by_text[event.values[2]] = event.values[0]
            elif event.kind in ("paid", "cancelled"):
                self._order_closed_seqs[event.values[0]] = event.seq
            elif event.kind == "ended":
                self._message_ended_seqs[event.values[0]] = event.seq
            elif event.kind == "movement" and event.values[2] == ledger.REFUND:
                self._refund_seqs[event.values[7]] = event.seq

    def _effect_from_event(self, event: LoggedEvent) -> Effect | None:
        """Convert an event to the model's form, in which messages are identified by their texts."""
        values: tuple[Any, ...] = event.values
        if event.kind == "balance":
            return None  # each has its movement; both are compared in `_check_balances`
        if event.kind == "message":
            return event.kind, *values[1:]
        if event.kind in ("ended", "sent"):
            return event.kind, self._texts_by_id.get(values[0]), *values[1:]
        if event.kind == "lot":
            return event.kind, values[0], *values[2:]
        if event.kind in _MOVEMENT_EVENTS:
            _, account, kind, amount, _, counterpart, messages, first, last = values
            return "movement", account, kind, amount, counterpart, messages, *map(self._texts_by_id.get, (first, last))
        if event.kind == "notice" and values[1] != alerts.LOW:
            return event.kind, *values[:2]  # before the debit, in whose transaction it is
        return event.kind, *values

    def _check_balances(self, key: str, events: list[LoggedEvent]) -> None:
        for event in events:
            if event.kind == "balance":
                account_id, before, after = event.values
                if before != self._balances[account_id][-1][1]:
                    self._add_problem(key, f"account {account_id} held {before}, and was not left with that")
                self._balances[account_id].append((event.seq, after))
            elif event.kind in _MOVEMENT_EVENTS:
                _, account_id, _, amount, after, *_ = event.values
                if self._ledger_balances[account_id] + amount != after:
                    self._add_problem(key, f"movement {event.values[0]} does not follow from the one before it")
                self._ledger_balances[account_id] = after
                if after < 0:
                    self._add_problem(key, f"account {account_id} is left with {after}")
        for account_id, account in self.model.accounts.items():
            balance = self._balances[account_id][-1][1]
            if not balance == self._ledger_balances[account_id] == account.balance:
                ledger_balance = self._ledger_balances[account_id]
                self._add_problem(
                    key, f"{account_id} holds {balance}, ledger {ledger_balance}, model {account.balance}"
                )
                # So each difference is reported once.
                account.balance = self._ledger_balances[account_id] = balance

    def _answer_with_texts(self, attempt: OperationAttempt) -> Answer:
        """Convert an answer to the model's form, in which messages are identified by their texts."""
        if attempt.operation["kind"] != "submit":
            return attempt.answer
        return [each if each is None else self._texts_by_id.get(each, "no message") for each in attempt.answer]

    def _check_no_effect(self, attempt: OperationAttempt) -> Iterator[str]:
        """What is wrong about an answer to something that has left no trace."""
        operation, answer = attempt.operation, attempt.answer
        kind, refused = operation["kind"], answer.get("refused") if isinstance(answer, dict) else None
        if refused == "FormAlreadySent":
            if self._form_seqs.get(operation["form"], attempt.end_seq + 1) > attempt.end_seq:
                yield "was refused as sent before, which it was not"
        elif refused == "NotEnoughCredits":
            account = operation["source"] if kind == "transfer" else operation["account"]
            if self._lowest_balance(account, attempt) >= abs(operation["amount"]):
                yield "was refused, and there were enough credits all the time"
        elif refused in ("OrderClosed", "OrderCredited"):
            order = self.model.orders[operation["order"]]
            if (
                refused == "OrderClosed"
                and self._order_closed_seqs.get(operation["order"], attempt.end_seq + 1) > attempt.end_seq
            ):
                yield "was refused, and the order was open"
            if refused == "OrderCredited" and not order.credited:
                yield "was refused as credited, which it never was"
        elif refused == "DateOutOfRange":
            if operation["expires_at"] > attempt.answered_at:
                yield "was refused for a date that was still to come"
        elif refused == "MessageNotFinished":
            if self._message_ended_seqs.get(operation["message"][0], attempt.end_seq + 1) <= attempt.start_seq:
                yield "was refused as on its way, and had ended before"
        elif refused == "AlreadyRefunded":
            if self._refund_seqs.get(operation["message"][0], attempt.end_seq + 1) > attempt.end_seq:
                yield "was refused as given back, which it was not"
        elif refused == "MessageWasFree":
            if self.model.messages[operation["message"][1]].price:
                yield "was refused as for nothing, and cost something"
        elif refused == "NotBlacklisted":
            return
        elif refused is not None:
            yield f"was refused: {answer}"
        elif kind == "cancel":
            if any(answer):
                yield "was told that messages were called back, and none was"
        elif kind not in ("finish", "due", "list") and answer != []:
            yield f"was acknowledged ({answer}), and is not there"

    def _lowest_balance(self, account_id: int, attempt: OperationAttempt) -> int:
        """The least that an account held while an operation was under way."""
        history = self._balances[account_id]
        before = [balance for seq, balance in history if seq <= attempt.start_seq][-1]
        return min([before] + [balance for seq, balance in history if attempt.start_seq < seq <= attempt.end_seq])

    # --- the end

    def compare_final_state(self, conn: db.Connection) -> None:
        """Compare what is there now with the model, and have the program check itself."""
        self.problems += [f"check: {each}" for each in self_check.list_problem_texts(conn)]
        rows = conn.execute("SELECT id, balance FROM accounts").fetchall()
        self._check_equal(
            "balances", dict(map(tuple, rows)), {key: each.balance for key, each in self.model.accounts.items()}
        )
        self._check_equal(
            "sums of movements",
            _sum_movements(conn, self.model),
            {k: v for k, v in self.model.movement_sums.items() if v},
        )
        rows = conn.execute("SELECT text, state, price FROM messages").fetchall()
        stored = {text: (state, price) for text, state, price in rows}
        self._check_equal(
            "messages", stored, {text: (each.state, each.price) for text, each in self.model.messages.items()}
        )
        self._check_equal("number of messages", len(rows), len(stored))
        rollup.roll_up_all(conn)
        months = conn.execute(
            "SELECT account_id, begins, country, source, sent, parts, price FROM statistics"
            f" WHERE length = {rollup.MONTH} AND sent > 0"
        )
        usage: Counter[tuple[object, ...]] = Counter()
        for *month, messages, parts, price in months:
            usage.update({(*month, "messages"): messages, (*month, "parts"): parts, (*month, "price"): price})
        self._check_equal("monthly usage", usage, self.model.usage)
        names = "sent, delivered, failed, price".split(", ")
        row = conn.execute(f"SELECT {', '.join(f'coalesce(sum({name}), 0)' for name in names)} FROM daily_totals")
        self._check_equal("daily totals", dict(zip(names, row.fetchone(), strict=True)), self.model.daily_sums())
        rows = conn.execute(
            "SELECT id, account_id, credits, movement_id IS NOT NULL, paid_at IS NOT NULL OR cancelled_at IS NOT NULL"
            " FROM orders"
        ).fetchall()
        orders = {
            key: (each.account, each.credits, each.credited, each.closed) for key, each in self.model.orders.items()
        }
        self._check_equal("orders", {row[0]: tuple(row)[1:] for row in rows}, orders)
        self._check_conservation()

    def _check_equal(self, subject: str, actual: object, expected: object) -> None:
        if actual != expected:
            self.problems.append(f"{subject}: {_format_difference(actual, expected)}")

    def _check_conservation(self) -> None:
        """Credits come from grants, purchases and corrections, go by usage and expiry, and come back by refunds."""
        sums = self.model.movement_sums
        self._check_equal("transfers out and in", sums["transfer_out"] + sums["transfer_in"], 0)
        initial = sum(history[0][1] for history in self._balances.values())
        changed = sum(sums[kind] for kind in "grant purchase correction refund usage expiry".split())
        self._check_equal(
            "all balances together", sum(each.balance for each in self.model.accounts.values()), initial + changed
        )


def _sum_movements(conn: sqlite3.Connection, model: CreditModel) -> dict[str, int]:
    """The sum of the amounts of each kind of movement since the event log began."""
    rows = conn.execute(
        "SELECT facts ->> '$[2]', sum(facts ->> '$[3]') FROM event_log WHERE what IN ('movement', 'usage') GROUP BY 1"
    )
    return {kind: amount for kind, amount in rows if amount}


def _format_difference(actual: object, expected: object) -> str:
    if isinstance(actual, Mapping) and isinstance(expected, Mapping):
        keys = [key for key in {*actual, *expected} if actual.get(key) != expected.get(key)]
        return "; ".join(f"{key}: {actual.get(key)}, to be {expected.get(key)}" for key in keys[:5])
    return f"{actual}, to be {expected}"
