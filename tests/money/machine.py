"""One process does operations that hypothesis chooses, and shrinks to few steps when one goes wrong."""

import shutil
import sqlite3
import tempfile
from itertools import count
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from portal.core import db
from portal.core.clock import now_ms
from portal.services.common.message_states import DELIVERED, EXPIRED
from portal.services.messages.validation import DEFAULT_VALIDITY_MS
from tests.money import event_log, fixtures, generators
from tests.money.audit import ModelComparison, OperationAttempt
from tests.money.event_log import Recorder
from tests.money.model import CreditModel
from tests.money.operations import perform_operation

_ACCOUNTS = st.integers(1, 6)
# Those of the first customer, and of the second.
_ACCOUNT_PAIRS = st.sampled_from([st.permutations((1, 2, 3, 4)), st.permutations((5, 6))]).flatmap(lambda which: which)
_NUMBERS = st.sampled_from(generators.NUMBERS[:3])
_AMOUNTS = st.integers(1, 100_000)
# Few, so that some are sent twice.
_FORMS = st.sampled_from(["", "a", "b", "c", "d"])
_DELAYS_MS = st.sampled_from([None, 1_000, 60_000])
_SUBMITS = st.tuples(
    _ACCOUNTS,
    _NUMBERS,
    st.integers(1, 5),
    st.sampled_from(sorted(generators.PRICES)),
    st.sampled_from(generators.SOURCES),
    _DELAYS_MS,
    _DELAYS_MS,
)
# How much SQLite does before it is interrupted; most are done before that.
_INTERRUPT_STEPS = st.none() | st.integers(1, 3_000)


