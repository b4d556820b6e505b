"""Texts that are cut into parts, while their parts are under way: to the rest of the program each is one message."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import count

from portal.core.clock import now_ms
from portal.services.common.message_states import NO_ANSWER
from portal.services.messages import outcomes
from portal.services.messages.message_parts import NOT_SENT, TextPart
from portal.services.messages.validation import SubmittedMessage
from portal.services.upstreams.settings import UpstreamSettings
from portal.smsc.protocol.constants import format_status
from portal.smsc.protocol.pdu import SubmitSm
from portal.smsc.upstream.interface import UpstreamEvents
from portal.smsc.upstream.smpp_client.client import SmppClient
from portal.smsc.upstream.smpp_client.submit_sm import OutgoingText, build_submit_sm

# What decides how a text is cut: the parts that are sent later have to fit those that were sent before.
_CUT_SETTINGS = ("charset", "missing_characters", "other_alphabets", "long_texts")
_INTERRUPTED = "not all parts were sent"
_MAX_KEPT = 1_000


class _Sending:
    """A text whose parts are under way.

    is_active: whether what becomes of it is still to be told; what was refused for the moment, or lost, has been. open:
    the numbers of the parts that wait in the client or are not answered, by the client's number for each. refusals:
    what parts were refused with for good, or NO_ANSWER, by their numbers. ptt: that of the first. is_unsure: whether a
    part was lost after it was told.
    """

    __slots__ = (
        "answered",
        "cut_settings",
        "is_active",
        "is_unsure",
        "message",
        "open",
        "outgoing",
        "ptt",
        "refusals",
        "settings",
    )

    def __init__(self, message: SubmittedMessage, settings: UpstreamSettings, outgoing: OutgoingText) -> None:
        self.message = message
        self.settings = settings
        self.outgoing = outgoing
        self.cut_settings = json.dumps({name: getattr(settings, name) for name in _CUT_SETTINGS})
        self.answered: set[int] = set(message.cut.answered) if message.cut else set()
        self.is_active = True
        self.open: dict[int, int] = {}
        self.refusals: dict[int, str] = {}
        self.ptt = 0
        self.is_unsure = False

    @property
    def total(self) -> int:
        return len(self.outgoing.pieces)

    def renew(self, number: int) -> SubmitSm | None:
        """Return a part as it is to be sent now; None where its text has expired."""
        now = now_ms()
        if outcomes.is_expired(self.message, now):
            return None
        return build_submit_sm(self.message, self.outgoing, self.settings, now, number)


def get_cut_settings(message: SubmittedMessage, settings: UpstreamSettings) -> UpstreamSettings:
    """Return the settings by which a message's text is cut: where parts of it were sent, as they were then."""
    return settings if message.cut is None else replace(settings, **json.loads(message.cut.settings))


