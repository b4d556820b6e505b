"""Receipts as carriers send them: a deliver_sm or data_sm with the text of appendix B, with TLVs, or with both."""

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from zoneinfo import ZoneInfo

from portal.core import gsm0338
from portal.services.common import message_states
from portal.services.messages.inbound_octets import unpack_content
from portal.services.upstreams import mappings
from portal.services.upstreams.settings import GSM_CHARSETS, UpstreamSettings
from portal.smsc.protocol import times
from portal.smsc.protocol.constants import ESM_CLASS_RECEIPT, ESM_CLASS_UDH, TlvTag
from portal.smsc.protocol.pdu import DataSm, DeliverSm

# esm_class, 5.2.12: the bits that say what kind of message it is, and the kind that is only a notification.
_ESM_CLASS_TYPE_BITS, _ESM_CLASS_NOTIFICATION = 0x3C, 0x20
_DATA_CODING_UCS2 = 8

# message_state, 5.2.28; 0 and 9 are those that SMPP 5.0 adds, scheduled and skipped.
_STATES_BY_TLV: Mapping[int, int] = {
    0: message_states.ENROUTE,
    **{each: each for each in range(message_states.ENROUTE, message_states.REJECTED + 1)},
    9: message_states.REJECTED,
}
_KEY = re.compile(r"(?<![^\s,;])(id|sub|dlvrd|submit[ _]?date|done[ _]?date|stat|err|text)\s*:\s*", re.IGNORECASE)
# The form that most carriers keep to; for these the fields need not be searched.
_USUAL_TEXT = re.compile(
    r"id:([^\s,;\0]+) sub:[^\s,;\0]* dlvrd:[^\s,;\0]* submit date:[^\s,;\0]* done date:([^\s,;\0]*)"
    r" stat:([^\s,;\0]*) err:([^\s,;\0]*) [Tt]ext:"
)
_DATE_FORMATS = {10: "%y%m%d%H%M", 12: "%y%m%d%H%M%S", 14: "%Y%m%d%H%M%S"}
_MAX_ID_LENGTH = 64
_MAX_WORD_LENGTH = 20
# Longer ones are none.
_MAX_DATE_LENGTH = 16
# Of a text that is looked at: a message_payload has room for 64 KiB, which would take 22 milliseconds.
_MAX_TEXT_LENGTH = 1_000
# Of a text in which a pattern looks for the id: a receipt of appendix B without what it quotes is shorter.
_MAX_SEARCHED_LENGTH = 100


@dataclass(frozen=True, slots=True)
class ReceiptRules:
    """How a carrier writes its receipts.

    id_from: "both", "tlv" or "text". id_pattern: finds the id in the text; None: `id:` does. intermediate_states: those
    that end nothing. charset: of data_coding 0; "auto": Latin-1, as most write in what is the same in all.
    """

    id_from: str = "both"
    id_pattern: re.Pattern[str] | None = None
    intermediate_states: frozenset[int] = mappings.ALWAYS_INTERMEDIATE
    timezone: datetime.tzinfo = datetime.UTC
    charset: str = "auto"


DEFAULT_RULES = ReceiptRules()


def receipt_rules_from_settings(settings: UpstreamSettings) -> ReceiptRules:
    """Return what an upstream's settings say of receipts."""
    pattern = settings.receipt_id_pattern
    return ReceiptRules(
        settings.receipt_id_from,
        mappings.parse_id_pattern(pattern) if pattern else None,
        mappings.parse_intermediate_states(settings.intermediate_states),
        ZoneInfo(settings.receipt_timezone),
        settings.receipt_charset,
    )


# Not frozen, because one is created for each receipt.
@dataclass(slots=True)
class Receipt:
    """What a receipt says.

    message_ids: the ids that it gives for its message, as they came: that of the TLV first, and that of the text where
    it is another. state: message_state as the portal has it, None: a word that is not known. is_final: nothing more
    will come. stat, err: as they came, "" where there is none; of a TLV the decimal number. done_at: unix milliseconds,
    None: no date that can be read. text: all of it, as far as it can be read.
    """

    message_ids: tuple[str, ...]
    state: int | None
    is_final: bool
    stat: str = ""
    err: str = ""
    done_at: int | None = None
    text: str = field(default="", compare=False)