class CreditMachine(RuleBasedStateMachine):
    """Each rule is an operation, some of which are interrupted; each is compared with the model at once."""

    template: Path | None = None

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="money-")
        if CreditMachine.template is None:
            CreditMachine.template = fixtures.create_database(Path(tempfile.mkdtemp(prefix="money-template-")))
        file = Path(self._folder.name) / db.FILE_NAME
        shutil.copy(CreditMachine.template, file)
        self._conn = db.connect(file)
        self._recorder = Recorder(self._conn)
        self._comparison = ModelComparison(CreditModel.from_database(self._conn))
        self._ids: dict[str, int] = {}
        self._operation_count = 0

    def teardown(self) -> None:
        self._comparison.compare_final_state(self._conn)
        self._conn.close()
        self._folder.cleanup()
        assert not self._comparison.problems, self._comparison.problems

    def _perform(self, steps: int | None = None, **operation: Any) -> None:
        """Do an operation, interrupted after so many steps of SQLite's machine; None: to its end."""
        self._operation_count += 1
        key = self._recorder.key = f"0.{self._operation_count}"
        attempt = OperationAttempt(operation, event_log.latest_seq(self._conn))
        if steps:
            _interrupt_once(self._conn, steps)
        try:
            attempt.answer = perform_operation(self._conn, key, operation)
            attempt.answered = True
        except sqlite3.OperationalError as error:
            assert steps, error
            # The words may be those of what went wrong just before: a form that was sent twice.
            assert error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT, error
        finally:
            self._conn.set_progress_handler(None, 0)
            self._conn.set_trace_callback(None)
        assert not self._conn.in_transaction
        attempt.end_seq = event_log.latest_seq(self._conn)
        self._comparison.replay_log(self._conn, {key: attempt})
        assert not self._comparison.problems, self._comparison.problems

    @rule(batch=st.lists(_SUBMITS, max_size=12), steps=_INTERRUPT_STEPS)
    def submit(self, batch: list[tuple[Any, ...]], steps: int | None) -> None:
        now, messages = now_ms(), []
        for account, number, parts, country, source, begins_in, expires_in in batch:
            scheduled_at = None if begins_in is None else now + begins_in
            expires_at = None if expires_in is None else (scheduled_at or now) + expires_in
            if scheduled_at is not None and expires_at is None:
                expires_at = scheduled_at + DEFAULT_VALIDITY_MS
            price = parts * generators.PRICES[country]
            messages.append([account, number, parts, price, source, country, scheduled_at, expires_at])
        self._perform(steps, kind="submit", batch=messages)

    @rule(account=_ACCOUNTS, amount=_AMOUNTS, expires_in=_DELAYS_MS, form=_FORMS, steps=_INTERRUPT_STEPS)
    def grant(self, account: int, amount: int, expires_in: int | None, form: str, steps: int | None) -> None:
        expires_at = None if expires_in is None else now_ms() + 10 * expires_in
        self._perform(steps, kind="grant", account=account, amount=amount, expires_at=expires_at, form=form)

    @rule(account=_ACCOUNTS, amount=_AMOUNTS, sign=st.sampled_from([1, -1]), form=_FORMS, steps=_INTERRUPT_STEPS)
    def correct(self, account: int, amount: int, sign: int, form: str, steps: int | None) -> None:
        self._perform(steps, kind="correct", account=account, amount=sign * amount, form=form)

    @precondition(lambda self: self._comparison.model.messages)
    @rule(data=st.data(), steps=_INTERRUPT_STEPS)
    def refund_message(self, data: st.DataObject, steps: int | None) -> None:
        self._perform(steps, kind="refund message", message=self._draw_messages(data)[0])

    @rule(later=st.sampled_from([0, 20_000, 700_000]), steps=_INTERRUPT_STEPS)
    def expire(self, later: int, steps: int | None) -> None:
        """The ledger's time is then later than the clock's, as it is where that was set back."""
        self._perform(steps, kind="expire", now=now_ms() + later)

    @rule(pair=_ACCOUNT_PAIRS, amount=_AMOUNTS, form=_FORMS, steps=_INTERRUPT_STEPS)
    def transfer(self, pair: list[int], amount: int, form: str, steps: int | None) -> None:
        self._perform(steps, kind="transfer", source=pair[0], target=pair[1], amount=amount, form=form)

    @rule(account=_ACCOUNTS, pack=st.sampled_from(generators.PACKS), form=_FORMS, steps=_INTERRUPT_STEPS)
    def order(self, account: int, pack: int, form: str, steps: int | None) -> None:
        self._perform(steps, kind="order", account=account, pack=pack, form=form)

    @precondition(lambda self: self._comparison.model.orders)
    @rule(kind=st.sampled_from(["pay", "cancel order"]), data=st.data(), steps=_INTERRUPT_STEPS)
    def close_order(self, kind: str, data: st.DataObject, steps: int | None) -> None:
        order = data.draw(st.sampled_from(sorted(self._comparison.model.orders)))
        self._perform(steps, kind=kind, order=order)

    @precondition(lambda self: self._comparison.model.messages)
    @rule(data=st.data(), steps=_INTERRUPT_STEPS)
    def cancel(self, data: st.DataObject, steps: int | None) -> None:
        self._perform(
            steps, kind="cancel", messages=[[*each, data.draw(st.booleans())] for each in self._draw_messages(data)]
        )

    @precondition(lambda self: self._comparison.model.messages)
    @rule(data=st.data(), fate=st.sampled_from([[DELIVERED, 0], [EXPIRED, 801]]), steps=_INTERRUPT_STEPS)
    def finish(self, data: st.DataObject, fate: list[int], steps: int | None) -> None:
        self._perform(steps, kind="finish", messages=[[*each, *fate] for each in self._draw_messages(data)])

    def _draw_messages(self, data: st.DataObject) -> list[list[Any]]:
        """Ids and texts of messages, whatever has become of them, each once."""
        rows = {text: message_id for message_id, text in self._conn.execute("SELECT id, text FROM messages")}
        texts = data.draw(st.lists(st.sampled_from(list(rows)), min_size=1, max_size=4, unique=True))
        return [[rows[text], text] for text in texts]

    @rule(later=st.sampled_from([0, 2_000, 100_000, 2 * 86_400_000]), steps=_INTERRUPT_STEPS)
    def release_due(self, later: int, steps: int | None) -> None:
        self._perform(steps, kind="due", now=now_ms() + later)

    @rule(account=_ACCOUNTS, number=_NUMBERS, steps=_INTERRUPT_STEPS)
    def blacklist(self, account: int, number: str, steps: int | None) -> None:
        self._perform(steps, kind="list", account=account, number=number)

    @rule(account=_ACCOUNTS, number=_NUMBERS)
    def unblacklist(self, account: int, number: str) -> None:
        self._perform(kind="unlist", account=account, number=number)


def _interrupt_once(conn: sqlite3.Connection, steps: int) -> None:
    """Interrupt what a connection does at that step, but no ROLLBACK: nothing interrupts one by itself."""
    # With a handler for every so many steps, SQLite would count those that a prepared statement took before.
    step, statement = count(1), [""]
    conn.set_trace_callback(lambda text: statement.__setitem__(0, text))
    conn.set_progress_handler(lambda: next(step) == steps and statement[0] != "ROLLBACK", 1)
