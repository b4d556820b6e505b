"""The text of a carrier's receipt (SMPP 3.4, appendix B): its fields, and the id that it gives."""

import re
from collections.abc import Mapping

from portal.services.upstreams import mappings

MAX_ID_LENGTH = 64
_KEY = re.compile(r"(?<![^\s,;])(id|sub|dlvrd|submit[ _]?date|done[ _]?date|stat|err|text)\s*:\s*", re.IGNORECASE)
# The form that most carriers keep to; for these the fields need not be searched.
_USUAL_TEXT = re.compile(
    r"id:([^\s,;\0]+) sub:[^\s,;\0]* dlvrd:[^\s,;\0]* submit date:[^\s,;\0]* done date:([^\s,;\0]*)"
    r" stat:([^\s,;\0]*) err:([^\s,;\0]*) [Tt]ext:"
)
# Of a text in which a pattern looks for the id: a receipt of appendix B without what it quotes is shorter.
MAX_SEARCHED_LENGTH = 100


def parse_receipt_text(text: str) -> Mapping[str, str]:
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


def find_text_id(text: str, fields: Mapping[str, str], pattern: str) -> str:
    """Return the id that a receipt's text gives; empty: none.

    Args:
        fields: those of the text.
        pattern: the setting `receipt_id_pattern`.
    """
    if not pattern:
        return fields.get("id", "")[:MAX_ID_LENGTH]
    match = mappings.parse_id_pattern(pattern).search(text[:MAX_SEARCHED_LENGTH])
    return (match[1] or "").strip()[:MAX_ID_LENGTH] if match else ""
