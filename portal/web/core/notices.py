"""The notices over every page: messages reach no phone, mails or alerts nobody, or clamd is away."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from flask import url_for

from portal.core import i18n
from portal.core.i18n import N_, _
from portal.services.common import mail
from portal.services.operations import alert_webhook
from portal.services.senders import documents
from portal.services.upstreams import binds, obstacles, reasons, upstreams
from portal.services.upstreams.obstacles import Obstacle
from portal.services.upstreams.upstreams import Upstream
from portal.web.core import access, context


@dataclass(frozen=True, slots=True)
class Notice:
    """`kind`: info, or err where something has stopped. For operators what mends it: a page's address in `link`, with
    its `label`, or where no page does, a `command`.
    """

    kind: str
    text: str
    link: str = ""
    label: str = ""
    command: str = ""


_OBSTACLES = {
    obstacles.NO_UPSTREAM: N_("There is no upstream that could take them."),
    obstacles.NO_DEFAULT: N_("No upstream is the default one."),
    obstacles.DRAINING: N_("“%(upstream)s” is being drained: it takes no new ones."),
    obstacles.SERVER_STOPPED: N_("The SMPP server isn’t running."),
    obstacles.TAKES_NOTHING: N_("“%(upstream)s” takes nothing."),
    binds.DISABLED: N_("“%(upstream)s” is disabled."),
    binds.REFUSED: N_("The carrier refuses the binds of “%(upstream)s”."),
    binds.UNBOUND: N_("“%(upstream)s” is not connected."),
}
# Of so many upstreams each has a notice of its own.
_MAX_OBSTACLES = 3


@context.once_per_request
def get_notices() -> Sequence[Notice]:
    """What the page of this request says over everything else."""
    is_operator = access.get_current_user().is_operator
    listed = obstacles.list_obstacles(context.get_conn()) if is_operator else []
    other_notices = [*_describe_mails(), *_describe_webhook(), *_describe_documents()] if is_operator else []
    if listed or not obstacles.is_simulator_default(context.get_conn()):
        return (*_describe_obstacles(listed), *other_notices)
    sentence = _("Messages go to the simulator: nothing reaches a phone.")
    return Notice("info", sentence, *(_link_carrier() if is_operator else ())), *other_notices


def _describe_mails() -> Sequence[Notice]:
    """Mails that the server doesn't take, or may not have in clear text, and those that lie in `outbox/`."""
    listed = []
    count, error = mail.count_failing_mails(context.get_conn())
    if count:
        sentence = i18n.ngettext(
            "%(num)s mail couldn’t be sent and will be tried again. The error: %(error)s. See [mail] url.",
            "%(num)s mails couldn’t be sent and will be tried again. The last error: %(error)s. See [mail] url.",
            count,
            error=_shorten_mail_error(error),
        )
        listed.append(Notice("err", sentence))
    if count := mail.count_unsecured_mails(context.get_conn()):
        sentence = i18n.ngettext(
            "%(num)s mail waits: the mail server offers no STARTTLS, and mails can hold passwords. See [mail] tls.",
            "%(num)s mails wait: the mail server offers no STARTTLS, and mails can hold passwords. See [mail] tls.",
            count,
        )
        listed.append(Notice("err", sentence))
    if count := mail.count_outbox_mails(context.get_conn(), context.get_config().mail):
        sentence = i18n.ngettext(
            "%(num)s mail is in outbox/, unsent. It is sent once [mail] url is set, and deleted after 7 days.",
            "%(num)s mails are in outbox/, unsent. They are sent once [mail] url is set, and deleted after 7 days.",
            count,
        )
        listed.append(Notice("info", sentence))
    return listed


def _describe_webhook() -> Sequence[Notice]:
    """That alerts don't reach the webhook."""
    count, error = alert_webhook.count_failing_posts(context.get_conn())
    # What waits for a webhook that was taken out of the settings fails no more.
    if not count or not context.get_config().alerts.webhook_url:
        return []
    sentence = i18n.ngettext(
        "%(num)s alert couldn’t be sent to the webhook and will be tried again. The error: %(error)s."
        " See [alerts] webhook_url.",
        "%(num)s alerts couldn’t be sent to the webhook and will be tried again. The error: %(error)s."
        " See [alerts] webhook_url.",
        count,
        error=error,
    )
    return [Notice("err", sentence)]


def _shorten_mail_error(error: str) -> str:
    """What a mail server has said, or else the system, without the names that programs have for it."""
    kind, _separator, text = error.partition(": ")
    if said := re.search(r"\((\d{3}), b(['\"])(.*?)\2", text):
        text = f"{said[1]} {said[3]}"
    return re.sub(r"^\[Errno -?\d+\] ", "", text).rstrip(".") or kind


def _describe_documents() -> Sequence[Notice]:
    """That clamd doesn't answer, without which no document is taken."""
    fault = documents.get_clamd_fault(context.get_config().documents.clamd)
    if not fault:
        return []
    sentence = _(
        "clamd doesn’t answer, so senders’ documents are refused: %(error)s. See [documents] clamd.", error=fault
    )
    return [Notice("err", sentence)]


def _link_carrier() -> tuple[str, str]:
    """The page where messages are given to a carrier, and its label."""
    listed = upstreams.list_upstreams(context.get_conn())
    carrier = next((each for each in listed if each.kind == upstreams.SMPP), None)
    return _link_upstream(carrier) if carrier else _link_upstreams()


def _link_upstream(upstream: Upstream) -> tuple[str, str]:
    return url_for("upstreams.show_upstream", upstream_id=upstream.id), _("Go to %(upstream)s", upstream=upstream.name)


def _link_upstreams() -> tuple[str, str]:
    return url_for("upstreams.list_upstreams"), _("Go to the upstreams")


def _describe_obstacles(listed: Sequence[Obstacle]) -> Sequence[Notice]:
    notices = [*map(_describe_obstacle, listed[:_MAX_OBSTACLES])]
    others = listed[_MAX_OBSTACLES:]
    if others:
        waiting = _count_waiting(sum(each.waiting_count for each in others))
        names = ", ".join(each.upstream for each in others if each.upstream)
        sentence = _("They are for other upstreams: %(upstreams)s.", upstreams=names)
        notices.append(Notice("err", f"{waiting} {sentence}", *_link_upstreams()))
    return notices


def _count_waiting(count: int) -> str:
    return i18n.ngettext("%(num)s message waits.", "%(num)s messages wait.", count)


def _describe_obstacle(obstacle: Obstacle) -> Notice:
    waiting = _count_waiting(obstacle.waiting_count)
    why = _(_OBSTACLES[obstacle.reason], upstream=obstacle.upstream)
    if obstacle.error:
        why = f"{why.removesuffix('.')}: {reasons.translate_reason(obstacle.error)}."
    text = f"{waiting} {why}"
    if obstacle.reason == obstacles.SERVER_STOPPED:
        return Notice("err", text, command=context.get_config().format_command("serve"))
    listed = upstreams.list_upstreams(context.get_conn())
    upstream = next((each for each in listed if each.name == obstacle.upstream), None)
    if upstream is None:
        return Notice("err", text, *_link_upstreams())
    if reasons.is_sealed(obstacle.error):
        address = url_for("upstreams.change_upstream", upstream_id=upstream.id, _anchor="password")
        return Notice("err", text, address, _("Enter a new password"))
    return Notice("err", text, *_link_upstream(upstream))
