"""Who may bind: system_id, password and address, in an order that tells a stranger nothing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from portal.core.clock import now_ms
from portal.services.accounts import refused_binds
from portal.services.accounts.allowed_ips import Address
from portal.services.accounts.refused_binds import RefusedBind
from portal.services.messages.smpp_config import AccountConfig, Password
from portal.smsc.admission.rate_limits import BindFailures
from portal.smsc.protocol.constants import Command, Status
from portal.smsc.protocol.pdu import Bind
from portal.smsc.storage.interface import BindKind, BindLimit, BindSlot, Storage

_KINDS = {
    Command.BIND_TRANSMITTER: BindKind.TRANSMITTER,
    Command.BIND_RECEIVER: BindKind.RECEIVER,
    Command.BIND_TRANSCEIVER: BindKind.TRANSCEIVER,
}
# What an unknown system_id is compared with, so that the answer takes as long as for a wrong password.
_NOBODY = AccountConfig(
    id=0,
    name="",
    kind="smpp",
    enabled=False,
    windowing=0,
    throughput=0,
    binds=0,
    any_sender=False,
    version=0,
    networks=(),
    passwords=(Password(0, bytes(32), None),),
    senders=frozenset(),
)


@dataclass(frozen=True, slots=True)
class Admission:
    """A bind that was accepted, and the password that it was accepted with."""

    account: AccountConfig
    password_id: int
    kind: BindKind
    slot: BindSlot


class BindRefused(Exception):
    """`status` is the answer on the wire; `reason` what the account's own users may read, one of `connections`' words,
    with `password_id` where it is about a password that was replaced.
    """

    def __init__(self, status: Status, reason: str = "", password_id: int | None = None) -> None:
        super().__init__(status.name)
        self.status = status
        self.reason = reason
        self.password_id = password_id


class BindAuth:
    """Decides over binds, and counts those that fail."""

    def __init__(self, storage: Storage, failures_per_minute: int, loop: asyncio.AbstractEventLoop) -> None:
        self._storage = storage
        self._failures = BindFailures(failures_per_minute)
        self._loop = loop

    def admit(self, bind: Bind, address: Address) -> Admission:
        """Let a client at `address` (IPv4 where mapped into IPv6) bind. Raises BindRefused."""
        account = self._storage.account(bind.system_id)
        try:
            return self._check(bind, address, account)
        except BindRefused as refused:
            if account is not None:
                row = RefusedBind(account.id, str(address), refused.reason, now_ms(), refused.password_id)
                self._storage.bind_refused(row)
            raise

    def _check(self, bind: Bind, address: Address, account: AccountConfig | None) -> Admission:
        now = now_ms()
        authorised = account is not None and account.permits(address, now)
        clock = self._loop.time()
        if self._failures.blocked(address, bind.system_id, authorised=authorised, now=clock):
            raise BindRefused(Status.ESME_RBINDTHROTTLED, refused_binds.THROTTLED)
        digest = self._storage.password_digest(bind.password)
        password = (account or _NOBODY).matching(digest)
        if account is not None:
            _require_open(account, now)
        if account is None or password is None or not password.in_force(now) or not authorised:
            self._failures.record(address, bind.system_id, authorised=authorised, now=clock)
            if account is None:
                raise BindRefused(Status.ESME_RINVSYSID)
            # One answer for them all on the wire: a stranger must not learn that a password was good once.
            if not authorised:
                raise BindRefused(Status.ESME_RINVPASWD, refused_binds.NOT_AUTHORISED)
            if password is not None:
                raise BindRefused(Status.ESME_RINVPASWD, refused_binds.REPLACED_PASSWORD, password.id)
            raise BindRefused(Status.ESME_RINVPASWD, refused_binds.WRONG_PASSWORD)
        kind = _KINDS[Command(bind.command)]
        try:
            slot = self._storage.acquire_bind(account, kind)
        except BindLimit:
            raise BindRefused(Status.ESME_RALYBND, refused_binds.TOO_MANY_BINDS) from None
        return Admission(account, password.id, kind, slot)


def _require_open(account: AccountConfig, now: int) -> None:
    """Raise BindRefused for an account to which nothing can bind.

    No failure of the client's: it is not counted as one.
    """
    if account.kind != "smpp":
        raise BindRefused(Status.ESME_RBINDFAIL, refused_binds.CLASSIC)
    if not account.enabled:
        raise BindRefused(Status.ESME_RBINDFAIL, refused_binds.ACCOUNT_DISABLED)
    if not account.has_network(now):
        raise BindRefused(Status.ESME_RBINDFAIL, refused_binds.NO_IP)
