"""An upstream that is reached by SMPP, as the dispatcher sees it: messages in, and what came of them out.

Texts that are cut into parts are one message each to the rest of the program, while their parts are under way.
"""

import json
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial

from portal.core.clock import now_ms
from portal.services.common import ids
from portal.services.common.message_states import NO_ANSWER, PTT_INVALID_CONTENT
from portal.services.messages import outcomes
from portal.services.messages.inbound import MobileOriginatedMessage
from portal.services.messages.inbound_parts import is_too_long
from portal.services.messages.message_parts import NOT_SENT, TextPart
from portal.services.messages.validation import SubmittedMessage
from portal.services.upstreams.binds import UNBOUND, BindState
from portal.services.upstreams.settings import UpstreamSettings
from portal.services.upstreams.upstreams import UpstreamPasswordUnreadable
from portal.smsc.protocol.constants import CommandStatus, format_status
from portal.smsc.protocol.pdu import DataSm, DeliverSm, SubmitSm
from portal.smsc.storage.interface import UpstreamConfig
from portal.smsc.upstream.channel import UpstreamChannel
from portal.smsc.upstream.smpp_client.client import SmppClient
from portal.smsc.upstream.smpp_client.client_session import ClientSettings, Respond, Submit
from portal.smsc.upstream.smpp_client.deliver_sm import inbound_from_deliver, parse_receipt
from portal.smsc.upstream.smpp_client.submit_sm import CarrierText, CharacterMissing, build_submit_sm, split_text

# The deliver_sm that takes it on has room for no more (4.6.1); the source of a data_sm may be longer (4.7.1).
_MAX_SOURCE_LENGTH = 20
# What decides how a text is cut: the parts that are sent later have to fit those that were sent before.
_CUT_SETTINGS = ("charset", "missing_characters", "other_alphabets", "long_texts")
_REFERENCE = "reference"
# A header may have room for 256 of them. A text has another one than so many before it to the same handset, as far as
# they are known: 5 MB at most.
_LATEST_TEXTS, _MAX_KNOWN_DESTINATIONS = 8, 5_000
# Prime to 256, so that 256 texts of one millisecond have as many references.
_REFERENCE_STEP = 37
_INTERRUPTED = "not all parts were sent"


@dataclass(eq=False)
class _Sending:
    """A text whose parts are under way. What becomes of it is told once, when nothing of it is any more: until then it
    stays the upstream's, so that a crash in between leaves it unsure.

    answered: the numbers of the parts that were accepted. open: those of the parts that wait in the client or are not
    answered. lost: those that were not answered. refusals: what parts were refused with for good, by their numbers.
    ptt: that of the first. held_status: with what one was refused for the moment.
    """

    message: SubmittedMessage
    settings: UpstreamSettings
    text: CarrierText
    reference: int
    open: set[int] = field(default_factory=set)
    lost: set[int] = field(default_factory=set)
    refusals: dict[int, str] = field(default_factory=dict)
    ptt: int = 0
    held_status: str = ""

    def __post_init__(self) -> None:
        self.answered = set(self.message.cut.answered) if self.message.cut else set[int]()
        cut_settings = {name: getattr(self.settings, name) for name in _CUT_SETTINGS}
        self.cut_settings = json.dumps({**cut_settings, _REFERENCE: self.reference})

    @property
    def total(self) -> int:
        return len(self.text.pieces)

    def build(self, number: int, now: int) -> SubmitSm:
        return build_submit_sm(self.message, self.text, self.settings, now, number, self.reference)

    def renew(self, number: int) -> SubmitSm | None:
        """Return a part as it is to be sent now; None where its text has expired."""
        now = now_ms()
        return None if outcomes.is_expired(self.message, now) else self.build(number, now)


def get_cut_settings(message: SubmittedMessage, settings: UpstreamSettings) -> UpstreamSettings:
    """Return the settings by which a message's text is cut: where parts of it were sent, as they were then."""
    if message.cut is None:
        return settings
    stored = json.loads(message.cut.settings)
    return replace(settings, **{name: stored[name] for name in _CUT_SETTINGS if name in stored})


