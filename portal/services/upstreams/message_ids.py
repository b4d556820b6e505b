"""Ids of messages as carriers give them: one in the submit_sm_resp, and the same in a receipt, often in another form.

An id is looked for by a key, in which letter case and leading zeros don't matter: carriers write zeros in front, or
leave them out, as they please. The id itself is always kept as it came.
"""

import json
import re
import sqlite3
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from portal.core.db import write_transaction
from portal.services.upstreams.settings import DEFAULTS

AUTO = "auto"
AS_IS, HEX_TO_DEC, DEC_TO_HEX = FORMS = ("as-is", "hex-to-dec", "dec-to-hex")
"""How the id of a submit_sm_resp stands in receipts; these are values of the setting `message_ids`."""

LEARNED_AFTER = 20
"""So many receipts in a row that were found by one form tell that this is the upstream's."""

_LOWER_CASE = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_DECIMAL, _HEXADECIMAL = re.compile(r"[0-9]*"), re.compile(r"[0-9a-f]*")


def build_key_sql(column: str) -> str:
    """The SQL expression of `fold_id`, by which tables have indexes."""
    return f"lower(ltrim({column}, '0'))"


UNANSWERED_SQL = f"{build_key_sql('upstream_id')} IS NULL AND upstream_id IS NOT ''"
"""Whether a row of `messages` has not been accepted by its upstream, in the terms of the index `messages_upstream`, in
which those are not to which an upstream has given no id."""


def fold_id(text: str) -> str:
    """An id as it is compared; one of zeros alone is empty."""
    return text.lstrip("0").translate(_LOWER_CASE)


def build_message_keys(receipt_id: str, forms: Iterable[str] = FORMS) -> dict[str, tuple[str, ...]]:
    """What the id of a message can be of which a receipt gives this one: its key, and in which of some forms that is
    so, in their order.
    """
    return _build_keys(receipt_id, forms, _FROM_RECEIPT)


def build_receipt_keys(upstream_id: str, forms: Iterable[str] = FORMS) -> dict[str, tuple[str, ...]]:
    """What the ids can be that receipts of a message with this one give, as in `build_message_keys`."""
    return _build_keys(upstream_id, forms, _FROM_MESSAGE)


def _to_hexadecimal(key: str) -> str | None:
    if not _DECIMAL.fullmatch(key):
        return None
    return f"{int(key):x}" if key else key


def _to_decimal(key: str) -> str | None:
    if not _HEXADECIMAL.fullmatch(key):
        return None
    return str(int(key, 16)) if key else key


_Convert = Callable[[str], str | None]
_FROM_RECEIPT: Mapping[str, _Convert] = {AS_IS: str, HEX_TO_DEC: _to_hexadecimal, DEC_TO_HEX: _to_decimal}
_FROM_MESSAGE: Mapping[str, _Convert] = {AS_IS: str, HEX_TO_DEC: _to_decimal, DEC_TO_HEX: _to_hexadecimal}


def _build_keys(given_id: str, forms: Iterable[str], converts: Mapping[str, _Convert]) -> dict[str, tuple[str, ...]]:
    keys: dict[str, tuple[str, ...]] = {}
    if not given_id:
        return keys
    given_key = fold_id(given_id)
    for form in forms:
        key = converts[form](given_key)
        if key is not None:
            keys[key] = (*keys[key], form) if key in keys else (form,)
    return keys


@dataclass(slots=True)
class IdForms:
    """The forms in which the ids of one upstream stand in receipts.

    `setting`: its `message_ids`. Where that is AUTO, `form` is the one by which the last receipts were found, `matches`
    of them in a row, LEARNED_AFTER at most.
    """

    setting: str
    form: str = ""
    matches: int = 0

    @property
    def preferred(self) -> tuple[str, ...]:
        """Those to look for at first."""
        return (self.learned,) if self.learned else self.possible

    @property
    def possible(self) -> tuple[str, ...]:
        """All that it may be, the likeliest first."""
        if self.setting != AUTO:
            return (self.setting,)
        return (self.form, *(each for each in FORMS if each != self.form)) if self.form else FORMS

    @property
    def learned(self) -> str:
        """The form that was learned; empty: none, or one is set."""
        return self.form if self.setting == AUTO and self.matches >= LEARNED_AFTER else ""

    @property
    def trusted(self) -> str:
        """The one in which an id alone tells its message; in another one the receipt has to name the number."""
        return self.learned or (self.setting if self.setting != AUTO else AS_IS)

    def record_match(self, forms: Sequence[str]) -> bool:
        """A receipt was found; in several forms at once where they make the same of an id, which tells nothing.

        Returns whether anything is known now that was not.
        """
        if self.setting != AUTO or len(forms) != 1:
            return False
        (form,) = forms
        if form == self.learned:
            return False
        self.matches = self.matches + 1 if form == self.form else 1
        self.form = form
        return True


def load_id_forms(conn: sqlite3.Connection, upstream_ids: Iterable[int]) -> dict[int, IdForms]:
    """What is set, and what was learned, of some upstreams, also of those that were removed."""
    rows = conn.execute(
        "SELECT id, coalesce(json_extract(settings, '$.message_ids'), ?), coalesce(form, ''), coalesce(matches, 0)"
        " FROM upstreams LEFT JOIN learned_ids ON upstream = id WHERE id IN (SELECT value FROM json_each(?))",
        (DEFAULTS.message_ids, json.dumps([*set(upstream_ids)])),
    )
    return {upstream_id: IdForms(*values) for upstream_id, *values in rows}


def save_id_forms(conn: sqlite3.Connection, upstream_id: int, forms: IdForms) -> None:
    """Keep what was learned."""
    with write_transaction(conn):
        conn.execute(
            "INSERT INTO learned_ids (upstream, form, matches) VALUES (?1, ?2, ?3)"
            " ON CONFLICT DO UPDATE SET form = ?2, matches = ?3",
            (upstream_id, forms.form, forms.matches),
        )
