"""All that the SMPP server asks of the rest of the program.

On one machine SQLite answers (`sqlite`); on several it would be a replicated broker, and nothing else in
this package would change. Every method is called on the event loop and returns at once; what takes time comes back by
a callback on the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from portal.services.accounts.refused_binds import RefusedBind
from portal.services.accounts.session_records import Connection, Ending, Progress
from portal.services.messages.deliveries import Deliverable
from portal.services.messages.inbound import FromHandset
from portal.services.messages.outcomes import Outcome, Whereabouts
from portal.services.messages.smpp_config import AccountConfig
from portal.services.messages.validation import Submit, ToSend
from portal.services.prices.prices import PriceList


class Refusal(Exception):
    """Why something was not done. Also handed to callbacks, as a value."""


class NoCredit(Refusal):
    """The account's balance does not cover the message. It is recorded as refused, nothing is charged."""


class Unavailable(Refusal):
    """Certainly not stored: the database is locked, full or read-only. The same submit may be tried again."""


class InDoubt(Refusal):
    """May be stored or not.

    To be answered by closing the session, never by an error PDU: that would invite a second copy.
    """


class BindLimit(Refusal):
    """As many binds of that kind as the account may have are open."""


class BindKind(StrEnum):
    """What a session may do; the words are those that pages show."""

    TRANSMITTER = "transmitter"
    RECEIVER = "receiver"
    TRANSCEIVER = "transceiver"

    @property
    def sends(self) -> bool:
        return self is not BindKind.RECEIVER

    @property
    def receives(self) -> bool:
        return self is not BindKind.TRANSMITTER


@dataclass(frozen=True, slots=True)
class BindSlot:
    """A place among an account's binds, taken until `release_bind`."""

    account_id: int
    kind: BindKind


Resolve = Callable[[int | Refusal], None]
"""What `accept` answers with: the message's id, or why there is none."""


class Storage(Protocol):
    """See the module; the methods are in the order in which a session meets them."""

    def account(self, system_id: str) -> AccountConfig | None:
        """Return the account of that name, from memory."""

    def password_digest(self, password: str) -> bytes:
        """Return what `AccountConfig.password_id` compares."""

    def on_account_change(self, callback: Callable[[AccountConfig], None]) -> None:
        """Have `callback` called with each account that changes, once the change is in force for new binds."""

    def acquire_bind(self, account: AccountConfig, kind: BindKind) -> BindSlot:
        """Take a place. Raises BindLimit."""

    def release_bind(self, slot: BindSlot) -> None:
        """Give the place back."""

    def price_list(self, account: AccountConfig) -> PriceList:
        """Return what an account's messages cost at this moment."""

    def accept(self, submit: Submit, resolve: Resolve) -> None:
        """Store a message and its debit; `resolve` is called once both are on disk, or certainly not, or in doubt.

        A callback and not a future: this happens for each message, and a future costs as much again as the rest of its
        way.
        """

    def on_stored(self, callback: Callable[[Sequence[ToSend]], None]) -> None:
        """Have `callback` called with the messages that an upstream must be given, as they are stored."""

    def on_expired(self, callback: Callable[[Sequence[int]], None]) -> None:
        """Have `callback` called with the ids of messages whose validity has ended: no upstream is to send them."""

    def unfinished(self) -> Sequence[int]:
        """Return the ids of messages without a final state whose date has come, in order. Raises Unavailable."""

    def to_send(self, message_ids: Sequence[int]) -> Sequence[ToSend]:
        """Return those of these messages that have no final state, by id. Raises Unavailable."""

    def find(self, account_id: int, message_id: int) -> Whereabouts | None:
        """Return a message of an account. Raises Unavailable."""

    def find_unfinished(
        self,
        account_id: int,
        source: str,
        destination: str,
        resolve: Callable[[Sequence[Whereabouts] | Refusal], None],
    ) -> None:
        """Look through all unfinished messages; `resolve` is told which of them are an account's from `source` to
        `destination`.
        """

    def cancel(self, message: Whereabouts, resolve: Callable[[bool | Refusal], None]) -> None:
        """Call a message back, which no upstream sends; `resolve` is told whether it was, or why that isn't known."""

    def put_outcomes(self, outcomes: Sequence[Outcome]) -> None:
        """Store what became of messages, and the receipts that were asked for."""

    def put_received(self, messages: Sequence[FromHandset]) -> None:
        """Store what handsets have sent, for the accounts that it is meant for."""

    def on_simulated(self, callback: Callable[[Sequence[FromHandset]], None]) -> None:
        """Have `callback` called with what the built-in upstream is to take for sent by handsets."""

    def attend(self, account_id: int, wake: Callable[[], None]) -> None:
        """Have `wake` called whenever something may wait for an account's receivers, until `attend_no_more`."""

    def attend_no_more(self, account_id: int) -> None:
        """Nobody is there to `take` anything."""

    def take(self, account_id: int) -> Deliverable | None:
        """Return the next of what waits for an account's receivers, in its order; None where there is nothing now.

        Each comes once until `retry` or `give_back`. Nothing comes before one that `retry` has put off, unless that has
        used up `deliveries.HOLDS_ATTEMPTS`.
        """

    def done(self, deliverable: Deliverable) -> None:
        """The ESME has accepted it: forget it."""

    def retry(self, deliverable: Deliverable, at: int) -> None:
        """The ESME has not accepted it: offer it again at `at` (unix milliseconds). Its attempts are counted."""

    def give_back(self, deliverable: Deliverable) -> None:
        """Nobody answered for it: offer it again now."""

    def next_session_id(self) -> int:
        """Return an id for a session: it grows, and no message and no page names another session by it."""

    def session_opened(self, session: Connection) -> None:
        """Show a session."""

    def session_progressed(self, progress: Progress) -> None:
        """Show the counters of a session."""

    def session_closed(self, ending: Ending) -> None:
        """Stop showing a session, but keep it where messages are of it."""

    def bind_refused(self, refused: RefusedBind) -> None:
        """Show an account's users who was refused, and why."""
