"""The reader's language: the user's own choice, before the login the cookie's or the browser's."""

from functools import cache

from flask import Blueprint, Flask, redirect, request, session
from flask.typing import ResponseReturnValue
from markupsafe import Markup

from portal.core import clock, i18n
from portal.services.accounts import accounts
from portal.services.people import users
from portal.web.core import access, context

blueprint = Blueprint("language", __name__)


def init_language(app: Flask) -> None:
    app.before_request(_select_language)
    # Jinja's own wrappers cost as much as the rest of a page: they look a sentence up, and wrap it, at each call.
    app.jinja_env.globals.update(_=_gettext, ngettext=_ngettext)
    app.jinja_env.filters.update(
        ago=lambda at: i18n.format_relative_time(at, clock.now_ms()),
        clock=lambda at: i18n.format_short_date_time(at, clock.now_ms(), context.get_config().timezone),
        exact=lambda at: i18n.format_date_time(at, context.get_config().timezone),
        iso=i18n.format_iso8601,
        credits=i18n.format_credits,
        money=i18n.format_money,
        unit_price=i18n.format_unit_price,
        number=i18n.format_number,
        percent=i18n.format_percent,
        path=lambda account: f"{request.script_root}/accounts/{account.name}",
        status_label=lambda status: i18n.gettext(accounts.STATUS_LABELS[status]),
    )
    app.context_processor(lambda: {"locale": i18n.current_language(), "installation": context.get_config().name})


def _gettext(sentence: str, **params: object) -> Markup:
    """Translate for a template; the sentence is ours, so it is markup, and what is filled in gets escaped."""
    translated = _translate_to_markup(i18n.current_language(), sentence)
    return translated % params if params else translated


@cache
def _translate_to_markup(language: str, sentence: str) -> Markup:
    return Markup(i18n.load_catalogue(language).gettext(sentence))


def _select_language() -> None:
    if request.endpoint == "static_files.serve_static_file":
        return
    user_or_none = access.find_current_user()
    selected = (user_or_none and user_or_none.language) or session.get("language")
    i18n.use_language(selected or i18n.best_language(list(request.accept_languages.values())))


def _ngettext(singular: str, plural: str, number: int, **params: object) -> Markup:
    # Jinja's own would show the bare number; here, like everywhere, it is in the reader's writing.
    translated = i18n.load_catalogue(i18n.current_language()).ngettext(singular, plural, number)
    return Markup(translated) % {"num": i18n.format_number(number), **params}


@blueprint.post("/language")
@access.public_view
def choose_language() -> ResponseReturnValue:
    """Switch the language; it is remembered with the user, or until the browser closes."""
    selected = request.form.get("locale", "")
    if selected in i18n.LANGUAGES:
        session["language"] = selected
        if access.find_current_user():
            users.set_user_language(context.get_conn(), access.get_current_user(), selected)
    return redirect(access.get_safe_redirect_path(request.form.get("next")), 303)
