"""All that the SMPP server needs of the rest of the program.

On one machine SQLite answers (`sqlite`); on several it would be a replicated broker, and nothing else in this package
would change. Every method is called on the event loop and returns at once; what takes time comes back by a callback on
the loop.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from portal.services.accounts.refused_binds import RefusedBind
from portal.services.accounts.session_records import SmppSessionEnd, SmppSessionProgress, SmppSessionRecord
from portal.services.messages.deliveries import Deliverable
from portal.services.messages.inbound import InboundItem
from portal.services.messages.outcomes import DueMessages, MessageOutcome
from portal.services.messages.query_cancel import MessageStatus
from portal.services.messages.receipt_matching import UpstreamReceipt
from portal.services.messages.sending import AcceptedMessage, ClaimedMessages, SendingResult, UnsentMessage
from portal.services.messages.smpp_config import AccountConfig
from portal.services.messages.validation import SubmittedMessage
from portal.services.prices.prices import PriceList
from portal.services.routing.routes import RouteTable
from portal.services.upstreams.binds import BindState
from portal.services.upstreams.claims import Claim
from portal.services.upstreams.health import UpstreamHealth
from portal.services.upstreams.paths import UpstreamPath
from portal.services.upstreams.upstreams import Upstream


class StorageError(Exception):
    """Why something was not done. Also handed to callbacks, as a value."""


class InsufficientCredits(StorageError):
    """The account's balance does not cover the message. It is recorded as refused, nothing is charged."""


class StorageUnavailable(StorageError):
    """Certainly not stored: the database is locked, full or read-only. The same submit may be tried again."""


class NoRoute(StorageError):
    """No route takes the message's number, and there is no default upstream. Nothing is stored or charged."""


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


class Storage(Protocol):
    """See the module; the methods are in the order in which a session meets them.

    kept_tlv_tags: the tags of optional parameters of messages that an upstream passes on.
    """

    kept_tlv_tags: frozenset[int]

    def find_account(self, system_id: str) -> AccountConfig | None:
        """Return the account of that name, from memory."""

    def compute_password_digest(self, password: str) -> bytes:
        """Return the digest that `smpp_config.find_password` looks for."""

    def on_account_change(self, callback: Callable[[AccountConfig], None]) -> None:
        """Have `callback` called with each account that changes, once the change is in force for new binds."""

    def acquire_bind(self, account: AccountConfig, kind: BindKind) -> bool:
        """Take a place; returns whether fewer binds of that kind than the account may have were open."""

    def release_bind(self, account_id: int, kind: BindKind) -> None:
        """Give the place back."""

    def get_price_list(self, account: AccountConfig) -> PriceList:
        """Return what an account's messages cost at this moment."""

    def find_message_status(self, account_id: int, client_id: ClientId, resolve: StatusCallback) -> None:
        """Find a message of an account, by its id or the one that its client was given; `resolve` gets it, or None."""

    def find_unfinished_messages(
        self, account_id: int, source: str, destination: str, resolve: StatusesCallback
    ) -> None:
        """Search all unfinished messages; `resolve` gets those of an account from `source` to `destination`."""

    def subscribe_deliveries(self, account_id: int, wake: Callable[[], None]) -> Callable[[], Deliverable | None]:
        """Have `wake` called whenever something may wait for an account's receivers, until `unsubscribe_deliveries`.

        Returns:
            A function that takes the next receipt or message, in their order, and returns it; None where nothing waits
            now. Each is taken once, and again after `retry_delivery`. Until then nothing behind it is taken, unless it
            has used up `deliveries.MAX_BLOCKING_ATTEMPTS`.
        """

    def unsubscribe_deliveries(self, account_id: int) -> None:
        """The account has no receiver any more, so nothing is taken."""

    def get_client_id(self, deliverable: Deliverable) -> ClientId:
        """Return the id by which its client knows the message that it is about."""

    def complete_delivery(self, deliverable: Deliverable) -> None:
        """The ESME has accepted it: forget it."""

    def retry_delivery(self, deliverable: Deliverable, retry_at: int) -> None:
        """The ESME has not accepted it: offer it again at `retry_at` (unix milliseconds). Its attempts are counted."""

    def allocate_session_id(self) -> int:
        """Return an id for a session: it grows, and no message and no page names another session by it."""

    def insert_session(self, session: SmppSessionRecord) -> None:
        """Store a session that has bound, so that pages show it."""

    def update_session_progress(self, progress: SmppSessionProgress) -> None:
        """Store the counters of a session."""

    def close_session(self, session_end: SmppSessionEnd) -> None:
        """Store that a session has ended. It is removed where it has submitted no message."""

    def record_refused_bind(self, refused_bind: RefusedBind) -> None:
        """Store who was refused and why, for the account's users."""


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

    def handle_routes_changed(self, routes: RouteTable, *, moves_waiting: bool) -> None:
        """Messages take these routes from now on. Comes at the start, and whenever one of them, the default upstream or
        an account that they are for has changed.

        `moves_waiting`: whether what waits may take another path than before.
        """


