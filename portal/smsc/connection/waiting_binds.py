"""Binds that find no place: they wait until it is known whether the sessions that have them all are still alive.

A client whose connection broke without a word comes back at once, while its old session would be taken for alive until
it has been silent for long and hasn't answered an enquire_link. So the silent sessions of the account are asked at
once, and the one that doesn't answer in time has to go.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nsmallest
from operator import attrgetter
from typing import Protocol

from portal.smsc.admission.bind_auth import NoBindPlace
from portal.smsc.connection.session_registry import BoundSession, SessionRegistry
from portal.smsc.protocol.pdu import Bind
from portal.smsc.storage.interface import BindKind

# Sessions that one bind may have asked, those that have been silent for longest: a dead one is among them soon.
_MAX_PROBED = 50
_CHECK_SECONDS = 0.1
# Until a session has ended that was told to.
_END_SECONDS = 0.01


class WaitingClient(Protocol):
    """A connection whose bind has found no place."""

    def try_bind(self, bind: Bind) -> NoBindPlace | None:
        """Bind, or answer why not; returns why nothing was answered, where there is still no place."""

    def refuse_bind(self, bind: Bind, no_place: NoBindPlace) -> None:
        """Answer that there is no place."""


@dataclass(slots=True, eq=False)
class _WaitingBind:
    client: WaitingClient
    bind: Bind
    no_place: NoBindPlace
    sessions: Sequence[BoundSession]
    ends_at: float
    timer: asyncio.TimerHandle | None = None


class WaitingBinds:
    """The binds that wait. The process has one of these.

    `probe_seconds`: how long a session has been silent that is asked, and how long its answer is waited for.
    `by_client`: those that wait.
    """

    def __init__(self, session_registry: SessionRegistry, probe_seconds: float) -> None:
        self.probe_seconds = probe_seconds
        self._session_registry = session_registry
        self._loop = asyncio.get_running_loop()
        self.by_client: dict[WaitingClient, _WaitingBind] = {}
        self._by_account: dict[int, list[_WaitingBind]] = defaultdict(list)

    def is_waiting(self, client: WaitingClient) -> bool:
        """Whether a client's bind waits."""
        return client in self.by_client

    def wait_for_place(self, client: WaitingClient, bind: Bind, no_place: NoBindPlace) -> bool:
        """Ask the sessions that are silent, and have a bind wait for the place of one.

        Returns whether it waits: not where all sessions were heard a moment ago, or as many binds wait for places of
        that kind as there are sessions that may be dead. It ends with `try_bind` or `refuse_bind`, little more than
        `probe_seconds` later.
        """
        now = self._loop.time()
        # Those that have a place which the bind could have.
        sessions = self._session_registry.list_sessions(no_place.account_id)
        rivals = [each for each in sessions if _need_same_place(each.kind, no_place.kind)]
        silent = (
            each for each in rivals if not (_is_uncertain(each) or each.last_received_at > now - self.probe_seconds)
        )
        for session in nsmallest(_MAX_PROBED, silent, key=attrgetter("last_received_at")):
            session.send_enquire_link()
        uncertain = [each for each in rivals if _is_uncertain(each)][:_MAX_PROBED]
        others = self._by_account[no_place.account_id]
        if sum(_need_same_place(each.no_place.kind, no_place.kind) for each in others) >= len(uncertain):
            return False
        waiting = _WaitingBind(client, bind, no_place, uncertain, now + self.probe_seconds + _CHECK_SECONDS)
        self.by_client[client] = waiting
        others.append(waiting)
        waiting.timer = self._loop.call_later(_CHECK_SECONDS, self._check, waiting)
        return True

    def remove(self, client: WaitingClient) -> None:
        """Forget a client that has gone, or was answered; others are none of its business."""
        waiting = self.by_client.pop(client, None)
        if waiting and waiting.timer:
            waiting.timer.cancel()
            self._by_account[waiting.no_place.account_id].remove(waiting)

    def _check(self, waiting: _WaitingBind) -> None:
        """Give a bind the place that there is by now, or one of a session that hasn't answered, or go on waiting."""
        if waiting.client.try_bind(waiting.bind) is None:
            self.remove(waiting.client)
            return
        now = self._loop.time()
        delay = _CHECK_SECONDS
        unanswered = [each for each in waiting.sessions if each.unanswered_since is not None]
        session = min(unanswered, key=attrgetter("unanswered_since", "last_received_at"), default=None)
        if session and (session.unanswered_since or now) <= now - self.probe_seconds:
            waiting.ends_at = max(waiting.ends_at, now + _CHECK_SECONDS)
            session.abort("does not answer enquire_link, and its place is needed")
            delay = _END_SECONDS
        elif now >= waiting.ends_at or not any(_is_uncertain(each) for each in waiting.sessions):
            self.remove(waiting.client)
            waiting.client.refuse_bind(waiting.bind, waiting.no_place)
            return
        waiting.timer = self._loop.call_later(delay, self._check, waiting)


def _need_same_place(first: BindKind, second: BindKind) -> bool:
    return (first.may_submit and second.may_submit) or (first.may_receive and second.may_receive)


def _is_uncertain(session: BoundSession) -> bool:
    """Whether a session's place may be free soon."""
    return session.is_ending or session.unanswered_since is not None
