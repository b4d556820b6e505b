"""The callback with which a payment page says that an order is paid."""

import logging
import time

from flask import Blueprint, abort, request
from flask.typing import ResponseReturnValue

from portal.services.billing import payments
from portal.web.core import access, context

_log = logging.getLogger(__name__)

blueprint = Blueprint("payment_callback", __name__)


@blueprint.post("/payments/callback")
@access.public_view
def receive_payment_callback() -> ResponseReturnValue:
    """A payment page says that an order is paid; see docs/payments.md. Only its signature proves who asks."""
    settings = context.get_config().payments
    if not settings.secret:
        abort(404)
    request.max_content_length = payments.MAX_BODY_BYTES
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    message_id, timestamp, signatures = (request.headers.get(each, "") for each in names)
    address = context.get_client_address()
    try:
        body = request.get_data()
        payments.verify_callback(settings, message_id, timestamp, signatures, body, int(time.time()))
        callback = payments.parse_callback(body)
        result = payments.process_callback(
            context.get_conn(), context.get_crypto_keys(), settings, callback, message_id, address
        )
    except payments.CallbackRefused as refusal:
        # The audit log holds what came from the payment page; this may have come from anybody.
        _log.warning("a callback from %s was refused: %s", address, refusal)
        return {"error": refusal.code, "message": str(refusal)}, refusal.status
    return {"result": result}
