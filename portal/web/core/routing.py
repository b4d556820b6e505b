"""How addresses are read, where it differs from Flask's own way."""

from werkzeug.routing import IntegerConverter, Map


class RowIdConverter(IntegerConverter):
    """`<int:…>` in addresses: a longer number than SQLite keeps is nobody's id (404, not an error)."""

    regex = r"\d{1,19}"

    def __init__(self, map: Map) -> None:
        super().__init__(map, max=(1 << 63) - 1)
