"""What a carrier means when it refuses a bind, and what to do about that, by the command_status (SMPP 3.4, 5.1.3)."""

from collections.abc import Callable, Mapping

from portal.core.i18n import N_, gettext
from portal.services.upstreams.settings import RULES

_TRY_LATER = N_("too many attempts in too little time: try again in some minutes")
# Names of settings stand in them as whoever reads them knows these: options of a command, or fields of a form.
_MEANINGS: Mapping[int, str] = {
    0x0E: N_("the password isn't the one that the carrier has: enter it anew"),
    0x0F: N_("the carrier doesn't know this system_id: compare %(system_id)s with its letter, capitals count"),
    0x53: N_("the carrier wants another system_type: see its letter for %(system_type)s"),
    0x0D: N_(
        "carriers say so for a wrong system_id or password, for an address that they don't know, and for a second bind"
        " where one is allowed: compare with the letter, and tell the carrier this machine's address"
    ),
    0x05: N_(
        "the carrier allows no further bind at this time: see %(binds)s, and try again while the server isn't bound"
    ),
    0x04: N_("the carrier doesn't allow this kind of bind: try the other one (%(bind)s trx, or tx+rx)"),
    0x03: N_("the carrier doesn't know this kind of bind: try %(bind)s tx+rx"),
    0x08: N_(
        "something is wrong on the carrier's side, or it has enough binds of yours: try again later, then ask the"
        " carrier"
    ),
    0x58: _TRY_LATER,
    # As some carriers have it for binds.
    0x400: _TRY_LATER,
}
_UNKNOWN = N_("ask the carrier what it means by that")


def explain_bind_refusal(status: int, name_setting: Callable[[str], str]) -> str:
    """What it usually means, and what to do, in the reader's language, as the end of a sentence.

    Args:
        name_setting: gives the name of a setting as the reader knows it.
    """
    return gettext(_MEANINGS.get(status, _UNKNOWN), **{name: name_setting(name) for name in RULES})
