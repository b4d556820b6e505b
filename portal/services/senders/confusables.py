"""Senders that recipients could take for another customer's."""

import re
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from portal.services.senders.senders import ALPHA, DISABLED, ENABLED, Sender

# How one resembles another, closest first.
IDENTICAL, LOOKALIKE, ONE_EDIT_AWAY, COMMON_PREFIX, INBOUND_NUMBER = "same", "looks", "near", "begins", "reaches"
_CLOSEST_FIRST = (IDENTICAL, INBOUND_NUMBER, LOOKALIKE, ONE_EDIT_AWAY, COMMON_PREFIX)
# Shorter ones are near each other by chance: ANA and ADA.
_MIN_EDIT_LENGTH = 5
# What a name that begins with another one has to begin with.
_MIN_PREFIX_LENGTH = 4
# Of letters only those of ASCII are allowed in senders, so that no accent and no other alphabet is among these.
_IGNORED_CHARACTERS = re.compile(r"[\s_\-.,&+]")
_CONFUSABLE_PAIRS = (("rn", "m"), ("vv", "w"))
_CONFUSABLE_CHARACTERS = str.maketrans("0158", "olsb") | {ord("i"): "l"}


@dataclass(frozen=True, slots=True)
class SimilarSender:
    """A sender that another one resembles, how (`kind`), and its owner.

    With INBOUND_NUMBER `address` is a number whose messages go to `account`.
    """

    kind: str
    address: str
    account: str
    customer: str


def compute_skeleton(address: str) -> str:
    """What confusable senders have in common: no case, gaps and punctuation, 0 as O, 1 and I as l, rn as m."""
    folded = _IGNORED_CHARACTERS.sub("", address).lower().translate(_CONFUSABLE_CHARACTERS)
    for pair, letter in _CONFUSABLE_PAIRS:
        folded = folded.replace(pair, letter)
    return folded


_SELECT_APPROVED = f"""
SELECT address, type, accounts.name AS account, customer_id, customers.name AS customer
FROM senders JOIN accounts ON accounts.id = account_id JOIN customers ON customers.id = customer_id
WHERE status IN ('{ENABLED}', '{DISABLED}') AND deleted_at IS NULL
"""
_SELECT_INBOUND_NUMBERS = """
SELECT number, accounts.name AS account, customer_id, customers.name AS customer
FROM inbound_numbers JOIN accounts ON accounts.id = account_id JOIN customers ON customers.id = customer_id
WHERE number = ?
"""


def find_similar_senders(conn: sqlite3.Connection, senders: Sequence[Sender]) -> dict[int, list[SimilarSender]]:
    """What each of some senders resembles among the approved ones of other customers, closest first.

    Args:
        senders: few; the approved ones may be many, and are read once.

    Returns:
        By the id of the sender; without those that resemble nothing.
    """
    similar: dict[int, list[SimilarSender]] = defaultdict(list)
    skeletons = [(each, compute_skeleton(each.address)) for each in senders]
    for row in conn.execute(_SELECT_APPROVED):
        approved = compute_skeleton(row["address"])
        for sender, skeleton in skeletons:
            if skeleton == approved:
                how = IDENTICAL if row["address"] == sender.address else LOOKALIKE
            else:
                # Numbers that follow one another belong together, and are often one customer's and the next one's.
                how = _compare_names(skeleton, approved) if sender.type == ALPHA == row["type"] else ""
            if how and sender.customer_id != row["customer_id"]:
                similar[sender.id].append(SimilarSender(how, row["address"], row["account"], row["customer"]))
    for sender in senders:
        for row in conn.execute(_SELECT_INBOUND_NUMBERS, (sender.address,)):
            if sender.customer_id != row["customer_id"]:
                similar[sender.id].append(SimilarSender(INBOUND_NUMBER, row["number"], row["account"], row["customer"]))
    return {
        sender_id: sorted(matches, key=lambda match: (_CLOSEST_FIRST.index(match.kind), match.address))
        for sender_id, matches in similar.items()
    }


def _compare_names(skeleton: str, approved: str) -> str:
    """How a name resembles an approved one with another skeleton; "" where it doesn't."""
    shorter, longer = sorted((len(skeleton), len(approved)))
    if _MIN_EDIT_LENGTH <= shorter >= longer - 1 and _is_one_edit_away(skeleton, approved):
        return ONE_EDIT_AWAY
    begins_alike = len(approved) >= _MIN_PREFIX_LENGTH and skeleton.startswith(approved)
    return COMMON_PREFIX if begins_alike else ""


def _is_one_edit_away(one: str, other: str) -> bool:
    """Whether one character was put in, left out or replaced, or two that stand together were exchanged."""
    if len(one) > len(other):
        one, other = other, one
    start = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))
    rest, longer = one[start:], other[start:]
    if len(one) < len(other):
        return rest == longer[1:]
    return rest[1:] == longer[1:] or (rest[2:] == longer[2:] and rest[:2] == longer[1::-1])
