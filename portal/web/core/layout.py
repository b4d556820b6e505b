"""What the frame of every page shows, and how accounts are put into words for it."""

from dataclasses import dataclass
from typing import Any

from flask import request

from portal.core import i18n
from portal.core.i18n import _
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.web.core import access, notices


@dataclass(frozen=True)
class AccountView:
    """An account in the reader's words and numbers. `path` is the address of its home; its other pages lie under it.
    `status` has its `code`, and as `label` the words for it.
    `texts` is what becomes of the customer's (`services/messages/text_policy.py`)."""

    path: str
    name: str
    kind: str
    description: str
    status: dict[str, str]
    balance: str
    texts: str
    sessions: int | None = None


def build_account_view(account: Account, sessions: int | None = None) -> AccountView:
    return AccountView(
        f"{request.script_root}/accounts/{account.name}",
        account.name,
        account.kind,
        account.description,
        {"code": account.status, "label": _(accounts.STATUS_LABELS[account.status])},
        i18n.format_credits(account.balance),
        account.texts,
        sessions,
    )


def build_layout_context(account: Account | None, sessions: int | None = None) -> dict[str, Any]:
    """The variables of base.html, and of account.html when an account is open.

    Operators get no list at the side: theirs would hold everyone's accounts.

    Args:
        sessions: how many the account has open; None: not shown.
    """
    values: dict[str, Any] = {
        "current_user": access.get_current_user(),
        "may_change": access.may_change(),
        "notices": notices.get_notices(),
        "sidebar_accounts": tuple(build_account_view(each) for each in access.list_own_accounts()),
    }
    if account is not None:
        values["account"] = build_account_view(account, sessions)
    return values
