"""Lists of what was refused of an account, each with the buttons of what its readers can do about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from flask import g, request, url_for

from portal.core import clock, i18n
from portal.core.i18n import N_, _
from portal.services.accounts.accounts import Account
from portal.services.accounts.refusals import OTHERS, RefusalGroup
from portal.services.messages import account_requests, refusal_remedies
from portal.services.messages.account_requests import AccountRequest
from portal.services.messages.refusal_remedies import ExplainedRefusal
from portal.web.core import access, context


@dataclass(frozen=True, slots=True)
class RemedyButton:
    """A button of `_remedies.html`: it leads to `href`, in a dialog or not; or it authorises the address in `value`.
    Without both it is no button, but says that nothing is left to do.

    `icon`: of the sprite, or empty. `about`: told to screen readers after the label.
    """

    label: str
    href: str = ""
    is_dialog: bool = False
    value: str = ""
    icon: str = ""
    about: str = ""


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """`address`: of a client that could not bind. `text`: why."""

    refused: ExplainedRefusal
    address: str
    text: str
    buttons: Sequence[RemedyButton]


@dataclass(frozen=True, slots=True)
class RefusedList:
    """What `_list.html` shows. `has_addresses`: it has binds. `more`: how many rows aren't shown; `total`: how often
    anything was refused.
    """

    has_addresses: bool
    rows: Sequence[RefusedRow]
    more: int
    total: int


# Label, address under the account's, and icon.
_LINKS: Mapping[str, tuple[str, str, str]] = {
    refusal_remedies.SESSIONS: (N_("Disconnect another one"), "/sessions", ""),
    refusal_remedies.ADD_SENDER: (N_("Ask for it"), "/senders?sender=%s", "plus"),
    refusal_remedies.SEE_SENDER: (N_("See its status"), "/senders?q=%s", ""),
    refusal_remedies.OWN_BRAKES: (N_("Change the brakes"), "/options/brakes", ""),
    refusal_remedies.ADD_CREDITS: (N_("Add credits"), "/credits", "plus"),
    refusal_remedies.BLACKLIST: (N_("Blacklist"), "/blacklist", ""),
}
# What there can be more of; anything else there is or isn't.
_AMOUNTS = ("throughput", "windowing", "binds", "day_messages", "day_credits", "hour_messages")


def build_refused_list(
    account: Account, refused: Sequence[ExplainedRefusal], limit: int, *, has_addresses: bool
) -> RefusedList:
    """The first ones as a list."""
    rows = [build_refused_row(account, each) for each in refused[:limit] if each.text]
    return RefusedList(has_addresses, rows, len(refused) - len(rows), sum(each.group.count for each in refused))


def build_refused_row(account: Account, refused: ExplainedRefusal) -> RefusedRow:
    """One line of a list."""
    return RefusedRow(
        refused, _format_address(refused.group), _describe(refused), _list_remedy_buttons(account, refused)
    )


def _format_address(group: RefusalGroup) -> str:
    if not group.is_bind:
        return ""
    return _("Other addresses") if group.value == OTHERS else group.value


def _describe(refused: ExplainedRefusal) -> str:
    if refused.replaced_at is None:
        return refused.text
    when = i18n.format_short_date_time(refused.replaced_at, clock.now_ms(), context.get_config().timezone)
    return _("The password it uses was replaced (%(when)s).", when=when)


def _list_remedy_buttons(account: Account, refused: ExplainedRefusal) -> list[RemedyButton]:
    """What the reader can do against a refusal; nothing where they may not change the account."""
    if not access.may_change():
        return []
    home, value = url_for("accounts.show_account", name=account.name), refused.group.value
    buttons = []
    if refused.remedy == refusal_remedies.AUTHORISE:
        buttons.append(RemedyButton(_("Add"), value=value, icon="plus", about=value))
    elif refused.remedy == refusal_remedies.NEW_PASSWORD:
        buttons.append(RemedyButton(_("Generate a new one"), f"{home}/password", True, icon="key", about=value))
    elif refused.remedy:
        label, path, icon = _LINKS[refused.remedy]
        path = path % quote(value, safe="") if "%s" in path else path
        about = value if "%s" in _LINKS[refused.remedy][1] else refused.text
        buttons.append(RemedyButton(_(label), home + path, icon=icon, about=about))
    if refused.ask_for and not refused.is_resolved:
        buttons.append(_build_ask_button(account, home, refused))
    return buttons


@context.once_per_request
def _list_open_requests() -> list[AccountRequest]:
    """What was asked for this request's account, and waits."""
    return account_requests.list_open_requests(context.get_conn(), g.account.id)


def _build_ask_button(account: Account, home: str, refused: ExplainedRefusal) -> RemedyButton:
    """A button to ask the operator, or to set it for an operator; once it was asked for, when that was."""
    subject, value = refused.ask_for, refused.group.value
    if access.get_current_user().is_operator:
        href = request.script_root + account_requests.find_place(account.name, subject)
        return RemedyButton(_("Set it"), href, about=refused.text)
    asked = account_requests.find_open_request(_list_open_requests(), subject, value)
    if asked is not None:
        when = i18n.format_day(asked.asked_at, context.get_config().timezone)
        return RemedyButton(_("Asked on %(when)s · waiting", when=when))
    query = f"?value={quote(value, safe='')}" if value and subject in account_requests.WITH_VALUE else ""
    label = _("Ask for more") if subject in _AMOUNTS else _("Ask for it")
    return RemedyButton(label, f"{home}/ask/{subject}{query}", True, about=refused.text)