def _derive_reference(message_id: int) -> int:
    """Return a number that is the same each time that the text is sent, and another one than texts of the same moment
    have.
    """
    submitted_at = ids.time_from_id(message_id)
    # The ids of one millisecond count up.
    return (submitted_at + _REFERENCE_STEP * (message_id - ids.min_id_at_time(submitted_at))) & 0xFFFF


class CutTexts:
    """The texts that one upstream gets in parts.

    Args:
        channel: what is told of each text as of one message.
    """

    def __init__(self, client: SmppClient, channel: UpstreamChannel) -> None:
        self._client = client
        self._channel = channel
        # By message id.
        self._sendings: dict[int, _Sending] = {}
        # Those of the latest texts, by destination and message id.
        self._references: OrderedDict[str, dict[int, int]] = OrderedDict()

    def send(self, message: SubmittedMessage, text: CarrierText, settings: UpstreamSettings) -> None:
        """Send the parts of a message that were not accepted.

        Args:
            settings: by which it was cut (`get_cut_settings`).

        Raises:
            ValueError: a part can't be written; none was sent.
        """
        sending = _Sending(message, settings, text, self._choose_reference(message))
        now = now_ms()
        submits = []
        for number in range(1, sending.total + 1):
            if number not in sending.answered:
                octets, renew = sending.build(number, now).encode(), partial(sending.renew, number)
                submits.append(Submit(message.id, message.destination, octets, 1, renew, message.is_retry, number))
        self._sendings[message.id] = sending
        sending.open = {each.number for each in submits}
        for each in submits:
            self._client.submit(each)

    def _choose_reference(self, message: SubmittedMessage) -> int:
        """Return the reference number of a text: the one with which parts of it were sent, or one that the latest texts
        to its handset don't have, which might take parts of both for one text.
        """
        latest = self._references.pop(message.destination, {})
        reference = latest.pop(message.id, _derive_reference(message.id))
        if message.cut is not None:
            reference = json.loads(message.cut.settings).get(_REFERENCE, reference)
        else:
            taken = {each & 0xFF for each in latest.values()}
            while reference & 0xFF in taken:
                reference = (reference + 1) & 0xFFFF
        latest[message.id] = reference
        if len(latest) > _LATEST_TEXTS:
            del latest[next(iter(latest))]
        self._references[message.destination] = latest
        if len(self._references) > _MAX_KNOWN_DESTINATIONS:
            self._references.popitem(last=False)
        return reference

    def cancel_messages(self, message_ids: Iterable[int]) -> list[int]:
        """Send those of these messages no more, cut ones and whole ones, of which the upstream has nothing; returns
        their ids.
        """
        unsent_ids = []
        for each in message_ids:
            sending = self._sendings.get(each)
            if sending is None or not (sending.answered or sending.lost):
                unsent_ids.append(each)
        cancelled_ids = {each.message_id for each in self._client.cancel_waiting(unsent_ids)}
        for each in cancelled_ids & self._sendings.keys():
            del self._sendings[each]
        return [each for each in unsent_ids if each in cancelled_ids]

    def handle_answer(self, submit: Submit, status: int, upstream_message_id: str, bind: int) -> None:
        """The upstream has decided about a part."""
        message_id, number = submit.message_id, submit.number
        sending = self._sendings[message_id]
        sending.open.remove(number)
        if not status:
            sending.answered.add(number)
            self._channel.handle_accepted(
                message_id,
                upstream_message_id,
                bind,
                TextPart(number, sending.total, sending.cut_settings),
                is_complete=len(sending.answered) == sending.total,
            )
        elif status in self._client.status_map.temporary:
            self._hold(sending, format_status(status))
        else:
            sending.ptt = sending.ptt or self._client.status_map.get_ptt(status)
            sending.refusals[number] = format_status(status)
            # The others would be of no use. What was sent of them is answered still.
            sending.open -= {each.number for each in self._client.cancel_waiting([message_id], begun=True)}
        unsure_ids, unsent_ids = self._settle([sending])
        if unsure_ids or unsent_ids:
            self._channel.handle_lost(unsure_ids, unsent_ids)

    def handle_lost(self, unsure: Sequence[Submit], unsent: Sequence[Submit]) -> tuple[Sequence[int], Sequence[int]]:
        """Messages, and parts, will not be answered any more; returns the ids of the messages, and of the texts of
        which nothing is under way any more.
        """
        sendings: dict[int, _Sending] = {}
        for each in (*unsure, *unsent):
            if each.number:
                sending = sendings[each.message_id] = self._sendings[each.message_id]
                sending.open.remove(each.number)
        for each in unsure:
            if each.number:
                sendings[each.message_id].lost.add(each.number)
        for sending in sendings.values():
            self._hold(sending, _INTERRUPTED)
        # The lists are in the order of sending; the storage puts each back in its own place.
        unsure_ids, unsent_ids = self._settle(sendings.values())
        unsure_ids += [each.message_id for each in unsure if not each.number]
        unsent_ids += [each.message_id for each in unsent if not each.number]
        return unsure_ids, unsent_ids

    def _hold(self, sending: _Sending, status: str) -> None:
        """It is not sent whole this time. What comes behind it waits for it, also while parts of it are under way."""
        if not (sending.held_status or sending.refusals):
            sending.held_status = status
            if sending.open:
                self._channel.handle_interrupted(sending.message.id)

    def _settle(self, sendings: Iterable[_Sending]) -> tuple[list[int], list[int]]:
        """Tell what became of those of which nothing is under way any more; returns the lost ones: unsure and unsent
        ones.
        """
        unsure_ids: list[int] = []
        unsent_ids: list[int] = []
        for sending in sendings:
            if sending.open:
                continue
            message_id = sending.message.id
            del self._sendings[message_id]
            if sending.refusals:
                statuses = {
                    number: NO_ANSWER if number in sending.lost else sending.refusals.get(number, NOT_SENT)
                    for number in range(1, sending.total + 1)
                    if number not in sending.answered
                }
                self._channel.handle_refused(message_id, next(iter(sending.refusals.values())), sending.ptt, statuses)
            elif sending.lost:
                unsure_ids.append(message_id)
            elif sending.held_status == _INTERRUPTED and not sending.answered:
                unsent_ids.append(message_id)
            elif sending.held_status:
                self._channel.handle_held(message_id, sending.held_status)
        return unsure_ids, unsent_ids


