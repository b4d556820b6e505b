"""Who may bind: system_id, password and address, in an order that tells a stranger nothing."""

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Protocol

from portal.core.clock import now_ms
from portal.core.config import Config
from portal.services.accounts import refused_binds
from portal.services.accounts.allowed_ips import IPAddress
from portal.services.accounts.refused_binds import RefusedBind
from portal.services.messages.smpp_config import AccountConfig, SmppPassword, find_password
from portal.smsc.admission.bind_turns import BindTurns, TurnTaker
from portal.smsc.admission.rate_limits import FailureCounter, list_rate_limit_networks
from portal.smsc.limits import ServerLimits
from portal.smsc.protocol.constants import CommandId, CommandStatus, RequestRefused
from portal.smsc.protocol.pdu import Bind
from portal.smsc.storage.interface import BindKind
from portal.smsc.storage.sqlite import Storage

_BIND_KINDS = {
    CommandId.BIND_TRANSMITTER: BindKind.TRANSMITTER,
    CommandId.BIND_RECEIVER: BindKind.RECEIVER,
    CommandId.BIND_TRANSCEIVER: BindKind.TRANSCEIVER,
}
# With an unknown system_id all is done that is done with a wrong password, to this account, so that the answer takes as
# long; what is recorded of it is of no account. Its password and its network are nobody's.
_NO_PASSWORDS = (SmppPassword(0, bytes(32), None),)
_UNKNOWN_ACCOUNT = AccountConfig(
    id=0,
    name="",
    kind="smpp",
    enabled=True,
    windowing=0,
    throughput=0,
    binds=0,
    any_sender=False,
    version=0,
    networks=((ip_network("255.255.255.255"), None),),
    passwords=_NO_PASSWORDS,
    senders=frozenset(),
)
# So many times `[limits] bind_failures` may fail from an IPv4 address or a /64, a /56, and a /48.
_NETWORK_FACTORS = (1, 2, 4)
# Told to those who have the right password: nothing is wrong with what their client sends.
_FAULTS_OF_ACCOUNT = (refused_binds.ACCOUNT_DISABLED, refused_binds.NO_IP)
# By `[smpp] unknown_system_id`.
_UNKNOWN_STATUSES = {"0x0E": CommandStatus.ESME_RINVPASWD, "0x0F": CommandStatus.ESME_RINVSYSID}


@dataclass(frozen=True, slots=True)
class AcceptedBind:
    """A bind that was accepted, and the password that it was accepted with."""

    account: AccountConfig
    password_id: int
    kind: BindKind


class BindRefused(RequestRefused):
    """`reason` is what the account's own users may read, a constant of
    `refused_binds`, with `password_id` where it is about a password that was replaced.
    """

    def __init__(self, status: CommandStatus, reason: str = "", password_id: int | None = None) -> None:
        super().__init__(status)
        self.reason = reason
        self.password_id = password_id


class NoBindPlace(BindRefused):
    """All is right but that as many binds of that `kind` are open as the account may have."""

    def __init__(self, account_id: int, kind: BindKind) -> None:
        super().__init__(CommandStatus.ESME_RALYBND, refused_binds.TOO_MANY_BINDS)
        self.account_id = account_id
        self.kind = kind


class BindClient(TurnTaker, Protocol):
    """A connection that wants to bind.

    `address`: IPv4 where it came mapped into IPv6. `is_authorized`: the account that it last wanted authorises it.
    """

    address: IPAddress
    is_authorized: bool

    def write_bind_refusal(self, bind: Bind, refused: BindRefused) -> None:
        """Answer a bind that was refused."""


