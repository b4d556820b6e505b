"""The notice over every page that messages reach no phone: they go to a simulator, or nothing takes what waits."""

from dataclasses import dataclass

from flask import g

from portal.core import i18n
from portal.core.i18n import N_
from portal.core.i18n import gettext as _
from portal.services.upstreams import binds, obstacles, upstreams
from portal.services.upstreams.obstacles import Obstacle
from portal.web.core import access, context


@dataclass(frozen=True, slots=True)
class Notice:
    """`kind`: info, or err where something has stopped. `detail`: why, as the server has it. `command`: what mends it,
    for operators."""

    kind: str
    text: str
    detail: str = ""
    command: str = ""


_SENTENCES = {
    obstacles.NO_UPSTREAM: N_("There is no upstream that could take them."),
    obstacles.NO_DEFAULT: N_("No upstream is the default one."),
    obstacles.DRAINING: N_("“%(upstream)s” is being drained: it takes no new ones."),
    obstacles.SERVER_STOPPED: N_("The SMPP server isn’t running."),
    binds.DISABLED: N_("“%(upstream)s” is disabled."),
    binds.REFUSED: N_("The carrier refuses the binds of “%(upstream)s”."),
    binds.UNBOUND: N_("“%(upstream)s” is not connected."),
}
_COMMANDS = {
    obstacles.NO_UPSTREAM: "app.py upstream add",
    obstacles.NO_DEFAULT: "app.py upstream default",
    obstacles.DRAINING: "app.py upstream enable {upstream}",
    obstacles.SERVER_STOPPED: "app.py serve",
    binds.DISABLED: "app.py upstream enable {upstream}",
    binds.REFUSED: "app.py upstream test {upstream}",
    binds.UNBOUND: "app.py upstream test {upstream}",
}


def get_notice() -> Notice | None:
    """What the page of this request says over everything else; read once a request."""
    if "notice" not in g:
        g.notice = _read_notice()
    notice: Notice | None = g.notice
    return notice


def _read_notice() -> Notice | None:
    is_operator = access.get_current_user().is_operator
    obstacle = obstacles.find_obstacle(context.get_conn()) if is_operator else None
    if obstacle is not None:
        return _describe_obstacle(obstacle)
    if not obstacles.is_simulator_default(context.get_conn()):
        return None
    sentence = _("Messages go to the simulator: nothing reaches a phone.")
    return Notice("info", sentence, command=_find_remedy() if is_operator else "")


def _find_remedy() -> str:
    """The command after which messages go to a carrier."""
    carriers = [each.name for each in upstreams.list_upstreams(context.get_conn()) if each.kind == upstreams.SMPP]
    return f"app.py upstream default {carriers[0]}" if carriers else "app.py upstream add"


def _describe_obstacle(obstacle: Obstacle) -> Notice:
    waiting = i18n.ngettext("%(num)s message waits.", "%(num)s messages wait.", obstacle.waiting_count)
    why = _(_SENTENCES[obstacle.reason], upstream=obstacle.upstream)
    command = _COMMANDS[obstacle.reason].format(upstream=obstacle.upstream)
    return Notice("err", f"{waiting} {why}", obstacle.error, command)