def parse_receipt(message: DeliverSm | DataSm, rules: ReceiptRules = DEFAULT_RULES) -> Receipt | None:
    """Return the receipt that it is, None where it is a message from a handset.

    By esm_class, or by receipted_message_id: a handset can write a receipt's text, but neither of these.
    """
    kind = message.esm_class & _ESM_CLASS_TYPE_BITS
    tlvs = message.tlvs
    if kind not in (ESM_CLASS_RECEIPT, _ESM_CLASS_NOTIFICATION) and TlvTag.RECEIPTED_MESSAGE_ID not in tlvs:
        return None
    text = _decode_text(message, rules)[:_MAX_TEXT_LENGTH]
    fields = _parse_text(text)
    stat = fields.get("stat", "")[:_MAX_WORD_LENGTH]
    state_value = tlvs.get(TlvTag.MESSAGE_STATE, b"")
    state = _STATES_BY_TLV.get(state_value[0]) if len(state_value) == 1 else None
    if state is None:
        state = mappings.find_state(stat)
    # network_error_code (5.3.2.31): behind an octet that says which network it is of.
    network_error = tlvs.get(TlvTag.NETWORK_ERROR_CODE, b"")
    error = str(int.from_bytes(network_error[1:])) if len(network_error) == 3 else ""
    return Receipt(
        _find_ids(tlvs, text, fields, rules),
        state,
        state is not None and state not in rules.intermediate_states and kind != _ESM_CLASS_NOTIFICATION,
        stat,
        error or fields.get("err", "")[:_MAX_WORD_LENGTH],
        _parse_date(fields.get("donedate", "")[: _MAX_DATE_LENGTH + 1], rules.timezone),
        text,
    )


def _find_ids(tlvs: Mapping[int, bytes], text: str, fields: Mapping[str, str], rules: ReceiptRules) -> tuple[str, ...]:
    """Return the ids that a receipt gives, each once."""
    tlv_id = text_id = ""
    if rules.id_from != "text":
        tlv_id = tlvs.get(TlvTag.RECEIPTED_MESSAGE_ID, b"").partition(b"\0")[0].decode("latin-1").strip()
    if rules.id_from != "tlv" and rules.id_pattern is None:
        text_id = fields.get("id", "")
    elif rules.id_from != "tlv" and rules.id_pattern is not None:
        match = rules.id_pattern.search(text[:_MAX_SEARCHED_LENGTH])
        text_id = (match[1] or "").strip() if match else ""
    tlv_id, text_id = tlv_id[:_MAX_ID_LENGTH], text_id[:_MAX_ID_LENGTH]
    if tlv_id and text_id and tlv_id != text_id:
        return tlv_id, text_id
    return (tlv_id or text_id,) if tlv_id or text_id else ()


def _decode_text(message: DeliverSm | DataSm, rules: ReceiptRules) -> str:
    body, header_length = message.body, 0
    if message.esm_class & ESM_CLASS_UDH and body:
        header_length = 1 + body[0]
        body = body[header_length:]
    if message.data_coding != _DATA_CODING_UCS2 and (message.data_coding or rules.charset == "auto"):
        return body.decode("latin-1")
    # To replace what can't be read takes long.
    body = body[: 2 * _MAX_TEXT_LENGTH]
    if message.data_coding:
        return body.decode("utf-16-be", "replace")
    if rules.charset in GSM_CHARSETS:
        content = unpack_content(body, rules.charset, header_length)
        return gsm0338.decode_as_displayed(content, gsm0338.get_alphabet(0, None))
    return body.decode(rules.charset, "replace")


def _parse_text(text: str) -> Mapping[str, str]:
    """Return the fields of appendix B by their names, in small letters and without blanks."""
    usual = _USUAL_TEXT.match(text)
    if usual:
        return {"id": usual[1], "donedate": usual[2], "stat": usual[3], "err": usual[4]}
    fields: dict[str, str] = {}
    keys = list(_KEY.finditer(text))
    for index, key in enumerate(keys):
        name = re.sub("[ _]", "", key[1].lower())
        end = keys[index + 1].start() if index + 1 < len(keys) else len(text)
        if name == "text" and {"id", "stat"} & fields.keys():
            break  # what follows is what the message's sender wrote
        fields.setdefault(name, text[key.end() : end].strip(" \t\r\n\0,;"))
    return fields


# Most that come within a minute have the same.
@lru_cache(maxsize=1_000)
def _parse_date(text: str, timezone: datetime.tzinfo) -> int | None:
    """Return a date of appendix B, with or without seconds, which is in a time zone that isn't said; or one as 7.1.1
    has it, which says its own.
    """
    try:
        if text.isascii() and text.isdigit():
            moment = datetime.datetime.strptime(text, _DATE_FORMATS[len(text)]).replace(tzinfo=timezone)
            return int(moment.timestamp() * 1000)
        return times.parse_smpp_time(text, 0) if not text.endswith("R") else None
    except (KeyError, ValueError, OverflowError):
        return None