class BindAuth:
    """Accepts or refuses binds, and has those wait that come soon after a wrong one, see `BindTurns`.

    `[limits] bind_failures` holds where an address is not authorised for the account, so that strangers lock nobody
    out.
    """

    def __init__(self, storage: Storage, config: Config, server_limits: ServerLimits) -> None:
        self._storage = storage
        self._failures = [FailureCounter(config.limits.bind_failures * factor) for factor in _NETWORK_FACTORS]
        self.turns: BindTurns[BindClient] = BindTurns(server_limits.wrong_bind_seconds)
        self._unknown_status = _UNKNOWN_STATUSES[config.smpp.unknown_system_id]
        self._loop = asyncio.get_running_loop()

    def authenticate_bind(self, bind: Bind, client: BindClient, *, is_its_turn: bool) -> AcceptedBind | None:
        """Let a client bind; None where its bind waits now.

        Args:
            is_its_turn: the bind has waited, and may be looked at.

        Raises BindRefused, which is recorded for the account's users; NoBindPlace is not, for a place may become free.
        """
        account = self._storage.find_account(bind.system_id) or _UNKNOWN_ACCOUNT
        try:
            return self._check_bind(bind, client, account, is_its_turn=is_its_turn)
        except BindRefused as refused:
            if not isinstance(refused, NoBindPlace):
                self._record_refusal(account.id, bind, client.address, refused)
            raise

    def record_no_place(self, bind: Bind, address: IPAddress, no_place: NoBindPlace) -> None:
        """Record for an account's users that a client at `address` has found no place."""
        self._record_refusal(no_place.account_id, bind, address, no_place)

    def _record_refusal(self, account_id: int, bind: Bind, address: IPAddress, refused: BindRefused) -> None:
        row = RefusedBind(account_id, str(address), refused.reason, now_ms(), refused.password_id, bind.system_id)
        self._storage.record_refused_bind(row)

    def _check_bind(
        self, bind: Bind, client: BindClient, account: AccountConfig, *, is_its_turn: bool
    ) -> AcceptedBind | None:
        now, loop_time = now_ms(), self._loop.time()
        address = client.address
        networks, system_id = list_rate_limit_networks(address), bind.system_id
        turn = networks[0], system_id
        counted: list[tuple[FailureCounter, Hashable]] = []
        client.is_authorized = account.permits_address(address, now)
        if not client.is_authorized:
            counted = [(self._failures[0], system_id), *zip(self._failures, networks, strict=False)]
        if any(failures.is_limit_reached(key, loop_time) for failures, key in counted):
            raise _throttled()
        if not is_its_turn and self.turns.must_wait(turn):
            self._enqueue(turn, bind, client, account)
            return None
        digest = self._storage.compute_password_digest(bind.password)
        password = find_password(account.passwords or _NO_PASSWORDS, digest)
        refusal = account.find_bind_refusal(password, address, now)
        if password is None or refusal:
            for failures, key in counted:
                failures.record_failure(key, loop_time)
            self.turns.record_failure(turn, client)
            raise self._explain_refusal(account, password, refusal, now)
        kind = _BIND_KINDS[CommandId(bind.command)]
        if not self._storage.acquire_bind(account, kind):
            raise NoBindPlace(account.id, kind)
        return AcceptedBind(account, password.id, kind)

    def _explain_refusal(
        self, account: AccountConfig, password: SmppPassword | None, refusal: str, now: int
    ) -> BindRefused:
        if account is _UNKNOWN_ACCOUNT:
            return BindRefused(self._unknown_status)
        if refusal in _FAULTS_OF_ACCOUNT and password and password.is_valid(now):
            return BindRefused(CommandStatus.ESME_RBINDFAIL, refusal)
        # The client gets the same answer for them all: a stranger must not learn that a password was good once.
        replaced_id = password.id if password and refusal == refused_binds.REPLACED_PASSWORD else None
        return BindRefused(CommandStatus.ESME_RINVPASWD, refusal, replaced_id)

    def _enqueue(self, turn: Hashable, bind: Bind, client: BindClient, account: AccountConfig) -> None:
        excess = self.turns.enqueue(turn, client, bind)
        if excess is None:
            return
        excess_client, excess_bind = excess
        if excess_client is client:
            raise _throttled()
        self._record_refusal(account.id, excess_bind, excess_client.address, _throttled())
        excess_client.write_bind_refusal(excess_bind, _throttled())


def _throttled() -> BindRefused:
    return BindRefused(CommandStatus.ESME_RBINDTHROTTLED, refused_binds.THROTTLED)
