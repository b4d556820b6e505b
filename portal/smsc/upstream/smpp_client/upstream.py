"""An upstream that is reached by SMPP, as the dispatcher sees it: messages in, and what came of them out."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial

from portal.core.clock import now_ms
from portal.services.common import message_states
from portal.services.messages import outcomes
from portal.services.messages.inbound import MobileOriginatedMessage
from portal.services.messages.inbound_parts import is_too_long
from portal.services.messages.validation import SubmittedMessage
from portal.services.upstreams import binds
from portal.services.upstreams.binds import BindState
from portal.services.upstreams.upstreams import UpstreamPasswordUnreadable
from portal.smsc.protocol.constants import CommandStatus, format_status
from portal.smsc.protocol.pdu import DataSm, DeliverSm, SubmitSm
from portal.smsc.storage.interface import UpstreamConfig
from portal.smsc.upstream.channel import UpstreamChannel
from portal.smsc.upstream.smpp_client.client import SmppClient
from portal.smsc.upstream.smpp_client.client_session import ClientCounters, ClientSettings, Respond, Submit
from portal.smsc.upstream.smpp_client.cut_texts import CutTexts, get_cut_settings
from portal.smsc.upstream.smpp_client.deliver_sm import inbound_from_deliver, parse_receipt
from portal.smsc.upstream.smpp_client.submit_sm import CharacterMissing, build_submit_sm, split_text

# The deliver_sm that takes it on has room for no more (4.6.1); the source of a data_sm may be longer (4.7.1).
_MAX_SOURCE_LENGTH = 20


class SmppUpstream(SmppClient):
    """Implements `UpstreamConnection`, and hears what it does as a client."""

    is_simulated = False

    def __init__(self, config: UpstreamConfig, channel: UpstreamChannel) -> None:
        self._channel = channel
        super().__init__(self._read_config(config))
        self._cut_texts = CutTexts(self, channel)

    # --- what the dispatcher calls

    def start(self) -> None:
        if self._config.password is not None:
            super().start()
            return
        # To bind with another password, again and again, would have the carrier lock the account.
        error = str(UpstreamPasswordUnreadable(name=self._settings.name))
        self._channel.handle_binds(
            [
                BindState(number, kind, binds.UNBOUND, now_ms(), error)
                for number, kind in enumerate(self._settings.bind_kinds, start=1)
            ]
        )

    def change_config(self, config: UpstreamConfig) -> None:
        settings = self._read_config(config)
        if config.password is not None:
            self.change_settings(settings)

    def _read_config(self, config: UpstreamConfig) -> ClientSettings:
        self._config, settings = config, config.upstream.settings
        return ClientSettings(**dataclasses.asdict(settings), name=config.upstream.name, password=config.password or "")

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
                ptt = message_states.PTT_INVALID_CONTENT
                self._loop.call_soon(self._channel.handle_refused, each.id, f"not sent: {flaw}", ptt)

    def _send_message(self, message: SubmittedMessage) -> None:
        settings = get_cut_settings(message, self._settings)
        text = split_text(message, settings)
        if message.cut is not None and message.cut.total != len(text.pieces):
            raise ValueError("parts of it were sent that the others would not fit")
        if len(text.pieces) > 1:
            self._cut_texts.send(message, text, settings)
        else:
            submit_sm = build_submit_sm(message, text, settings, now_ms())
            renew = partial(self._renew_submit_sm, message)
            self.submit(message.id, submit_sm, text.piece_parts, renew, is_retry=message.is_retry)

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
        counted, self.counters = self.counters, ClientCounters()
        return {name: count for name, count in dataclasses.asdict(counted).items() if count}

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

        receipt = parse_receipt(message, self._config.upstream.id, self._settings)
        if receipt is not None:
            self._channel.handle_receipt(receipt, resolve)
            return
        inbound = inbound_from_deliver(message, self._config.upstream.id, self._settings)
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
