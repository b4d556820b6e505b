"""Who may bind: system_id, password and address, in an order that tells a stranger nothing."""

import asyncio
from dataclasses import dataclass

from portal.core.clock import now_ms
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
# What is compared for an unknown system_id, so that the answer takes as long as for a wrong password.
_DUMMY_PASSWORDS = (SmppPassword(0, bytes(32), None),)
# Nothing can bind to such an account. That is no failure of the client's: it is not counted as one.
_FAULTS_OF_ACCOUNT = (refused_binds.CLASSIC_ACCOUNT, refused_binds.ACCOUNT_DISABLED, refused_binds.NO_IP)


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

    def __init__(self, storage: Storage, failures_per_minute: int) -> None:
        self._storage = storage
        self._failures = FailureCounter(failures_per_minute)
        self._loop = asyncio.get_running_loop()

    def authenticate_bind(self, bind: Bind, address: IPAddress) -> AcceptedBind:
        """Let a client at `address` (IPv4 where mapped into IPv6) bind.

        Raises BindRefused, which is recorded for the account's users; NoBindPlace is not, for a place may become free.
        """
        account = self._storage.find_account(bind.system_id)
        try:
            return self._check_bind(bind, address, account)
        except BindRefused as refused:
            if account is not None and not isinstance(refused, NoBindPlace):
                self.record_refusal(account.id, address, refused)
            raise

    def record_refusal(self, account_id: int, address: IPAddress, refused: BindRefused) -> None:
        """Record for an account's users that a client at `address` was refused."""
        row = RefusedBind(account_id, str(address), refused.reason, now_ms(), refused.password_id)
        self._storage.record_refused_bind(row)

    def _check_bind(self, bind: Bind, address: IPAddress, account: AccountConfig | None) -> AcceptedBind:
        now = now_ms()
        is_allowed_address = account is not None and account.permits_address(address, now)
        loop_time = self._loop.time()
        failure_keys = list_bind_failure_keys(address, bind.system_id, is_allowed_address=is_allowed_address)
        if any(self._failures.is_limit_reached(each, loop_time) for each in failure_keys):
            raise BindRefused(CommandStatus.ESME_RBINDTHROTTLED, refused_binds.THROTTLED)
        digest = self._storage.compute_password_digest(bind.password)
        password = find_password(account.passwords if account else _DUMMY_PASSWORDS, digest)
        refusal = account.find_bind_refusal(password, address, now) if account else ""
        if refusal in _FAULTS_OF_ACCOUNT:
            raise BindRefused(CommandStatus.ESME_RBINDFAIL, refusal)
        if account is None or password is None or refusal:
            for each in failure_keys:
                self._failures.record_failure(each, loop_time)
            if account is None:
                raise BindRefused(CommandStatus.ESME_RINVSYSID)
            # The client gets the same answer for them all: a stranger must not learn that a password was good once.
            replaced_id = password.id if password and refusal == refused_binds.REPLACED_PASSWORD else None
            raise BindRefused(CommandStatus.ESME_RINVPASWD, refusal, replaced_id)
        kind = _BIND_KINDS[CommandId(bind.command)]
        if not self._storage.acquire_bind(account, kind):
            raise NoBindPlace(account.id, kind)
        return AcceptedBind(account, password.id, kind)
