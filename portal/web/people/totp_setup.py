"""How a TOTP secret is shown to the person who is about to enter it into an authenticator app."""

import segno
from markupsafe import Markup

from portal.services.people import two_factor
from portal.services.people.users import User
from portal.web.core import context


def build_authenticator_setup(sealed_secret: bytes, user: User) -> dict[str, str]:
    """Unseal a secret for its owner's eyes, in the forms that apps accept: a QR code, an `otpauth://` address, and text
    to type, also in groups of four, for reading it off."""
    uri = two_factor.format_totp_uri(context.get_crypto_keys(), sealed_secret, user.email, context.get_config().name)
    # One path without a style attribute, which the Content-Security-Policy would forbid; its white border is app.css's.
    qr = segno.make(uri, error="m", micro=False).svg_inline(omitsize=True, border=0)
    secret = two_factor.format_totp_secret(context.get_crypto_keys(), sealed_secret)
    grouped_secret = " ".join(secret[at : at + 4] for at in range(0, len(secret), 4))
    return {"qr": Markup(qr), "uri": uri, "secret": secret, "grouped_secret": grouped_secret}
