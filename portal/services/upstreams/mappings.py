"""Settings of upstreams that are small languages of their own: maps of codes, the pattern of an id, and TLVs.

Each is kept as its text, checked when it is entered, and read here by whoever uses it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from portal.services.common import message_states
from portal.services.common.message_states import PTT_DESCRIPTIONS, PTT_NONE, PTT_PENDING

FAILED_PTTS = tuple(code for code in PTT_DESCRIPTIONS if code not in (PTT_NONE, PTT_PENDING))
"""The codes that say why a message was not delivered."""

MAX_PATTERN_LENGTH = 100
# So that in the texts on which a pattern is tried (`deliver_sm`) the worst one takes no longer than a tenth of a
# second: each thing that is repeated multiplies the work by the length of the text, and each option doubles it.
_MAX_REPETITIONS, _MAX_UNBOUNDED, _MAX_OPTIONS = 3, 2, 3
_UNBOUNDED = re.compile(r"[*+]|\{[0-9]*,\}")
# Later versions of Python may read these in brackets otherwise than as characters, and warn of them (FutureWarning).
_AMBIGUOUS_CLASS = re.compile(r"\[\[|\[.*(?:--|&&|~~|\|\|)", re.DOTALL)
_ESCAPED_OR_CLASS = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)

_STATUS = re.compile(r"0x[0-9A-F]{1,8}|[0-9]{1,10}", re.IGNORECASE)
_MAX_STATUS = 0xFFFFFFFF
_TLV = re.compile(r"(?:0[xX])?([0-9A-Fa-f]{1,4})=((?:[0-9A-Fa-f]{2})*)")
_TAG = re.compile(r"(?:0[xX])?([0-9A-Fa-f]{1,4})")
# 0 is reserved. SMPP 3.4, 5.3.2.22 to 24 and 32: the place of a part in its text, and message_payload.
_OWN_TAGS = (0, 0x020C, 0x020E, 0x020F, 0x0424)
_ERROR_CODE = re.compile(r"[0-9A-Z._-]{1,20}", re.IGNORECASE)

_WORDS_BY_STATE: Mapping[int, Sequence[str]] = {
    message_states.ENROUTE: ("ENROU", "BUFFE", "BUFFR", "SCHED", "SUBMI"),
    message_states.ACCEPTED: ("ACCEP",),
    message_states.DELIVERED: ("DELIV",),
    message_states.EXPIRED: ("EXPIR",),
    message_states.DELETED: ("DELET", "CANCE"),
    message_states.UNDELIVERABLE: ("UNDEL", "FAILE"),
    message_states.UNKNOWN: ("UNKNO",),
    message_states.REJECTED: ("REJEC", "SKIPP"),
}
STATES_BY_WORD: Mapping[str, int] = {word: state for state, words in _WORDS_BY_STATE.items() for word in words}
"""What the words of `stat:` mean, by their first five letters: carriers spell them in their own ways, and cut them at
seven."""
_LETTERS_THAT_DECIDE = 5
ALWAYS_INTERMEDIATE = frozenset((message_states.ENROUTE, message_states.ACCEPTED))
"""States that end nothing, whatever is set."""


def find_state(word: str) -> int | None:
    """The message_state that a word of `stat:` means; None: it isn't known."""
    return STATES_BY_WORD.get(word[:_LETTERS_THAT_DECIDE].upper())


class StatusAction(StrEnum):
    """What is done about a command_status: try the message again later, slow the whole upstream down, give it up."""

    RETRY = "retry"
    THROTTLE = "throttle"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class StatusRule:
    """`ptt`: why the message has failed, in the customer's eyes; None: what the status itself says."""

    action: StatusAction
    ptt: int | None = None


class InvalidEntry(ValueError):
    """The first entry of a text that can't be read."""

    def __init__(self, entry: str) -> None:
        super().__init__(entry)
        self.entry = entry


@lru_cache(maxsize=100)
def parse_status_map(text: str) -> Mapping[int, StatusRule]:
    """Read a `status_map` (`0x58=throttle, 69=fail:100`): what is done, by command_status.

    Raises:
        InvalidEntry: also for a status that comes twice, and for 0, which refuses nothing.
    """
    rules: dict[int, StatusRule] = {}
    for entry, name, value in _split_entries(text):
        word, has_ptt, ptt = value.lower().partition(":")
        status = int(name, 16 if name[:2].lower() == "0x" else 10) if _STATUS.fullmatch(name) else 0
        is_new = 0 < status <= _MAX_STATUS and status not in rules
        if not is_new or word not in ([StatusAction.FAIL] if has_ptt else [*StatusAction]):
            raise InvalidEntry(entry)
        rules[status] = StatusRule(StatusAction(word), _parse_ptt(entry, ptt.strip()) if has_ptt else None)
    return rules


