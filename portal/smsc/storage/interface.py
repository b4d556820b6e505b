"""What the storage and those who ask it tell each other: answers, what went wrong, and what callbacks take."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from portal.services.messages.outcomes import DueMessages
from portal.services.messages.query_cancel import MessageStatus
from portal.services.messages.sending import AcceptedMessage, ClaimedMessages, SendingResult, UnsentMessage
from portal.services.messages.validation import SubmittedMessage
from portal.services.routing.route_table import RouteTable
from portal.services.upstreams.paths import UpstreamPath
from portal.services.upstreams.upstreams import Upstream


class StorageError(Exception):
    """Why something was not done. Also handed to callbacks, as a value."""


class InsufficientCredits(StorageError):
    """The account's balance does not cover the message. It is recorded as refused, nothing is charged."""


class LimitReached(StorageError):
    """The account has sent as much as its brakes allow. Nothing is stored or charged. Its text is the reason, a
    constant of `refused_messages`.
    """


class StorageUnavailable(StorageError):
    """Certainly not stored: the database is locked, full or read-only. The same submit may be tried again."""


class NoRoute(StorageError):
    """No route takes the message's number, and there is no default upstream. Nothing is stored or charged. Its text is
    the number's country.
    """


class CommitInDoubt(StorageError):
    """May be stored or not.

    To be answered by closing the session, never by an error PDU: that would invite a second copy.
    """


class BindKind(StrEnum):
    """What a session may do; the words are those that pages show."""

    TRANSMITTER = "transmitter"
    RECEIVER = "receiver"
    TRANSCEIVER = "transceiver"

    @property
    def may_submit(self) -> bool:
        return self is not BindKind.RECEIVER

    @property
    def may_receive(self) -> bool:
        return self is not BindKind.TRANSMITTER


@dataclass(frozen=True, slots=True)
class UpstreamConfig:
    """What is set of one upstream. `password`: None where it was sealed under another key."""

    upstream: Upstream
    password: str | None


ClientId = int | str
"""An id by which a client knows a message: a number, or eight hexadecimal digits (SMPP 3.3 and older)."""
StatusCallback = Callable[[MessageStatus | StorageError | None], None]
"""Takes what is known of a message, None where there is none, or why it can't be read."""
StatusesCallback = Callable[[Sequence[MessageStatus] | StorageError], None]
"""The same of several messages."""
MessagesCallback = Callable[[Sequence[SubmittedMessage] | StorageError], None]
"""Takes messages that have no final state, or why they can't be read."""
SubmitCallback = Callable[[ClientId | StorageError], None]
"""What `store_submit` answers with: the message's id for its client, or why there is none."""
CancelCallback = Callable[[bool | StorageError], None]
"""Takes whether a message was called back, or why that isn't known."""
ClaimCallback = Callable[[ClaimedMessages | StorageError], None]
"""Takes what was claimed, or why it wasn't."""
WaitingAccounts = Collection[tuple[UpstreamPath, int]]
"""Paths with the ids of accounts of which something waits there."""
WaitingCallback = Callable[[WaitingAccounts], None]


class OutboundListener(Protocol):
    """What the storage tells whoever sends messages on."""

    def handle_submits_stored(self, submits: Sequence[SubmittedMessage], outbound: Sequence[SubmittedMessage]) -> None:
        """Submits are on disk, or are refused; `outbound`: those that go out now."""

    def handle_commit_in_doubt(self) -> None:
        """Messages that were to be stored or claimed may be an upstream's on disk."""

    def handle_due_messages(self, due: DueMessages) -> None:
        """The date of messages has come, or their validity has ended."""

    def handle_sending_stored(
        self, stored: Sequence[AcceptedMessage] | Sequence[UnsentMessage], result: SendingResult
    ) -> None:
        """What upstreams have answered is on disk."""

    def handle_recovered(self, waiting: WaitingAccounts) -> None:
        """It was decided about what was under way when the last process ended; on these paths something of these
        accounts waits. Comes once.
        """

    def handle_upstreams_changed(self, configs: Sequence[UpstreamConfig], *, has_ever_had: bool) -> None:
        """These are all upstreams. Comes at the start, and whenever any has changed.

        `has_ever_had`: whether there is or was any, from when on nothing goes to the built-in simulator.
        """

    def handle_holds_changed(self, account_ids: frozenset[int]) -> None:
        """Nothing of these accounts is given to an upstream from now on, and of no others is it held. Comes at the
        start, if there are any, and whenever they have changed.
        """

    def handle_traces_changed(self, ends: Mapping[int, int]) -> None:
        """The PDUs of these upstreams are traced until then (unix milliseconds), and those of no others. Comes
        at the start, if there are any, and whenever they have changed.
        """

    def handle_test_message(self, message: SubmittedMessage) -> None:
        """An operator has sent this message through its upstream: see `trial_messages`."""

    def handle_routes_changed(self, routes: RouteTable, *, moves_waiting: bool) -> None:
        """Messages take these routes from now on. Comes at the start, and whenever one of them, the default upstream or
        an account that they are for has changed.

        `moves_waiting`: whether what waits may take another path than before.
        """
