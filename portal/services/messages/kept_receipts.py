"""Receipts that matched nothing when they came: which setting would find their messages, and finding these by it."""

import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from portal.core.clock import DAY_MS, now_ms
from portal.core.db import write_transaction
from portal.core.i18n import N_, gettext, ngettext
from portal.services.messages import receipt_matching, sending
from portal.services.messages.deliveries import DeliveryReceipt
from portal.services.messages.receipt_matching import IdSearch, UpstreamReceipt
from portal.services.upstreams import message_ids, upstreams
from portal.services.upstreams.message_ids import AS_IS, DEC_TO_HEX, FORMS, HEX_TO_DEC
from portal.services.upstreams.receipt_texts import MAX_SEARCHED_LENGTH
from portal.services.upstreams.settings import UpstreamSettings
from portal.services.upstreams.upstreams import SMPP, Upstream

# So many of the latest receipts of an upstream are looked at, of so many days: messages are valid three days mostly.
_LOOKED_AT, _LOOKED_AT_MS = 200, 4 * DAY_MS
# A setting is likely by which so many match, and a fifth of those that were looked at; and twice as many as by another
# form of ids, where many match by chance.
_MIN_MATCHES, _MIN_SHARE, _MIN_LEAD = 3, 0.2, 2
# So many are looked for in a transaction.
_RETRIED = 100
_MAX_PATTERNS = 3
# A word of a receipt's text, as `ref=4711`, that may be an id; but for those of appendix B.
_LABELLED_WORD = re.compile(
    r"(?<![A-Za-z0-9])([A-Za-z][A-Za-z0-9_]{0,19})( ?[:=#] ?)([0-9A-Za-z-]{3,64})(?![0-9A-Za-z-])"
)
_KNOWN_LABELS = frozenset("id sub dlvrd date stat err text".split())
_FORM_WORDS: Mapping[str, str] = {
    AS_IS: N_("as they stand in submit_sm_resp"),
    HEX_TO_DEC: N_("when those of submit_sm_resp are read as hexadecimal, and those of receipts as decimal"),
    DEC_TO_HEX: N_("when those of submit_sm_resp are read as decimal, and those of receipts as hexadecimal"),
}


@dataclass(frozen=True, slots=True)
class ReceiptHint:
    """A setting by which kept receipts of an upstream would find their messages.

    `count`: how many ids match then; `total`: how many receipts were looked at. `changes`: what is to be set, by the
    settings' names.
    """

    upstream: Upstream
    count: int
    total: int
    changes: Mapping[str, str]

    def describe(self) -> str:
        """What matches and when, in the reader's language, without a full stop."""
        words = []
        if "receipt_id_pattern" in self.changes:
            pattern = self.changes["receipt_id_pattern"]
            label = re.sub(r"\\(.)", r"\1", pattern.partition("(")[0]) or "id:"
            words.append(gettext("when the id is what follows “%(label)s” in the receipt's text", label=label))
        elif "receipt_id_from" in self.changes:
            words.append(gettext("when the id is looked for in the receipt's text, too"))
        form = self.changes.get("message_ids")
        if form is not None:
            words.append(gettext(_FORM_WORDS[form]))
        count = ngettext("%(num)s id matches", "%(num)s ids match", self.count)
        return f"{count} {', '.join(words)}"


def find_hints(conn: sqlite3.Connection, upstream_id: int | None = None) -> list[ReceiptHint]:
    """What is likely for each upstream, or for one, of which receipts are kept that match nothing."""
    rows = conn.execute("SELECT id FROM upstreams WHERE removed_at IS NULL AND kind = ? ORDER BY name", (SMPP,))
    hints = (
        _find_hint(conn, upstreams.get_upstream_by_id(conn, found_id))
        for (found_id,) in rows.fetchall()
        if upstream_id in (None, found_id)
    )
    return [each for each in hints if each is not None]


