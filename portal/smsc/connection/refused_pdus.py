"""The last refused PDUs of accounts that have asked for them, in memory."""

import asyncio
from collections import deque

from portal.core.clock import now_ms
from portal.services.accounts.refused_pdus import KEPT_MS, MAX_PDUS, RefusedPdu
from portal.services.messages.smpp_config import AccountConfig

# With a hundred PDUs of at most 8.5 kB each, 85 MB. Those have as many optional parameters as are shown; a usual PDU
# takes 1.5 kB.
_MAX_ACCOUNTS = 100
_FORGET_SECONDS = 60.0


class RefusedPdus:
    """Keeps the last ones of each account. `record` is for those that have asked for it alone."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._by_account: dict[int, deque[RefusedPdu]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def record(self, account_id: int, refused: RefusedPdu) -> None:
        """Keep one in place of the oldest. Of more accounts than there is room for, the one that came first goes."""
        if self._timer is None:
            self._timer = self._loop.call_later(_FORGET_SECONDS, self._forget_old)
        kept = self._by_account.get(account_id)
        if kept is None:
            while len(self._by_account) >= _MAX_ACCOUNTS:
                del self._by_account[next(iter(self._by_account))]
            kept = self._by_account[account_id] = deque(maxlen=MAX_PDUS)
        kept.append(refused)

    def list_pdus(self, account_id: int) -> list[RefusedPdu]:
        """Those of the last hour, newest first."""
        kept = self._by_account.get(account_id, ())
        since = now_ms() - KEPT_MS
        return [each for each in reversed(kept) if each.at > since]

    def _forget_old(self) -> None:
        since = now_ms() - KEPT_MS
        for account_id, kept in list(self._by_account.items()):
            while kept and kept[0].at <= since:
                kept.popleft()
            if not kept:
                del self._by_account[account_id]
        self._timer = self._loop.call_later(_FORGET_SECONDS, self._forget_old) if self._by_account else None

    def apply_account_change(self, account: AccountConfig) -> None:
        """Forget those of an account that wants none any more."""
        if not account.refused_pdus_until:
            self._by_account.pop(account.id, None)