class OutboundStorage(Protocol):
    """What the dispatcher asks of the storage, in the order in which a message meets it."""

    def set_listener(self, listener: OutboundListener) -> None:
        """Tell `listener`, from `start` on."""

    def store_submit(self, submit: SubmittedMessage, resolve: SubmitCallback) -> None:
        """Store a message and its debit; `resolve` is called once both are on disk, or certainly not, or in doubt.

        A callback and not a future: this happens for each message, and a future costs as much again as the rest of its
        way.
        """

    def claim_messages(self, claim: Claim, resolve: ClaimCallback) -> None:
        """Take messages that wait for an upstream: see `sending.claim_messages`."""

    def hold_followers(
        self, upstream_ids: Collection[int], retried_paths: Sequence[UpstreamPath], resolve: WaitingCallback
    ) -> None:
        """Have what upstreams have, and have not answered, hold up what comes behind it to the same destinations, and
        what was refused for the moment on these paths be tried again at once: other upstreams take over from now on.

        All that was asked to be stored or claimed before is among it. `resolve` gets paths with the accounts of which
        something waits there, or holds up others.
        """

    def reroute_messages(self, resolve: WaitingCallback) -> None:
        """Put what waits on the paths that it takes now; `resolve` gets all paths with the accounts of which something
        waits there. While that is done for another call, it begins anew, and ends for both.
        """

    def store_accepted_message(self, accepted: AcceptedMessage, *, is_urgent: bool) -> None:
        """Store that an upstream has accepted a message; unless it is urgent, together with others."""

    def store_unsent_message(self, unsent: UnsentMessage) -> None:
        """Store what became of a claimed message that was not accepted."""

    def store_outcomes(self, reported: Sequence[MessageOutcome]) -> None:
        """Store what became of messages, and the receipts that were asked for."""

    def store_upstream_receipt(self, receipt: UpstreamReceipt, resolve: Callable[[bool | None], None]) -> None:
        """Store what an upstream says; `resolve` gets whether its message is known, None where nothing was stored."""

    def store_upstream_message(self, message: InboundItem, resolve: Callable[[bool], None]) -> None:
        """Store what a handset has sent, for the accounts that it is meant for, or until its other parts are there;
        `resolve` gets whether it is stored.
        """

    def cancel_message(self, message: MessageStatus, resolve: CancelCallback) -> None:
        """Call a message back, which no upstream sends."""

    def load_message(self, message_id: int, resolve: MessagesCallback) -> None:
        """Give `resolve` a message, where it has no final state, and then an empty sequence as the end; or a
        StorageError.
        """

    def load_simulated_messages(self, upstream_id: int | None, resolve: MessagesCallback) -> None:
        """Give `resolve` what a simulator has not ended (None: the built-in one), oldest first, in several calls, of
        which the last one has none, or is a StorageError.
        """

    def put_back_abandoned_messages(self) -> None:
        """Queue again the messages of removed simulators; the listener is told as of messages that are due."""

    def find_unanswered_ids(self, upstream_id: int, resolve: Callable[[Sequence[int]], None]) -> None:
        """Give `resolve` the ids of what an upstream has and has not accepted, unless that can't be read."""

    def record_bind_states(self, upstream_id: int, states: Sequence[BindState]) -> None:
        """Store how the binds of an upstream are: all of them."""

    def record_health(self, upstream_id: int, health: UpstreamHealth) -> None:
        """Store whether an upstream is given messages."""

    def count_unroutable_submits(self, count: int) -> None:
        """Store that so many messages more were refused because no route takes them."""

    def add_upstream_counters(self, upstream_id: int, amounts: Mapping[str, int]) -> None:
        """Add to what is counted of an upstream."""
