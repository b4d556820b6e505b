"""query_sm and cancel_sm: asking after a message, and calling it back (4.8, 4.9)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from portal.services.messages.outcomes import Whereabouts
from portal.smsc.protocol import times
from portal.smsc.protocol.constants import Command, Status
from portal.smsc.protocol.pdu import CancelSm, QuerySm, QuerySmResp
from portal.smsc.storage.interface import Refusal, Storage
from portal.smsc.upstream.dispatcher import Dispatcher

_MESSAGE_ID = re.compile(r"[1-9][0-9]{0,18}")
_LARGEST_ID = (1 << 63) - 1
_LARGEST_ERROR_CODE = 0xFF
# What is called back fills the writer's queue, where others' submits wait.
_MOST_AT_ONCE = 500

Answer = Callable[[Status], None]


def query(message: QuerySm, account_id: int, storage: Storage) -> QuerySmResp:
    """Return what has become of an account's message.

    ESME_RINVMSGID where it has none with that id, ESME_RQUERYFAIL where it has, but from another source address.
    """
    answer = QuerySmResp(Command.QUERY_SM_RESP, message.sequence, message_id=message.message_id)
    try:
        found = _find(message.message_id, account_id, storage)
    except Refusal:
        answer.status = Status.ESME_RSYSERR
        return answer
    if found is None:
        answer.status = Status.ESME_RINVMSGID
    elif not _same(found.source, message.source):
        answer.status = Status.ESME_RQUERYFAIL
    else:
        answer.message_state = found.state
        if found.done_at is not None:
            answer.final_date = times.final_date(found.done_at)
            # error_code has one octet; a ptt code that needs more says what message_state says too.
            answer.error_code = found.ptt if found.ptt <= _LARGEST_ERROR_CODE else 0
    return answer


def cancel(message: CancelSm, account_id: int, storage: Storage, dispatcher: Dispatcher, answer: Answer) -> None:
    """Call back an account's message, or without message_id all of them from source to destination.

    `answer` is told ESME_ROK once at least one of them is called back on disk; ESME_RINVMSGID where the account has
    none with that id, ESME_RCANCELFAIL where it is from or to another address, or none of them can be called back any
    more.
    """
    cancelling = _Cancelling(dispatcher, answer)
    if not message.message_id:
        source, destination = _plain(message.source), _plain(message.destination)
        storage.find_unfinished(account_id, source, destination, cancelling.begin)
        return
    try:
        found = _find(message.message_id, account_id, storage)
    except Refusal as refusal:
        cancelling.begin(refusal)
        return
    if found is None:
        answer(Status.ESME_RINVMSGID)
        return
    # 4.9.1: the destination may be left out beside a message_id.
    to_it = not message.destination or _same(found.destination, message.destination)
    cancelling.begin((found,) if to_it and _same(found.source, message.source) else ())


class _Cancelling:
    """Several messages that are called back, some at a time, with one answer."""

    def __init__(self, dispatcher: Dispatcher, answer: Answer) -> None:
        self._dispatcher = dispatcher
        self._answer = answer
        self._found: Iterator[Whereabouts] = iter(())
        self._open = 0
        self._status = Status.ESME_RCANCELFAIL

    def begin(self, found: Sequence[Whereabouts] | Refusal) -> None:
        if isinstance(found, Refusal):
            self._answer(Status.ESME_RSYSERR)
        else:
            self._found = iter(found)
            self._go_on()

    def _go_on(self) -> None:
        some = list(islice(self._found, _MOST_AT_ONCE))
        if not some:
            self._answer(self._status)
        self._open = len(some)
        for each in some:
            self._dispatcher.cancel(each, self._resolved)

    def _resolved(self, result: bool | Refusal) -> None:
        if result is True:
            self._status = Status.ESME_ROK
        elif isinstance(result, Refusal) and self._status is Status.ESME_RCANCELFAIL:
            self._status = Status.ESME_RSYSERR
        self._open -= 1
        if not self._open:
            asyncio.get_running_loop().call_soon(self._go_on)


def _find(message_id: str, account_id: int, storage: Storage) -> Whereabouts | None:
    if not _MESSAGE_ID.fullmatch(message_id) or int(message_id) > _LARGEST_ID:
        return None
    return storage.find(account_id, int(message_id))


def _same(one: str, other: str) -> bool:
    return _plain(one) == _plain(other)


def _plain(address: str) -> str:
    return address.removeprefix("+")
