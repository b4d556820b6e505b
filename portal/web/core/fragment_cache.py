"""Fragments of pages that are rendered once, and used again as long as what they show is the same."""

import threading
from collections.abc import Callable, Hashable

from flask import Flask
from jinja2 import pass_context
from jinja2.runtime import Context
from markupsafe import Markup

from portal.core.i18n import current_language


class FragmentCache:
    """Keeps what was rendered, under a key that holds all that it depends on.

    So nothing ever has to be invalidated; the oldest makes room for the new.

    Args:
        max_entries: how many fragments it holds.
    """

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self._fragments: dict[Hashable, Markup] = {}
        self._lock = threading.Lock()

    def get_or_render(self, key: Hashable, render: Callable[[], str]) -> Markup:
        """The fragment of this key, made by `render` if it isn't there."""
        fragment = self._fragments.get(key)
        if fragment is None:
            fragment = Markup(render())
            with self._lock:
                while len(self._fragments) >= self._max_entries:
                    del self._fragments[next(iter(self._fragments))]
                self._fragments[key] = fragment
        return fragment


def init_fragment_cache(app: Flask, get_cache: Callable[[], FragmentCache]) -> None:
    """Give templates `{{ include_cached("_bar.html", current_user) }}`, which includes a template.

    That template shows nothing but what follows its name, in the reader's language.
    """

    @pass_context
    def include_cached(template_context: Context, template: str, *key_parts: Hashable) -> Markup:
        def render() -> str:
            return template_context.environment.get_template(template).render(template_context.get_all())

        return get_cache().get_or_render((template, current_language(), key_parts), render)

    app.jinja_env.globals["include_cached"] = include_cached