@lru_cache(maxsize=100)
def parse_error_map(text: str) -> Mapping[str, int]:
    """Read an `error_map` (`27=6, 1F=100`): the ptt, by the error code as `fold_error_code` makes it.

    Raises:
        InvalidEntry: also for a code that comes twice.
    """
    ptts: dict[str, int] = {}
    for entry, name, value in _split_entries(text):
        code = fold_error_code(name)
        if not _ERROR_CODE.fullmatch(name) or code in ptts:
            raise InvalidEntry(entry)
        ptts[code] = _parse_ptt(entry, value)
    return ptts


def fold_error_code(code: str) -> str:
    """An error code as it is compared: capitals, without the zeros in front of it."""
    return code.upper().lstrip("0")


@lru_cache(maxsize=100)
def parse_intermediate_states(text: str) -> frozenset[int]:
    """Read `intermediate_states` (`UNKNOWN, UNDELIV`): the states that end nothing, `ALWAYS_INTERMEDIATE` among them.

    Raises:
        InvalidEntry: a word that no receipt has, or DELIVRD, behind which nothing more can come.
    """
    states = set(ALWAYS_INTERMEDIATE)
    for entry in filter(None, map(str.strip, text.split(","))):
        state = find_state(entry)
        if state is None or state == message_states.DELIVERED:
            raise InvalidEntry(entry)
        states.add(state)
    return frozenset(states)


@lru_cache(maxsize=100)
def parse_id_pattern(text: str) -> re.Pattern[str]:
    """Compile a pattern whose one group is the id in the text of a receipt.

    A carrier decides about the text, so it must not be able to have the search take long: nothing is repeated that has
    repetitions in it, and no more than three things are, two of them without a limit; options go with one at most.

    Raises:
        InvalidEntry
    """
    if any(map(_AMBIGUOUS_CLASS.match, _ESCAPED_OR_CLASS.findall(text))):
        raise InvalidEntry(text)
    bare = _ESCAPED_OR_CLASS.sub("x", text)
    repetitions = sum(map(bare.count, "*+{"))
    try:
        pattern = re.compile(text[: MAX_PATTERN_LENGTH + 1])
    except (re.error, OverflowError, RecursionError):
        raise InvalidEntry(text) from None
    if (
        len(text) > MAX_PATTERN_LENGTH
        or pattern.groups != 1
        or "(?" in bare
        or re.search(r"\)[*+?{]", bare)
        or re.search(r"\\[1-9]", text)
        or repetitions > _MAX_REPETITIONS
        or len(_UNBOUNDED.findall(bare)) > _MAX_UNBOUNDED
        or bare.count("?") > (_MAX_OPTIONS if repetitions < 2 else 0)
    ):
        raise InvalidEntry(text)
    return pattern


# Each message asks for those of its upstream.
@lru_cache(maxsize=100)
def parse_tlvs(text: str) -> Mapping[int, bytes]:
    """Read `tlvs` (`0x1400=0A0B 0x1401=01`): the values by their tags (SMPP 3.4, 3.2.4.1).

    Raises:
        InvalidEntry: also for a tag that comes twice, and for those that the portal sets itself.
    """
    return {tag: bytes.fromhex(match[2]) for tag, match in _match_tags(text, _TLV).items()}


@lru_cache(maxsize=100)
def parse_tags(text: str) -> frozenset[int]:
    """Read `pass_tlvs` (`0x1400 0x1401`): the tags.

    Raises:
        InvalidEntry: as `parse_tlvs`.
    """
    return frozenset(_match_tags(text, _TAG))


def _match_tags(text: str, pattern: re.Pattern[str]) -> dict[int, re.Match[str]]:
    """Match the entries of a text, by their tags, which are the pattern's first group."""
    matches: dict[int, re.Match[str]] = {}
    for entry in text.replace(",", " ").split():
        match = pattern.fullmatch(entry)
        if match is None or (tag := int(match[1], 16)) in matches or tag in _OWN_TAGS:
            raise InvalidEntry(entry)
        matches[tag] = match
    return matches


def _split_entries(text: str) -> Iterator[tuple[str, str, str]]:
    """The entries of a map, each whole, and what stands on either side of its equals sign."""
    for entry in filter(None, map(str.strip, text.split(","))):
        name, _, value = entry.partition("=")
        yield entry, name.strip(), value.strip()


def _parse_ptt(entry: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9) or int(text) not in FAILED_PTTS:
        raise InvalidEntry(entry)
    return int(text)
