"""One answer for two readers: a whole page for a browser, the parts that change for htmx."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from flask import abort, make_response, redirect, render_template, request, session
from flask.typing import ResponseReturnValue
from markupsafe import Markup

from portal.services.accounts.accounts import Account
from portal.services.common import idempotency
from portal.web.core import access, context, notices
from portal.web.core.forms import get_form_status

READING_METHODS = ("GET", "HEAD")
"""HEAD does what GET does, and OPTIONS is Flask's: neither acts or counts."""
# In the session: toasts that wait for the next page.
_TOASTS_KEY = "toasts"


@dataclass(frozen=True)
class Toast:
    """What happened, in the past tense. `undo` is the address that a POST to takes it back, where that is possible."""

    text: str
    kind: str = "ok"
    undo: str = ""


def is_htmx_request() -> bool:
    """Whether htmx asks, and so wants parts instead of a page."""
    return "HX-Request" in request.headers


def build_frame_context() -> dict[str, Any]:
    """The variables of base.html. Operators get no list at the side: theirs would hold everyone's accounts."""
    return {
        "current_user": access.get_current_user(),
        "may_change": access.may_change(),
        "notices": notices.get_notices(),
        "sidebar_accounts": access.list_own_accounts(),
    }


def render_page(template: str, *, status: int | None = None, **values: Any) -> ResponseReturnValue:
    """A whole page with its frame, and the toasts that wait since a redirect.

    Args:
        status: of HTTP; None: a refused form's, or 200.
        values: `account` among them where one is open, and as `sessions` how many it has, to be shown.
    """
    return render_plain_page(template, status=status, **(build_frame_context() | values))


def render_plain_page(template: str, *, status: int | None = None, **values: Any) -> ResponseReturnValue:
    """A card without the frame: login, enrolment, errors."""
    return render_template(template, toasts=_pop_toasts(), **values), status or get_form_status(values)


def render_fragments(
    target: str,
    *out_of_band: str,
    status: int | None = None,
    toast: Toast | None = None,
    **values: Any,
) -> ResponseReturnValue:
    """Fragments for htmx. After a POST that wasn't refused the page polls its others at once (see `live`).

    Args:
        target: the template of the fragment that goes where the request's `hx-target` says; empty: none.
        out_of_band: templates of fragments that go to their own places; they are rendered with `oob=True`. Markup in
            the place of a template is a fragment that has been rendered already.
        status: of HTTP; None: a refused form's, or 200.
        toast: shown in the page's live region.
    """
    fragments = [_render_fragment(target, **values)] if target else []
    fragments += [_render_fragment(each, oob=True, **values) for each in out_of_band]
    if toast:
        fragments.append(render_template("_toasts.html", oob=True, toasts=[toast]))
    response = make_response("\n".join(fragments), status or get_form_status(values))
    if request.method not in READING_METHODS and response.status_code == 200:
        response.headers["HX-Trigger"] = "changed"
    return response


def _render_fragment(template: str, **values: Any) -> str:
    return template if isinstance(template, Markup) else render_template(template, **values)


def render_dialog(
    part: str, account: Account | None = None, *, title: str, tab: str = "", **values: Any
) -> ResponseReturnValue:
    """A question or a form: in the open page's dialog for htmx, otherwise a page of its own.

    Args:
        account: whose it is; None: it is an operator's, about something else.
        tab: of the account's pages.
    """
    if is_htmx_request():
        return render_fragments(part, account=account, title=title, **values)
    page = "admin/dialog.html" if account is None else "dialog.html"
    return render_page(page, account=account, tab=tab, title=title, part=part, **values)


def answer_done(
    address: str, toast: Toast, template: str = "", *out_of_band: str, **values: Any
) -> ResponseReturnValue:
    """Say what was done: htmx gets the parts that have changed, a browser is led to the address that shows them.

    Args:
        template, out_of_band, values: see `render_fragments`.
    """
    if is_htmx_request():
        return render_fragments(template, *out_of_band, toast=toast, **values)
    return redirect_after_post(address, toast)


def answer_form(
    template: str,
    *out_of_band: str,
    page: str,
    address: str,
    toast: Toast | None = None,
    **values: Any,
) -> ResponseReturnValue:
    """The answer to a form that is a part of a page.

    With a toast it has done its work: see `answer_done`. Without one it is shown: htmx gets the part, and a browser the
    whole page. Where it was refused both have what was typed and the errors, and the status 422.

    Args:
        template: the part with the form, which is among the values.
        out_of_band: other parts that change with what was done.
        page: the template of the page.
        address: the page's.
        values: the page's, of which the parts need some; see `render_page`.
    """
    if not is_htmx_request():
        if toast is not None:
            return redirect_after_post(address, toast)
        return render_page(page, **values)
    return render_fragments(template, *out_of_band, toast=toast, **(build_frame_context() | values))


def redirect_after_post(address: str, toast: Toast | None = None) -> ResponseReturnValue:
    """After a plain form: see the result at its address (303, so that reloading sends nothing twice)."""
    if toast:
        waiting = session.get(_TOASTS_KEY, [])
        # What waits for the next page already isn't said twice.
        if asdict(toast) not in waiting:
            session[_TOASTS_KEY] = [*waiting, asdict(toast)]
    return redirect(address, 303)


def redirect_browser_or_htmx(address: str, toast: Toast | None = None) -> ResponseReturnValue:
    """Like `redirect_after_post`, for both readers: htmx gets the header that makes it load another page."""
    response = redirect_after_post(address, toast)
    if is_htmx_request():
        return "", 204, {"HX-Redirect": address}
    return response


@contextmanager
def once(address: str) -> Iterator[None]:
    """Run a block in a transaction that uses up the key of the form that this request sends. Where it was sent before,
    the answer leads to the address and says so, and nothing else of the view is done.
    """
    try:
        with idempotency.once(context.get_conn(), request.form.get("form", "")):
            yield
    except idempotency.FormAlreadySent as refusal:
        abort(make_response(redirect_browser_or_htmx(address, Toast(refusal.localized(), "info"))))


def _pop_toasts() -> Sequence[Toast]:
    # Looked up first: taking from a session, even in vain, sends its cookie anew.
    return [Toast(**each) for each in session.pop(_TOASTS_KEY)] if _TOASTS_KEY in session else []
