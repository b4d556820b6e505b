"""Source addresses of messages, as they are compared: the same number may be written with a plus or 00 in front.

A message keeps its source as its client wrote it, for so the receipt names it (SMPP 3.4, 4.6.1).
"""

import re

INTERNATIONAL_NUMBER = re.compile(r"(?:\+|00)([1-9][0-9]{6,14})")
"""A number (E.164, 6: at most 15 digits) with a plus or 00 in front; the group has its digits."""
_WITH_PLUS = re.compile(r"\+([0-9]+)")
_SHOWN_DIGITS, _LAST_DIGITS, _HIDDEN_DIGITS = 4, 2, 6


def normalize_address(address: str) -> str:
    """An address as it is compared with others: without a plus before digits, or the 00 before a country code."""
    match = INTERNATIONAL_NUMBER.fullmatch(address) or _WITH_PLUS.fullmatch(address)
    return match[1] if match else address


def list_spellings(address: str) -> list[str]:
    """Every way to write an address: all that `normalize_address` makes the same of."""
    normalized = normalize_address(address)
    return [each for each in (normalized, f"+{normalized}", f"00{normalized}") if normalize_address(each) == normalized]


def mask_number(address: str) -> str:
    """An address of which no handset can be told: of seven digits and more the last two stay, and in front the first
    ones, four at most, as long as six are asterisks. Short codes and names stay as they are.
    """
    count = sum(each.isdigit() for each in address)
    if count <= _HIDDEN_DIGITS:
        return address
    first = max(min(_SHOWN_DIGITS, count - _HIDDEN_DIGITS - _LAST_DIGITS), 0)
    masked, position = [], 0
    for each in address:
        position += each.isdigit()
        is_hidden = each.isdigit() and first < position <= count - _LAST_DIGITS
        masked.append("*" if is_hidden else each)
    return "".join(masked)
