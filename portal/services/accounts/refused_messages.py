"""Messages that the SMPP server refused: why, and how many, until that is written."""

import heapq
from collections import defaultdict
from collections.abc import Mapping

from portal.services.accounts.refusals import MAX_VALUES, OTHERS, RefusalKey, escape_unprintable

# Why a message was refused.
SENDER = "sender"
"""The value is the source address."""
DESTINATION, NATIONAL_NUMBER = "destination", "national"
"""No number that messages can be sent to; TON 2, which the account refuses. No value: it would be somebody's number."""
PRICE, ROUTE = "price", "route"
"""No price, and no route, for the number's country, which is the value."""
CODING, TEXT = "coding", "text"
"""An unsupported data_coding; a text that isn't what its data_coding says. The value is the data_coding."""
LENGTH, TIME = "length", "time"
"""Too long; schedule_delivery_time or validity_period."""
FORMAT = "format"
"""Something else of the PDU; the value is the name of the command_status."""
THROUGHPUT, WINDOW = "throughput", "window"
"""The value is the limit that was reached."""
COUNTRY, DAY_MESSAGES, DAY_CREDITS, HOUR_MESSAGES = "country", "day_messages", "day_credits", "hour_messages"
"""A brake (`brakes`); with COUNTRY the value is the country."""
STATE = "state"
"""The session may not submit; the value is RECEIVER, or ENDING where it was about to be unbound."""
SERVER = "server"
"""The server could not store it."""
RECEIVER, ENDING = "receiver", "ending"

REASONS = (
    *(SENDER, DESTINATION, NATIONAL_NUMBER, PRICE, ROUTE, CODING, TEXT, LENGTH, TIME, FORMAT, THROUGHPUT, WINDOW),
    *(COUNTRY, DAY_MESSAGES, DAY_CREDITS, HOUR_MESSAGES, STATE, SERVER),
)

_FIRST_FOLD = 4 * MAX_VALUES
_MOST_FREQUENT = MAX_VALUES // 10
# Written at a time. Of an account with ever new values a fiftieth of a second goes by.
_PART_VALUES, _PART_ACCOUNTS = 200, 10


class MessageRefusalCounts:
    """Refused messages that are not written yet. However many different values there are, it stays small."""

    def __init__(self) -> None:
        self._counts: dict[tuple[int, str, str], int] = {}
        self._fold_at = _FIRST_FOLD

    def __len__(self) -> int:
        """How many different values there are."""
        return len(self._counts)

    def add(self, account_id: int, reason: str, value: str) -> None:
        """Count one. This runs once a refused message."""
        counts, key = self._counts, (account_id, reason, value)
        counts[key] = counts.get(key, 0) + 1
        if len(counts) >= self._fold_at:
            self._fold_rare_values()

    def take(self) -> dict[RefusalKey, int]:
        """Return the counts, and begin anew. Where a reason had too many values, few are left: the others would soon
        be counted as OTHERS.
        """
        self._fold_rare_values(_MOST_FREQUENT)
        taken: dict[RefusalKey, int] = defaultdict(int)
        for (account_id, reason, value), count in self._counts.items():
            taken[RefusalKey(account_id, False, reason, escape_unprintable(value))] += count
        self._counts, self._fold_at = {}, _FIRST_FOLD
        return taken

    def put_back(self, counts: Mapping[RefusalKey, int]) -> None:
        """Count what was taken and could not be written."""
        for key, count in counts.items():
            inner = key.account_id, key.reason, key.value
            self._counts[inner] = self._counts.get(inner, 0) + count

    def _fold_rare_values(self, kept_count: int = MAX_VALUES) -> None:
        """Of each account and reason with too many values keep the most frequent ones, and count all else as OTHERS."""
        by_reason: dict[tuple[int, str], list[tuple[int, str, str]]] = defaultdict(list)
        for key in self._counts:
            by_reason[key[:2]].append(key)
        for keys in by_reason.values():
            if len(keys) < MAX_VALUES:
                continue
            frequent = set(heapq.nlargest(kept_count, keys, key=self._counts.__getitem__))
            for key in keys:
                if key not in frequent and key[2] != OTHERS:
                    account_id, reason, _ = key
                    others = account_id, reason, OTHERS
                    self._counts[others] = self._counts.get(others, 0) + self._counts.pop(key)
        # As many more before the next time: what one costs is shared by that many messages.
        self._fold_at = len(self._counts) + _FIRST_FOLD


def split_counts(counts: Mapping[RefusalKey, int]) -> list[dict[RefusalKey, int]]:
    """Counts in parts that are written in little time each. Those of an account are in one: whether some of its values
    are too rare is looked at once.
    """
    by_account: dict[int, dict[RefusalKey, int]] = defaultdict(dict)
    for key, count in counts.items():
        by_account[key.account_id][key] = count
    parts: list[dict[RefusalKey, int]] = []
    account_count = 0
    for each in by_account.values():
        if not parts or len(parts[-1]) + len(each) > _PART_VALUES or account_count == _PART_ACCOUNTS:
            parts.append({})
            account_count = 0
        parts[-1].update(each)
        account_count += 1
    return parts
