"""An SMPP client on aiosmpplib, as its users write one.

It is driven over stdin and tells what happens on stdout, one JSON value a line; `driven.py` is at the other end and
says what the values mean.
"""

import asyncio
import json
import sys
from asyncio import StreamReader, StreamReaderProtocol
from typing import Any

from aiosmpplib import ESME, NPI, TON, BindMode, DeliverSm, PhoneNumber, SubmitSm, SubmitSmResp
from aiosmpplib.codec import GSM7BitCodec
from aiosmpplib.hook import AbstractHook
from aiosmpplib.protocol import BindReceiverResp, BindTransceiverResp, BindTransmitterResp, SmppMessage, Unbind
from aiosmpplib.retrytimer import SimpleExponentialBackoff
from aiosmpplib.state import (
    SAR_MSG_REF_NUM,
    SAR_SEGMENT_SEQNUM,
    SAR_TOTAL_SEGMENTS,
    OptionalParam,
    SmppCommandStatus,
)

_RECONNECT_MS = 200
_RESEND_S = 0.2
_UDH_INDICATOR = 0x40
_BIND_RESP = (BindReceiverResp, BindTransceiverResp, BindTransmitterResp)
_BIND_MODES = {"transmitter": BindMode.TRANSMITTER, "receiver": BindMode.RECEIVER, "transceiver": BindMode.TRANSCEIVER}
# Characters of a part beside its sar_* parameters.
_GSM_PART, _UCS2_PART = 153, 67
_TLV_NAMES = {
    0x001E: "receipted_message_id",
    0x0423: "network_error_code",
    0x0427: "message_state",
    0x1401: "outgoing_id",
}


def write_event(event: str, **values: object) -> None:
    print(json.dumps({"event": event} | values), flush=True)


class EventHook(AbstractHook):
    """Hears of every PDU. It answers nothing: the library does that."""

    def __init__(self) -> None:
        self.esme: ESME | None = None
        self._sent: dict[str, SubmitSm] = {}
        self._resending: set[asyncio.Task[None]] = set()

    async def sending(self, smpp_message: SmppMessage, pdu: bytes, client_id: str) -> None:
        if isinstance(smpp_message, SubmitSm):
            self._sent[smpp_message.log_id] = smpp_message

    async def received(self, smpp_message: SmppMessage | None, pdu: bytes, client_id: str) -> None:
        # Of a message that the library has split, there is one answer and one receipt here: when the last part has its.
        if isinstance(smpp_message, _BIND_RESP):
            write_event("bind", status=smpp_message.command_status)
        elif isinstance(smpp_message, SubmitSmResp):
            write_event(
                "answer", n=int(smpp_message.log_id), status=smpp_message.command_status, id=smpp_message.message_id
            )
            if smpp_message.command_status == SmppCommandStatus.ESME_RTHROTTLED:
                self._resend(smpp_message.log_id)
        elif isinstance(smpp_message, DeliverSm) and smpp_message.is_receipt():
            write_event("receipt", **_receipt_values(smpp_message))
        elif isinstance(smpp_message, Unbind):
            write_event("unbind")

    async def send_error(self, smpp_message: SmppMessage, error: Exception, client_id: str) -> None:
        write_event("error", n=int(getattr(smpp_message, "log_id", 0)), what=repr(error))

    def _resend(self, log_id: str) -> None:
        # The library never sends a refused message again.
        async def again() -> None:
            await asyncio.sleep(_RESEND_S)
            assert self.esme
            await self.esme.broker.enqueue(self._sent[log_id].clone())

        task = asyncio.create_task(again())
        self._resending.add(task)
        task.add_done_callback(self._resending.discard)


def _receipt_values(message: DeliverSm) -> dict[str, Any]:
    tlvs = {_TLV_NAMES[each.tag]: each.value for each in message.optional_params or [] if each.tag in _TLV_NAMES}
    # The library takes these three octets for a text.
    tlvs["network_error_code"] = str(tlvs["network_error_code"]).encode("latin-1").hex()
    return {
        "n": int(message.log_id or 0),
        "esm_class": message.esm_class,
        "source": message.source.number,
        "destination": message.destination.number,
        "text": message.short_message,
    } | tlvs


def _build_messages(n: int, text: str, to: str, source: str, way: str) -> list[SubmitSm]:
    fields: dict[str, Any] = {
        "source": PhoneNumber(source, TON.ALPHANUMERIC, NPI.UNKNOWN),
        "destination": PhoneNumber(to, TON.INTERNATIONAL, NPI.ISDN),
        "log_id": str(n),
    }
    if way == "payload":
        return [SubmitSm(message_payload=text, **fields)]
    if way == "udh":
        return [SubmitSm(short_message=text, esm_class=_UDH_INDICATOR, auto_message_payload=False, **fields)]
    if way == "sar":
        # By hand: the library's own way (auto_message_payload=False, no UDH indicator) ends its sender for good.
        parts = _split_text(text)
        return [
            SubmitSm(
                short_message=part,
                optional_params=[
                    OptionalParam(SAR_MSG_REF_NUM, n),
                    OptionalParam(SAR_TOTAL_SEGMENTS, len(parts)),
                    OptionalParam(SAR_SEGMENT_SEQNUM, number),
                ],
                **fields,
            )
            for number, part in enumerate(parts, 1)
        ]
    if way == "sar by the library":
        return [SubmitSm(short_message=text, auto_message_payload=False, **fields)]
    if way == "latin 1":
        return [SubmitSm(short_message=text, encoding="latin_1", **fields)]
    return [SubmitSm(short_message=text, **fields)]


def _split_text(text: str) -> list[str]:
    """Cuts no character in two: neither an escaped one of GSM 03.38 nor a surrogate pair."""
    gsm = GSM7BitCodec.is_gsm_text(text)
    max_length = _GSM_PART if gsm else _UCS2_PART
    parts, length_left = [""], max_length
    for character in text:
        octets = GSM7BitCodec.get_codec_info().encode(character)[0] if gsm else character.encode("utf-16-be")
        length = len(octets) if gsm else len(octets) // 2
        if length > length_left:
            parts.append("")
            length_left = max_length
        parts[-1] += character
        length_left -= length
    return parts


async def main() -> None:
    """The first line has the settings, each other one a message to send. The end of input is the end of the program."""
    lines = StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: StreamReaderProtocol(lines), sys.stdin)
    settings = json.loads(await lines.readline())
    hook = EventHook()
    esme = ESME(
        smsc_host=settings["host"],
        smsc_port=settings["port"],
        system_id=settings["system_id"],
        password=settings["password"],
        bind_mode=_BIND_MODES[settings["bind"]],
        enquire_link_interval=20.0,
        hook=hook,
        retry_timer=SimpleExponentialBackoff(min_delay=_RECONNECT_MS, max_increases=2),
        log_level="WARNING",
    )
    hook.esme = esme
    running = asyncio.create_task(esme.start())
    running.add_done_callback(
        lambda task: write_event("ended", what="" if task.cancelled() else repr(task.exception()))
    )
    while line := await lines.readline():
        for message in _build_messages(**json.loads(line)):
            await esme.broker.enqueue(message)
    running.cancel()


asyncio.run(main())
