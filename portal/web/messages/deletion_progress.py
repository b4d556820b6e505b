"""How far deletions of messages are, above the lists of messages, and what became of them in words."""

from collections.abc import Hashable
from typing import Any

from portal.core import i18n
from portal.core.clock import now_ms
from portal.core.i18n import gettext as _
from portal.services.accounts.accounts import Account
from portal.services.accounts.change_counters import Pulse
from portal.services.history import deletion, retention
from portal.services.history.deletion import SENT, Deletion
from portal.web.core import context
from portal.web.core.live import Part

# What took no longer than a moment was said at once, and needs no banner.
_LONG_MS = 3_000


def said(found: Deletion) -> str:
    """What became of a deletion that has ended."""
    if found.removed:
        words = i18n.ngettext("%(num)s message was deleted.", "%(num)s messages were deleted.", found.removed)
    else:
        words = _("Nothing was deleted.")
    return " ".join([words, *stays(found.kind, found.underway, found.waiting)])


def stays(kind: str, underway: int, waiting: int) -> list[str]:
    """How many stay, and why."""
    found = []
    if underway:
        found.append(
            i18n.ngettext("%(num)s stays: it is on its way.", "%(num)s stay: they are on their way.", underway)
        )
    if waiting and kind == SENT:
        found.append(
            i18n.ngettext(
                "%(num)s stays: its delivery receipt waits for a client.",
                "%(num)s stay: their delivery receipts wait for a client.",
                waiting,
            )
        )
    elif waiting:
        found.append(
            i18n.ngettext("%(num)s stays: it waits for a client.", "%(num)s stay: they wait for a client.", waiting)
        )
    return found


def _ground(account: Account, pulse: Pulse) -> Hashable:
    return tuple(_shown(account))


def _values(account: Account, pulse: Pulse) -> dict[str, Any]:
    shown = _shown(account)
    return {
        "underway": [each for each in shown if each.ended_at is None],
        "ended": [said(each) for each in shown if each.ended_at is not None],
    }


def _shown(account: Account) -> list[Deletion]:
    found = deletion.of_account(context.conn(), account.id, now_ms())
    return [each for each in found if each.ended_at is None or each.ended_at - each.asked_at > _LONG_MS]


def months(account: Account) -> int:
    """For how many months the account's messages are kept."""
    return retention.months_of(context.conn(), account.customer_id, context.config().retention.messages_months)


PROGRESS = Part("messages/history/_deletions.html", _ground, _values)
"""For the pages of the messages: deletions that are under way, and what became of those that took a while."""
