"""Fragments of pages that are drawn once, and shown again as long as what they show is the same."""

import threading
from collections.abc import Callable, Hashable

from flask import Flask
from jinja2 import pass_context
from jinja2.runtime import Context
from markupsafe import Markup

from portal.core.i18n import current_language


class Drawings:
    """Keeps what was drawn under a key that holds all that the drawing depends on.

    So nothing ever has to be forgotten; what comes up no more makes room.

    Args:
        most: how many are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: dict[Hashable, Markup] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, draw: Callable[[], str]) -> Markup:
        """The drawing of this key, made by `draw` if it isn't there."""
        kept = self._kept.get(key)
        if kept is None:
            kept = Markup(draw())
            with self._lock:
                while len(self._kept) >= self._most:
                    del self._kept[next(iter(self._kept))]
                self._kept[key] = kept
        return kept


def attach(app: Flask, drawings: Drawings) -> None:
    """Give templates `{{ kept("_bar.html", current_user) }}`, which includes a template.

    That template shows nothing but what follows its name, in the reader's language.
    """

    @pass_context
    def kept(page: Context, template: str, *depends: Hashable) -> Markup:
        def draw() -> str:
            return page.environment.get_template(template).render(page.get_all())

        return drawings.get((template, current_language(), depends), draw)

    app.jinja_env.globals["kept"] = kept
