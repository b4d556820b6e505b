"""How a TOTP secret is shown to the person who is about to enter it into an authenticator app."""

from dataclasses import dataclass

import segno
from markupsafe import Markup

from portal.services.people import two_factor
from portal.services.people.users import User
from portal.web.core import context


@dataclass(frozen=True)
class AuthenticatorSetup:
    """A secret in the three forms that apps accept: a QR code, an `otpauth://` address, and text to type."""

    qr: Markup
    uri: str
    secret: str

    @property
    def grouped_secret(self) -> str:
        """The secret in groups of four, for reading it off."""
        return " ".join(self.secret[at : at + 4] for at in range(0, len(self.secret), 4))


def build_authenticator_setup(sealed_secret: bytes, user: User) -> AuthenticatorSetup:
    """Unseal a secret for its owner's eyes."""
    uri = two_factor.format_totp_uri(context.get_crypto_keys(), sealed_secret, user.email, context.get_config().name)
    # One path without a style attribute, which the Content-Security-Policy would forbid; its white border is app.css's.
    qr = segno.make(uri, error="m", micro=False).svg_inline(omitsize=True, border=0)
    return AuthenticatorSetup(Markup(qr), uri, two_factor.format_totp_secret(context.get_crypto_keys(), sealed_secret))
