"""How a TOTP secret is shown to the person who is about to enter it into an authenticator app."""

from dataclasses import dataclass

import segno
from markupsafe import Markup

from portal.services.people import two_factor
from portal.services.people.users import User
from portal.web.core import context


@dataclass(frozen=True)
class Authenticator:
    """A secret in the three ways that apps take it: as a QR code, as an `otpauth://` address, typed."""

    qr: Markup
    uri: str
    secret: str

    @property
    def spaced(self) -> str:
        """The secret in groups of four, for reading it off."""
        return " ".join(self.secret[at : at + 4] for at in range(0, len(self.secret), 4))


def authenticator(sealed: bytes, user: User) -> Authenticator:
    """Unseal a secret for its owner's eyes."""
    uri = two_factor.uri(context.keys(), sealed, user.email, context.config().name)
    # One path without a style attribute, which the Content-Security-Policy would forbid; its white border is app.css's.
    qr = segno.make(uri, error="m", micro=False).svg_inline(omitsize=True, border=0)
    return Authenticator(Markup(qr), uri, two_factor.secret_text(context.keys(), sealed))
