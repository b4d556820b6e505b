"""What people see of a PDU: its fields by their names in SMPP 3.4, without texts, numbers and passwords.

A field that isn't known to be harmless is not shown: of an optional parameter that nothing here uses, its length alone.
"""

from collections.abc import Mapping
from dataclasses import fields
from itertools import islice

from portal.services.common.addresses import mask_number
from portal.smsc.protocol.constants import CommandId, TlvTag
from portal.smsc.protocol.pdu import Bind, Pdu, ShortMessage

MASK = "***"
# The names of the standard, where those of the codec are shorter.
_FIELD_NAMES: Mapping[str, str] = {
    "source_ton": "source_addr_ton",
    "source_npi": "source_addr_npi",
    "source": "source_addr",
    "dest_ton": "dest_addr_ton",
    "dest_npi": "dest_addr_npi",
    "destination": "destination_addr",
    "priority": "priority_flag",
    "replace_if_present": "replace_if_present_flag",
    "default_message_id": "sm_default_msg_id",
}
_OF_HEADER = ("command", "sequence", "status")
_HEXADECIMAL_FIELDS = ("esm_class", "interface_version")
_ADDRESSES = ("source", "destination", "address_range")
_SHOWN_TAGS = frozenset(TlvTag) - {TlvTag.MESSAGE_PAYLOAD, TlvTag.OUTGOING_ID, TlvTag.INCOMING_ID}
MAX_LENGTH = 64
# Of optional parameters; 64 kB have room for 15,000.
_MAX_TLVS = 40


def describe_fields(message: Pdu) -> dict[str, str]:
    """Return the fields of a PDU's body that may be shown; those that are empty or 0 are left out, but for data_coding
    and sm_length.
    """
    shown = {}
    for each in fields(message):
        if each.name not in (*_OF_HEADER, "tlvs", "short_message"):
            text = _describe_field(message, each.name)
            if text:
                shown[_FIELD_NAMES.get(each.name, each.name)] = text
    if isinstance(message, ShortMessage):
        shown["sm_length"] = str(len(message.short_message))
        if message.short_message:
            shown["short_message"] = MASK
    tlvs = getattr(message, "tlvs", {})
    for tag, value in islice(tlvs.items(), _MAX_TLVS):
        shown[_name_tag(tag)] = _describe_tlv(tag, value)
    if len(tlvs) > _MAX_TLVS:
        shown["tlvs_left_out"] = str(len(tlvs) - _MAX_TLVS)
    return shown


def name_command(command: int) -> str:
    """The name of a command_id; its number where it has none here."""
    try:
        return CommandId(command).name.lower()
    except ValueError:
        return f"0x{command:08X}"


def _describe_field(message: Pdu, name: str) -> str:
    value = getattr(message, name)
    if name == "password" and isinstance(message, Bind):
        return MASK
    if name in _ADDRESSES:
        return mask_number(value)
    if name in _HEXADECIMAL_FIELDS:
        return f"0x{value:02X}" if value else ""
    return str(value) if value or name == "data_coding" else ""


def _name_tag(tag: int) -> str:
    try:
        return TlvTag(tag).name.lower()
    except ValueError:
        return f"0x{tag:04X}"


def _describe_tlv(tag: int, value: bytes) -> str:
    if tag == TlvTag.RECEIPTED_MESSAGE_ID:
        return value.partition(b"\0")[0][:MAX_LENGTH].decode("latin-1")
    return f"0x{value[:MAX_LENGTH].hex().upper()}" if tag in _SHOWN_TAGS else f"{MASK} ({len(value)})"
