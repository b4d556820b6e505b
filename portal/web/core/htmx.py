"""One answer for two readers: a whole page for a browser, the parts that change for htmx."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flask import make_response, redirect, render_template, request, session
from flask.typing import ResponseReturnValue
from markupsafe import Markup

from portal.services.accounts.accounts import Account
from portal.web.core import layout

# In the session: toasts that wait for the next page.
_KEPT = "toasts"


@dataclass(frozen=True)
class Toast:
    """What happened, in the past tense. `undo` is the address that a POST to takes it back, where that is possible."""

    text: str
    kind: str = "ok"
    undo: str = ""


def wanted() -> bool:
    """Whether htmx asks, and so wants parts instead of a page."""
    return "HX-Request" in request.headers


def page(template: str, *, status: int = 200, **values: Any) -> ResponseReturnValue:
    """A whole page with its frame, and the toasts that were kept over a redirect; see `drawn_page`."""
    return drawn_page(template, **values), status


def drawn_page(template: str, *, account: Account | None = None, sessions: int | None = None, **values: Any) -> str:
    """A page's text.

    Args:
        account, sessions: the account that is open, if one is; see `shell.frame`.
    """
    return render_template(template, toasts=_kept_toasts(), **(layout.frame(account, sessions) | values))


def toasts_wait() -> bool:
    """Whether the next page has something to say that no other page says."""
    return _KEPT in session


def plain_page(template: str, *, status: int = 200, **values: Any) -> ResponseReturnValue:
    """A card without the frame: login, enrolment, errors."""
    return render_template(template, toasts=_kept_toasts(), **values), status


def parts(
    target: str, *also: str, status: int = 200, toast: Toast | None = None, changed: bool = False, **values: Any
) -> ResponseReturnValue:
    """Fragments for htmx.

    Args:
        target: the template of the fragment that goes where the request's `hx-target` says; empty: none.
        also: templates of fragments that go to their own places; they are rendered with `oob=True`. Markup in the place
            of a template has been drawn already.
        toast: said in the page's live region.
        changed: the page's other parts look at once whether they still hold (see `live`), not only within two seconds.
    """
    pieces = [_drawn(target, **values)] if target else []
    pieces += [_drawn(each, oob=True, **values) for each in also]
    if toast:
        pieces.append(render_template("_toasts.html", oob=True, toasts=[toast]))
    answer = make_response("\n".join(pieces), status)
    if changed:
        answer.headers["HX-Trigger"] = "changed"
    return answer


def _drawn(part: str, **values: Any) -> str:
    return part if isinstance(part, Markup) else render_template(part, **values)


def dialog(
    part: str, account: Account, *, title: str, tab: str, status: int = 200, **values: Any
) -> ResponseReturnValue:
    """A question or a form about an account: in the open page's dialog for htmx, otherwise a page of its own."""
    if wanted():
        return parts(part, status=status, account=layout.account_view(account), **values)
    return page("dialog.html", status=status, account=account, tab=tab, title=title, part=part, **values)


def done(address: str, toast: Toast | None = None) -> ResponseReturnValue:
    """After a plain form: see the result at its address (303, so that reloading sends nothing twice)."""
    if toast:
        session[_KEPT] = [*session.get(_KEPT, []), asdict(toast)]
    return redirect(address, 303)


def moved(address: str, toast: Toast | None = None) -> ResponseReturnValue:
    """Like `done`, for both readers: htmx is told to load another page."""
    answer = done(address, toast)
    if wanted():
        return "", 204, {"HX-Redirect": address}
    return answer


def _kept_toasts() -> Sequence[Toast]:
    # Asked first: taking from a session, even in vain, sends its cookie anew.
    return [Toast(**each) for each in session.pop(_KEPT)] if _KEPT in session else []