def _find_hint(conn: sqlite3.Connection, upstream: Upstream) -> ReceiptHint | None:
    since = now_ms() - _LOOKED_AT_MS
    kept = [each for _, each in receipt_matching.list_kept_receipts(conn, upstream.id, _LOOKED_AT, since=since)]
    if len(kept) < _MIN_MATCHES:
        return None
    forms = message_ids.load_id_forms(conn, [upstream.id])[upstream.id]
    searches = [IdSearch(forms.possible, forms.trusted), *(IdSearch([each], each) for each in FORMS)]
    least = max(_MIN_MATCHES, len(kept) * _MIN_SHARE)
    best: ReceiptHint | None = None
    for changes in _list_places(upstream.settings, kept):
        settings = replace(upstream.settings, **changes)
        given = [replace(each, message_ids=receipt_matching.read_ids(each, settings)) for each in kept]
        count, *form_counts = receipt_matching.count_matches(conn, upstream.id, given, searches)
        if not changes:
            # So many match as it is: their messages were accepted too long after them.
            least = max(least, count + 1)
        *others, (form_count, form) = sorted(zip(form_counts, FORMS, strict=True))
        found = changes
        if form_count > count and form_count >= _MIN_LEAD * others[-1][0] and form != upstream.settings.message_ids:
            count, found = form_count, {**changes, "message_ids": form}
        if count >= least and (best is None or count > best.count):
            best = ReceiptHint(upstream, count, len(kept), found)
    return best


def _list_places(settings: UpstreamSettings, receipts: Sequence[UpstreamReceipt]) -> Iterator[dict[str, Any]]:
    """Where else than now the ids may be, as changes of settings; first where they are looked for now."""
    yield {}
    in_text = {"receipt_id_from": "both"} if settings.receipt_id_from == "tlv" else {}
    if in_text or settings.receipt_id_pattern:
        yield {**in_text, **({"receipt_id_pattern": ""} if settings.receipt_id_pattern else {})}
    counts: dict[str, int] = defaultdict(int)
    for each in receipts:
        for label, sign, _ in set(_LABELLED_WORD.findall(each.text[:MAX_SEARCHED_LENGTH])):
            if label.lower() not in _KNOWN_LABELS:
                counts[re.escape(label + sign) + "([0-9A-Za-z-]+)"] += 1
    for pattern in sorted(counts, key=lambda each: -counts[each])[:_MAX_PATTERNS]:
        if counts[pattern] >= _MIN_MATCHES and pattern != settings.receipt_id_pattern:
            yield {**in_text, "receipt_id_pattern": pattern}


# --- done by the SMPP server


def list_upstreams_to_retry(conn: sqlite3.Connection) -> list[int]:
    """The ids of the upstreams for which `retry_receipts` has something to do. Cheap."""
    return [each for (each,) in conn.execute("SELECT upstream FROM receipt_retries ORDER BY upstream")]


def retry_receipts(conn: sqlite3.Connection, upstream_id: int) -> Sequence[DeliveryReceipt]:
    """Look again for the messages of some kept receipts of an upstream, where another setting says now by which ids
    these are found (`unclaimed.request_receipt_retry`); those that find theirs are kept no more.

    Returns the receipts that were queued. Each call is a short transaction, and what it has done is on disk with it.
    """
    with write_transaction(conn):
        row = conn.execute("SELECT before_id FROM receipt_retries WHERE upstream = ?", (upstream_id,)).fetchone()
        if row is None:
            return []
        (before_id,) = row
        settings = upstreams.get_stored_settings(conn, upstream_id)
        kept = receipt_matching.list_kept_receipts(conn, upstream_id, _RETRIED, before_id=before_id)
        for _, receipt in kept:
            receipt.message_ids = receipt_matching.read_ids(receipt, settings)
            # So it isn't kept twice.
            receipt.is_repeated = True
        result = sending.store_upstream_receipts(conn, [each for _, each in kept], now_ms(), are_kept=True)
        matched_ids = [kept_id for (kept_id, _), matched in zip(kept, result.matched, strict=True) if matched]
        conn.execute("DELETE FROM unmatched_receipts WHERE id IN (SELECT value FROM json_each(?))", (str(matched_ids),))
        if len(kept) == _RETRIED:
            conn.execute("UPDATE receipt_retries SET before_id = ? WHERE upstream = ?", (kept[-1][0], upstream_id))
        else:
            conn.execute("DELETE FROM receipt_retries WHERE upstream = ?", (upstream_id,))
        return result.receipts
