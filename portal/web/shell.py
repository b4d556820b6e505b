"""What the frame of every page shows, and how accounts are put into words for it."""

from dataclasses import dataclass
from typing import Any

from portal import i18n
from portal.i18n import gettext as _
from portal.services import accounts, connections
from portal.services.accounts import Account
from portal.web import access, context


@dataclass(frozen=True)
class Status:
    """An account's state: its code, and the words for it."""

    code: str
    label: str


@dataclass(frozen=True)
class AccountView:
    """An account in the reader's words and numbers."""

    name: str
    kind: str
    description: str
    status: Status
    balance: str
    sessions: int | None = None


def status(account: Account) -> Status:
    labels = {
        accounts.SUCCESS: _("OK"),
        accounts.WAITING_IP: _("Waiting for your IPs"),
        accounts.UPDATING_IP: _("Updating"),
        accounts.ERROR: _("Disabled"),
        accounts.DELETED: _("Deleted"),
    }
    return Status(account.status, labels[account.status])


def account_view(account: Account, sessions: int | None = None) -> AccountView:
    return AccountView(
        account.name, account.kind, account.description, status(account), i18n.credits(account.balance), sessions
    )


def frame(account: Account | None) -> dict[str, Any]:
    """The variables of base.html, and of account.html when an account is open.

    Operators get no list at the side: theirs would hold everyone's accounts.
    """
    user = access.user()
    conn = context.conn()
    own = accounts.of_customer(conn, user.customer_id) if user.customer_id is not None else []
    values: dict[str, Any] = {"current_user": user, "sidebar_accounts": [account_view(each) for each in own]}
    if account is not None:
        values["account"] = account_view(account, len(connections.of_account(conn, account.id)))
    return values
