"""How addresses, queries and forms are read.

The marks that nobody sees are left out of what people paste before any view reads it.
"""

from typing import Any

from flask import Flask, Request
from werkzeug.datastructures import ImmutableMultiDict, MultiDict
from werkzeug.routing import IntegerConverter, Map, UnicodeConverter

from portal.core.pasted_text import remove_invisible_marks

# Passwords are what their people chose. In texts of messages, and in searches for them, such marks have a meaning;
# `scope` holds such a search. A form's prefix may stand before each of these.
UNTOUCHED_FIELDS = frozenset(("password", "repeat", "current", "text", "scope"))


class _PastedFields(ImmutableMultiDict[str, Any]):
    """A request's query or form. It is made of uploaded files, too, which stay as they are."""

    def __init__(self, mapping: Any = None) -> None:
        super().__init__([(name, _clean_value(name, value)) for name, value in MultiDict(mapping).items(multi=True)])


def _clean_value(name: str, value: Any) -> Any:
    if not isinstance(value, str) or name.rpartition("-")[2] in UNTOUCHED_FIELDS:
        return value
    return remove_invisible_marks(value)


class _PastedRequest(Request):
    parameter_storage_class = _PastedFields


class _PastedPartConverter(UnicodeConverter):
    """A word in an address: a link that was copied from a chat may end with a mark."""

    def to_python(self, value: str) -> str:
        return remove_invisible_marks(value)


class _RowIdConverter(IntegerConverter):
    """`<int:…>` in addresses: a longer number than SQLite keeps is nobody's id (404, not an error)."""

    regex = r"\d{1,19}"

    def __init__(self, map: Map) -> None:
        super().__init__(map, max=(1 << 63) - 1)


def init_request_values(app: Flask) -> None:
    app.request_class = _PastedRequest
    app.url_map.converters["int"] = _RowIdConverter
    app.url_map.converters["default"] = app.url_map.converters["string"] = _PastedPartConverter
