"""The reader's language: the user's own choice, before the login the cookie's or the browser's."""

from functools import cache

from flask import Blueprint, Flask, redirect, request, session
from flask.typing import ResponseReturnValue
from markupsafe import Markup

from portal.core import clock, i18n
from portal.services.people import users
from portal.web.core import access, context

blueprint = Blueprint("language", __name__)


def attach(app: Flask) -> None:
    app.before_request(_choose)
    app.jinja_env.add_extension("jinja2.ext.i18n")
    app.jinja_env.install_gettext_callables(i18n.gettext, i18n.ngettext, newstyle=True)  # type: ignore[attr-defined]
    app.jinja_env.globals["ngettext"] = _ngettext
    # Jinja's own wrapper costs as much as the rest of a page: it looks the sentence up, and wraps it, at each call.
    app.jinja_env.globals["_"] = _markup
    app.jinja_env.filters.update(
        ago=lambda at: i18n.relative(at, clock.now_ms()),
        clock=lambda at: i18n.clock(at, clock.now_ms(), context.config().timezone),
        exact=lambda at: i18n.date_time(at, context.config().timezone),
        iso=i18n.iso,
        credits=i18n.credits,
        money=i18n.money,
        unit_price=i18n.unit_price,
        number=i18n.decimal,
        percent=i18n.percent,
    )
    app.context_processor(lambda: {"locale": i18n.current_language(), "installation": context.config().name})


def _markup(sentence: str, **params: object) -> Markup:
    """Translate for a template; the sentence is ours, so it is markup, and what is filled in gets escaped."""
    translated = _translated(i18n.current_language(), sentence)
    return translated % params if params else translated


@cache
def _translated(language: str, sentence: str) -> Markup:
    return Markup(i18n.catalogue(language).gettext(sentence))


def _choose() -> None:
    if request.endpoint == "static":
        return
    somebody = access.somebody()
    chosen = (somebody and somebody.language) or session.get("language")
    i18n.use_language(chosen or i18n.best_language(list(request.accept_languages.values())))


def _ngettext(singular: str, plural: str, number: int, **params: object) -> Markup:
    # Jinja's own would show the bare number; here, like everywhere, it is in the reader's writing.
    translated = i18n.catalogue(i18n.current_language()).ngettext(singular, plural, number)
    return Markup(translated) % {"num": i18n.decimal(number), **params}


@blueprint.post("/language")
@access.public
def choose() -> ResponseReturnValue:
    """Switch the language; it is remembered with the user, or until the browser closes."""
    chosen = request.form.get("locale", "")
    if chosen in i18n.LANGUAGES:
        session["language"] = chosen
        if access.somebody():
            users.set_language(context.conn(), access.user(), chosen)
    return redirect(access.safe_next(request.form.get("next")), 303)
