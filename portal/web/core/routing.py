"""How addresses are read and built, where it differs from Flask's own way."""

from collections.abc import Callable
from functools import cache
from typing import Any

from werkzeug.routing import IntegerConverter, Map, Rule


class RowIdConverter(IntegerConverter):
    """`<int:…>` in addresses: a longer number than SQLite keeps is nobody's id (404, not an error)."""

    regex = r"\d{1,19}"

    def __init__(self, map: Map) -> None:
        super().__init__(map, max=(1 << 63) - 1)


class LazyRule(Rule):
    """An address whose functions for `url_for` are made when they are first called.

    Werkzeug compiles two for each address when the program starts: nine tenths of the time in which the application is
    created, and most of them are never called.
    """

    def _compile_builder(self, *args: Any) -> Callable[..., tuple[str, str]]:
        compile_builder = super()._compile_builder
        get_builder = cache(lambda: compile_builder(*args))
        # The first argument is the rule: a builder is bound to it as a method is.
        return lambda rule, **values: get_builder()(rule, **values)
