"""What the frame of every page shows, and how accounts are put into words for it."""

from dataclasses import dataclass
from typing import Any

from flask import request

from portal.core import i18n
from portal.core.i18n import N_
from portal.core.i18n import gettext as _
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.web.core import access

_LABELS = {
    accounts.SUCCESS: N_("OK"),
    accounts.WAITING_IP: N_("Waiting for your IPs"),
    accounts.UPDATING_IP: N_("Updating"),
    accounts.ERROR: N_("Disabled"),
    accounts.DELETED: N_("Deleted"),
}


@dataclass(frozen=True)
class Status:
    """An account's state: its code, and the words for it."""

    code: str
    label: str


@dataclass(frozen=True)
class AccountView:
    """An account in the reader's words and numbers. `path` is the address of its home; its other pages lie under it.
    `texts` is what becomes of the customer's (`services/messages/text_policy.py`)."""

    path: str
    name: str
    kind: str
    description: str
    status: Status
    balance: str
    texts: str
    sessions: int | None = None


def status(account: Account) -> Status:
    return Status(account.status, _(_LABELS[account.status]))


def account_view(account: Account, sessions: int | None = None) -> AccountView:
    return AccountView(
        f"{request.script_root}/accounts/{account.name}",
        account.name,
        account.kind,
        account.description,
        status(account),
        i18n.credits(account.balance),
        account.texts,
        sessions,
    )


def frame(account: Account | None, sessions: int | None = None) -> dict[str, Any]:
    """The variables of base.html, and of account.html when an account is open.

    Operators get no list at the side: theirs would hold everyone's accounts.

    Args:
        sessions: how many the account has open; None: not told.
    """
    values: dict[str, Any] = {
        "current_user": access.user(),
        "may_change": access.may_change(),
        "sidebar_accounts": tuple(account_view(each) for each in access.own_accounts()),
    }
    if account is not None:
        values["account"] = account_view(account, sessions)
    return values