def _get_client_settings(config: UpstreamConfig) -> ClientSettings:
    upstream = config.upstream
    return ClientSettings(**asdict(upstream.settings), name=upstream.name, password=config.password or "")


class SmppUpstream(SmppClient):
    """Implements `UpstreamConnection`, and hears what it does as a client."""

    def __init__(self, config: UpstreamConfig, channel: UpstreamChannel) -> None:
        self._channel = channel
        self.tracer = channel.tracer
        super().__init__(_get_client_settings(config))
        self._cut_texts = CutTexts(self, channel)

    # --- what the dispatcher calls

    def start(self) -> None:
        if self._channel.config.password is not None:
            super().start()
            return
        # To bind with another password, again and again, would have the carrier lock the account.
        error = str(UpstreamPasswordUnreadable(name=self._settings.name))
        kinds, now = enumerate(self._settings.bind_kinds, start=1), now_ms()
        self._channel.handle_binds([BindState(number, kind, UNBOUND, now, error) for number, kind in kinds])

    def change_config(self, config: UpstreamConfig) -> None:
        if config.password is not None:
            self.change_settings(_get_client_settings(config))

    @property
    def window(self) -> int:
        return self._settings.window * self._settings.binds

    def send_messages(self, messages: Sequence[SubmittedMessage]) -> None:
        for each in messages:
            try:
                if outcomes.is_expired(each, now_ms()):
                    # Whoever gets it back ends it.
                    self._loop.call_soon(self._channel.handle_lost, (), (each.id,))
                else:
                    self._send_message(each)
            except (ValueError, LookupError, OverflowError) as error:
                # Not what any other error says: it may quote the text.
                flaw = error if isinstance(error, CharacterMissing) else "no submit_sm can hold it"
                self._loop.call_soon(self._channel.handle_refused, each.id, f"not sent: {flaw}", PTT_INVALID_CONTENT)

    def _send_message(self, message: SubmittedMessage) -> None:
        settings = get_cut_settings(message, self._settings)
        text = split_text(message, settings)
        if message.cut is not None and message.cut.total != len(text.pieces):
            raise ValueError("parts of it were sent that the others would not fit")
        if len(text.pieces) > 1:
            self._cut_texts.send(message, text, settings)
        else:
            octets = build_submit_sm(message, text, settings, now_ms()).encode()
            renew = partial(self._renew_submit_sm, message)
            self.submit(Submit(message.id, message.destination, octets, text.piece_parts, renew, message.is_retry))

    def _renew_submit_sm(self, message: SubmittedMessage) -> SubmitSm | None:
        """Return a message as it is to be sent now; None where it has expired."""
        now = now_ms()
        if outcomes.is_expired(message, now):
            return None
        text = split_text(message, self._settings)
        if len(text.pieces) > 1:
            raise ValueError("other settings would cut it now")
        return build_submit_sm(message, text, self._settings, now)

    def cancel_messages(self, message_ids: Sequence[int]) -> list[int]:
        return self._cut_texts.cancel_messages(message_ids)

    def take_counters(self) -> Mapping[str, int]:
        counted, self.counters = self.counters, Counter()
        return counted

    # --- what the client tells

    def submit_answered(self, submit: Submit, status: int, upstream_message_id: str, bind_number: int) -> None:
        if submit.number:
            self._cut_texts.handle_answer(submit, status, upstream_message_id, bind_number)
        elif not status:
            self._channel.handle_accepted(submit.message_id, upstream_message_id, bind_number)
        elif status in self.status_map.temporary:
            self._channel.handle_held(submit.message_id, format_status(status))
        else:
            self._channel.handle_refused(submit.message_id, format_status(status), self.status_map.get_ptt(status))

    def submit_throttled(self, submit: Submit, status: int) -> None:
        self._channel.handle_throttled(submit.message_id, format_status(status))

    def submits_lost(self, unsure: Sequence[Submit], unsent: Sequence[Submit]) -> None:
        self._channel.handle_lost(*self._cut_texts.handle_lost(unsure, unsent))

    def handle_delivery(self, message: DeliverSm | DataSm, respond: Respond) -> None:
        def resolve(is_stored: bool) -> None:
            if is_stored:
                respond(CommandStatus.ESME_ROK)
            else:
                # The carrier is to bring it again.
                self._refuse_delivery(respond, CommandStatus.ESME_RX_T_APPN)

        upstream = self._channel.config.upstream
        receipt = parse_receipt(message, upstream.id, upstream.settings)
        if receipt is not None:
            self._channel.handle_receipt(receipt, resolve)
            return
        inbound = inbound_from_deliver(message, upstream.id, upstream.settings)
        if len(inbound.source) > _MAX_SOURCE_LENGTH:
            self._refuse_delivery(respond, CommandStatus.ESME_RINVSRCADR)
        elif isinstance(inbound, MobileOriginatedMessage) and is_too_long(
            inbound.text, inbound.data_coding, inbound.body
        ):
            self._refuse_delivery(respond, CommandStatus.ESME_RINVMSGLEN)
        else:
            self._channel.handle_inbound(inbound, resolve)

    def _refuse_delivery(self, respond: Respond, status: CommandStatus) -> None:
        self._channel.handle_delivery_refused(format_status(status))
        respond(status)

    def room_changed(self) -> None:
        self._channel.handle_room()

    def state_changed(self, bind: BindState) -> None:
        self._channel.handle_binds(self.bind_states)
        self._channel.handle_room()
