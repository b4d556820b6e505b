"""Who may bind: system_id, password and address, in an order that tells a stranger nothing."""

import asyncio
from dataclasses import dataclass
from ipaddress import ip_network

from portal.core.clock import now_ms
from portal.core.config import Config
from portal.services.accounts import refused_binds
from portal.services.accounts.allowed_ips import IPAddress
from portal.services.accounts.refused_binds import RefusedBind
from portal.services.messages.smpp_config import AccountConfig, SmppPassword, find_password
from portal.smsc.admission.rate_limits import FailureCounter, list_bind_failure_keys
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


class BindAuth:
    """Accepts or refuses binds, and counts those that fail."""

    def __init__(self, storage: Storage, config: Config) -> None:
        self._storage = storage
        self._failures = FailureCounter(config.limits.bind_failures)
        self._unknown_status = _UNKNOWN_STATUSES[config.smpp.unknown_system_id]
        self._loop = asyncio.get_running_loop()

    def authenticate_bind(self, bind: Bind, address: IPAddress) -> AcceptedBind:
        """Let a client at `address` (IPv4 where mapped into IPv6) bind.

        Raises BindRefused, which is recorded for the account's users; NoBindPlace is not, for a place may become free.
        """
        account = self._storage.find_account(bind.system_id) or _UNKNOWN_ACCOUNT
        try:
            return self._check_bind(bind, address, account)
        except BindRefused as refused:
            if not isinstance(refused, NoBindPlace):
                self.record_refusal(account.id, address, refused)
            raise

    def record_refusal(self, account_id: int, address: IPAddress, refused: BindRefused) -> None:
        """Record for an account's users that a client at `address` was refused."""
        row = RefusedBind(account_id, str(address), refused.reason, now_ms(), refused.password_id)
        self._storage.record_refused_bind(row)

    def _check_bind(self, bind: Bind, address: IPAddress, account: AccountConfig) -> AcceptedBind:
        now, loop_time = now_ms(), self._loop.time()
        is_allowed_address = account.permits_address(address, now)
        failure_keys = list_bind_failure_keys(address, bind.system_id, is_allowed_address=is_allowed_address)
        if any(self._failures.is_limit_reached(each, loop_time) for each in failure_keys):
            raise BindRefused(CommandStatus.ESME_RBINDTHROTTLED, refused_binds.THROTTLED)
        digest = self._storage.compute_password_digest(bind.password)
        password = find_password(account.passwords or _NO_PASSWORDS, digest)
        refusal = account.find_bind_refusal(password, address, now)
        if password is None or refusal:
            for each in failure_keys:
                self._failures.record_failure(each, loop_time)
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
