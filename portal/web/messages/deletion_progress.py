"""The progress of deletions of messages, above the lists of messages, and their results in words."""

from typing import Any

from portal.core import i18n
from portal.core.clock import now_ms
from portal.core.i18n import _
from portal.services.accounts.accounts import Account
from portal.services.history import deletion, retention
from portal.services.history.deletion import SENT, Deletion
from portal.web.core import context, live


def describe_deletion_result(job: Deletion) -> str:
    """The result of a deletion that has ended, in words."""
    if job.removed:
        summary = i18n.ngettext("%(num)s message was deleted.", "%(num)s messages were deleted.", job.removed)
    else:
        summary = _("Nothing was deleted.")
    return " ".join([summary, *describe_undeleted_messages(job.kind, job.underway, job.waiting)])


def describe_undeleted_messages(kind: str, underway: int, waiting: int) -> list[str]:
    """How many messages were not deleted, and why, in words."""
    sentences = []
    if underway:
        sentences.append(
            i18n.ngettext("%(num)s stays: it is on its way.", "%(num)s stay: they are on their way.", underway)
        )
    if waiting and kind == SENT:
        sentences.append(
            i18n.ngettext(
                "%(num)s stays: its delivery receipt waits for a client.",
                "%(num)s stay: their delivery receipts wait for a client.",
                waiting,
            )
        )
    elif waiting:
        sentences.append(
            i18n.ngettext("%(num)s stays: it waits for a client.", "%(num)s stay: they wait for a client.", waiting)
        )
    return sentences


def _progress_context(account: Account) -> dict[str, Any]:
    jobs = _list_shown_deletions(account)
    return {
        "underway": [each for each in jobs if each.ended_at is None],
        "ended": [describe_deletion_result(each) for each in jobs if each.ended_at is not None],
    }


def _list_shown_deletions(account: Account) -> tuple[Deletion, ...]:
    jobs = deletion.list_recent_deletions(context.get_conn(), account.id, now_ms())
    untold_ms = context.get_limits().untold_deletion_ms
    return tuple(each for each in jobs if each.ended_at is None or each.ended_at - each.asked_at > untold_ms)


def get_retention_months(account: Account) -> int:
    """For how many months the account's messages are stored."""
    default = context.get_config().retention.messages_months
    return retention.get_retention_months(context.get_conn(), account.customer_id, default)


DELETION_PROGRESS_PART = live.LiveFragment("messages/history/_deletions.html", _progress_context, _list_shown_deletions)
"""For the lists of messages: deletions under way, and the results of those that took a while."""