class CutTexts:
    """The texts that one upstream gets in parts. The client knows each part by a number below 0.

    Args:
        events: what is told of each text as of one message.
    """

    def __init__(self, client: SmppClient, events: UpstreamEvents, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._events = events
        self._loop = loop
        self._numbers = count(-1, -1)
        # By message id, and by the client's numbers.
        self._sendings: dict[int, _Sending] = {}
        self._parts: dict[int, tuple[_Sending, int]] = {}

    def send(self, message: SubmittedMessage, outgoing: OutgoingText, settings: UpstreamSettings) -> None:
        """Send the parts of a message that were not answered and are not under way.

        Args:
            settings: by which it was cut (`get_cut_settings`).

        Raises:
            ValueError: a part can't be written; none was sent.
        """
        sending = self._sendings.get(message.id)
        if sending is None:
            sending = _Sending(message, settings, outgoing)
        elif message.cut is not None:
            sending.answered |= message.cut.answered
        now = now_ms()
        done = {*sending.answered, *sending.open.values()}
        submits = {
            number: build_submit_sm(message, sending.outgoing, sending.settings, now, number)
            for number in range(1, sending.total + 1)
            if number not in done
        }
        for each in submits.values():
            each.encode()
        sending.is_active = True
        self._keep(sending)
        if sending.is_unsure:
            # It is decided by the setting `unanswered` whether that is sent again.
            sending.is_unsure = False
            self._loop.call_soon(self._report_unsure, sending)
            return
        for number, submit_sm in submits.items():
            client_id = next(self._numbers)
            sending.open[client_id] = number
            self._parts[client_id] = (sending, number)
            self._client.submit(client_id, submit_sm, 1, partial(sending.renew, number), is_retry=message.is_retry)

    def cancel(self, message_id: int) -> bool | None:
        """Send a message no more; returns whether no part of it has gone out. None: it is not here."""
        sending = self._sendings.get(message_id)
        if sending is None:
            return None
        if sending.answered or not sending.open or not self._client.cancel(*sending.open):
            return False
        self._forget(sending, sending.open)
        del self._sendings[message_id]
        return True

    def has_begun(self, message_id: int) -> bool:
        """Whether parts of a message are under way, were answered, or may have arrived."""
        sending = self._sendings.get(message_id)
        return sending is not None and bool(sending.answered or sending.open or sending.is_unsure)

    def handle_answer(self, client_id: int, status: int, upstream_message_id: str, bind: int) -> None:
        """The upstream has decided about a part."""
        sending, number = self._parts.pop(client_id)
        del sending.open[client_id]
        message_id = sending.message.id
        if not status:
            sending.answered.add(number)
            self._events.handle_accepted(
                message_id,
                upstream_message_id,
                bind,
                TextPart(number, sending.total, sending.cut_settings),
                is_complete=sending.is_active and len(sending.answered) == sending.total,
            )
        elif status in self._client.status_map.temporary:
            if sending.is_active and not sending.refusals:
                sending.is_active = False
                self._events.handle_held(message_id, format_status(status))
        else:
            sending.ptt = sending.ptt or self._client.status_map.get_ptt(status)
            sending.refusals[number] = format_status(status)
            # The others would be of no use. What was sent of them is answered still.
            self._forget(sending, [each for each in sending.open if self._client.cancel(each)])
        self._settle(sending)

    def handle_lost(self, unsure: Sequence[int], unsent: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
        """Parts will not be answered any more; returns the messages that are lost with that, unsure and unsent ones."""
        lost: dict[int, list[int]] = defaultdict(list)
        unsure_numbers: dict[int, list[int]] = defaultdict(list)
        sendings: dict[int, _Sending] = {}
        unsure_client_ids = frozenset(unsure)
        for client_id in (*unsure, *unsent):
            sending, number = self._parts[client_id]
            sendings[sending.message.id] = sending
            lost[sending.message.id].append(client_id)
            if client_id in unsure_client_ids:
                unsure_numbers[sending.message.id].append(number)
        unsure_ids: list[int] = []
        unsent_ids: list[int] = []
        for message_id, sending in sendings.items():
            self._forget(sending, lost[message_id])
            if sending.refusals:
                sending.refusals.update(dict.fromkeys(unsure_numbers[message_id], NO_ANSWER))
            elif not sending.is_active:
                sending.is_unsure = sending.is_unsure or bool(unsure_numbers[message_id])
            else:
                sending.is_active = False
                if unsure_numbers[message_id]:
                    unsure_ids.append(message_id)
                elif sending.answered or sending.open:
                    self._events.handle_held(message_id, _INTERRUPTED)
                else:
                    unsent_ids.append(message_id)
            self._settle(sending)
        return unsure_ids, unsent_ids

    def _report_unsure(self, sending: _Sending) -> None:
        if sending.is_active:
            sending.is_active = False
            self._events.handle_lost([sending.message.id], [])
            self._settle(sending)

    def _forget(self, sending: _Sending, client_ids: Iterable[int]) -> None:
        for each in [*client_ids]:
            del self._parts[each]
            del sending.open[each]

    def _settle(self, sending: _Sending) -> None:
        """Tell of a refusal once all that was sent is answered, and forget what is over."""
        if sending.open:
            return
        message_id = sending.message.id
        if sending.refusals and sending.is_active:
            sending.is_active = False
            status = next(each for each in sending.refusals.values() if each != NO_ANSWER)
            statuses = {
                number: sending.refusals.get(number, NOT_SENT)
                for number in range(1, sending.total + 1)
                if number not in sending.answered
            }
            self._events.handle_refused(message_id, status, sending.ptt, statuses)
        if sending.refusals or len(sending.answered) == sending.total:
            self._sendings.pop(message_id, None)

    def _keep(self, sending: _Sending) -> None:
        """Remember a text, also while it waits to be tried again: what is answered meanwhile may not be on disk when it
        comes back. Most do; of those that don't the oldest are forgotten.
        """
        self._sendings[sending.message.id] = sending
        if len(self._sendings) > _MAX_KEPT:
            for each in [*self._sendings.values()]:
                if not (each.is_active or each.open or each.is_unsure):
                    del self._sendings[each.message.id]
                    break
