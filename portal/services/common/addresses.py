"""Source addresses of messages, as they are compared: the same number may be written with a plus or 00 in front.

A message keeps its source as its client wrote it, for so the receipt names it (SMPP 3.4, 4.6.1).
"""

import re

INTERNATIONAL_NUMBER = re.compile(r"(?:\+|00)([1-9][0-9]{6,14})")
"""A number (E.164, 6: at most 15 digits) with a plus or 00 in front; the group has its digits."""
_WITH_PLUS = re.compile(r"\+([0-9]+)")


def normalize_address(address: str) -> str:
    """An address as it is compared with others: without a plus before digits, or the 00 before a country code."""
    match = INTERNATIONAL_NUMBER.fullmatch(address) or _WITH_PLUS.fullmatch(address)
    return match[1] if match else address


def list_spellings(address: str) -> list[str]:
    """Every way to write an address: all that `normalize_address` makes the same of."""
    normalized = normalize_address(address)
    return [each for each in (normalized, f"+{normalized}", f"00{normalized}") if normalize_address(each) == normalized]
