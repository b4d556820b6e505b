"""Senders that recipients could take for another customer's."""

import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from portal.services.senders.senders import ALPHA, DISABLED, ENABLED, Sender

# How one resembles another, closest first.
SAME, LOOKS, NEAR, BEGINS, REACHES = "same", "looks", "near", "begins", "reaches"
_ORDER = (SAME, REACHES, LOOKS, NEAR, BEGINS)
# Shorter ones are near each other by chance: ANA and ADA.
_NEAR_FROM = 5
# What a name that begins with another one has to begin with.
_BEGINS_FROM = 4
# Of letters only those of ASCII are allowed in senders, so that no accent and no other alphabet is among these.
_GAPS = re.compile(r"[\s_\-.,&+]")
_PAIRS = (("rn", "m"), ("vv", "w"))
_SINGLES = str.maketrans("0158", "olsb") | {ord("i"): "l"}


@dataclass(frozen=True, slots=True)
class Resemblance:
    """What is resembled and how, and whose it is. With REACHES `address` is a number whose messages go to `account`."""

    how: str
    address: str
    account: str
    customer: str


def skeleton(address: str) -> str:
    """What a sender looks like at a glance: without case, gaps and punctuation, 0 as O, 1 and I as l, rn as m."""
    plain = _GAPS.sub("", address).lower().translate(_SINGLES)
    for pair, letter in _PAIRS:
        plain = plain.replace(pair, letter)
    return plain


_APPROVED = f"""
SELECT address, type, accounts.name AS account, customer_id, customers.name AS customer
FROM senders JOIN accounts ON accounts.id = account_id JOIN customers ON customers.id = customer_id
WHERE status IN ('{ENABLED}', '{DISABLED}') AND deleted_at IS NULL
"""
_REACHING = """
SELECT number, accounts.name AS account, customer_id, customers.name AS customer
FROM routes JOIN accounts ON accounts.id = account_id JOIN customers ON customers.id = customer_id WHERE number = ?
"""


def of(conn: sqlite3.Connection, asked: Sequence[Sender]) -> dict[int, list[Resemblance]]:
    """What each of some senders resembles among the approved ones of other customers, closest first.

    Args:
        asked: few; the approved ones may be many, and are read once.

    Returns:
        By the id of the sender; without those that resemble nothing.
    """
    owners = dict(conn.execute("SELECT id, customer_id FROM accounts").fetchall())
    found: dict[int, list[Resemblance]] = defaultdict(list)
    candidates = _Candidates(asked)
    for row in conn.execute(_APPROVED):
        for sender, how in candidates.resembling(row["address"], row["type"]):
            if owners[sender.account_id] != row["customer_id"]:
                found[sender.id].append(Resemblance(how, row["address"], row["account"], row["customer"]))
    for sender in asked:
        for row in conn.execute(_REACHING, (sender.address,)):
            if owners[sender.account_id] != row["customer_id"]:
                found[sender.id].append(Resemblance(REACHES, row["number"], row["account"], row["customer"]))
    return {key: sorted(each, key=lambda one: (_ORDER.index(one.how), one.address)) for key, each in found.items()}


class _Candidates:
    """Those that are asked for, so that each approved one is compared with the few that it may resemble."""

    def __init__(self, asked: Sequence[Sender]) -> None:
        self._alike: dict[str, list[Sender]] = defaultdict(list)
        self._shortened: dict[str, list[tuple[Sender, str]]] = defaultdict(list)
        self._beginnings: dict[str, list[Sender]] = defaultdict(list)
        for sender in asked:
            seen = skeleton(sender.address)
            self._alike[seen].append(sender)
            if sender.type == ALPHA:
                for length in range(_BEGINS_FROM, len(seen)):
                    self._beginnings[seen[:length]].append(sender)
                for each in _shortened(seen):
                    self._shortened[each].append((sender, seen))

    def resembling(self, address: str, kind: str) -> Iterator[tuple[Sender, str]]:
        """Those that resemble an approved one, each once, and how."""
        seen = skeleton(address)
        told = set()
        for sender in self._alike.get(seen, ()):
            told.add(sender.id)
            yield sender, SAME if sender.address == address else LOOKS
        # Numbers that follow one another belong together, and are often one customer's and the next one's.
        if kind != ALPHA:
            return
        for each in _shortened(seen):
            for sender, other in self._shortened.get(each, ()):
                if sender.id not in told and _is_near(seen, other):
                    told.add(sender.id)
                    yield sender, NEAR
        for sender in self._beginnings.get(seen, ()):
            if sender.id not in told:
                yield sender, BEGINS


def _shortened(text: str) -> set[str]:
    """The text, and what is left of it without one of its characters: what two texts share that are near each other."""
    if len(text) < _NEAR_FROM:
        return set()
    return {text, *(text[:at] + text[at + 1 :] for at in range(len(text)))}


def _is_near(one: str, other: str) -> bool:
    """Whether one character was put in, left out or replaced, or two that stand together were exchanged."""
    if len(one) > len(other):
        one, other = other, one
    start = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))
    rest, longer = one[start:], other[start:]
    if len(one) < len(other):
        return rest == longer[1:]
    return rest[1:] == longer[1:] or (rest[2:] == longer[2:] and rest[:2] == longer[1::-1])
