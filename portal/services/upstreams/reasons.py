"""Why a bind isn't bound, or an upstream fails, in the reader's language: the SMPP server has it in English."""

import re

from portal.core.i18n import N_, gettext
from portal.core.tls_client import TlsFault
from portal.services.upstreams.load import TOO_MANY

# `upstreams.UpstreamPasswordUnreadable`.
_SEALED = r"The password of “.+” was sealed under another secret\.key: enter it anew\."
# What the SMPP server says most often of a bind that isn't bound (`portal/smsc/upstream/smpp_client/`), in the reader's
# language; the rest stays as it is.
_REASONS = {
    _SEALED: N_("its password was sealed under another secret.key"),
    r"the carrier refuses the bind with (?P<status>.+)": N_("it refuses the bind with %(status)s"),
    r"no connection to (?P<host>\S+) port (?P<port>\d+) in (?P<seconds>\S+) s": N_(
        "no connection to %(host)s port %(port)s in %(seconds)s s"
    ),
    r"no connection to (?P<host>\S+) port (?P<port>\d+): (?P<reason>.+)": N_(
        "no connection to %(host)s port %(port)s: %(reason)s"
    ),
    r"the carrier has closed the connection": N_("it has closed the connection"),
    r"the carrier has unbound": N_("it has unbound"),
    r"the carrier has not answered the bind": N_("it has not answered the bind"),
    r"the carrier has not answered enquire_link": N_("it has not answered enquire_link"),
    r"the carrier has answered no submit_sm for (?P<seconds>\S+) s": N_(
        "it has answered no submit_sm for %(seconds)s s"
    ),
    r"the connection was lost: (?P<reason>.+)": N_("the connection was lost: %(reason)s"),
    TOO_MANY: TOO_MANY,
    r"it answers nothing": N_("it answers nothing"),
    r"it answers nothing but (?P<error>.+)": N_("it answers nothing but %(error)s"),
}


def is_sealed(error: str) -> bool:
    """Whether the password can't be read."""
    return re.fullmatch(_SEALED, error) is not None


def translate_reason(error: str) -> str:
    """A reason in the reader's language, as the end of a sentence; what isn't known stays as it is."""
    for pattern, sentence in _REASONS.items():
        if found := re.fullmatch(pattern, error):
            params = found.groupdict()
            if "reason" in params:
                params["reason"] = translate_reason(params["reason"])
            return gettext(sentence, **params)
    fault = next((each for each in TlsFault if error.startswith(each)), None)
    return error if fault is None else f"{gettext(fault.value)}{error.removeprefix(fault)}"
