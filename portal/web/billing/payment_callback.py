"""The callback with which a payment page says that an order is paid."""

import logging
import time

from flask import Blueprint, abort, request
from flask.typing import ResponseReturnValue

from portal.services.billing import payments
from portal.web.core import access, context

_log = logging.getLogger(__name__)

blueprint = Blueprint("payment_callback", __name__)

# What the payment page is answered where a callback is refused; 400 otherwise.
_CODES = {
    payments.WrongSignature: 401,
    payments.WrongTime: 401,
    payments.UnknownOrder: 422,
    payments.OtherAmount: 422,
    payments.WasCancelled: 409,
}


@blueprint.post("/payments/callback")
@access.public
def receive_callback() -> ResponseReturnValue:
    """A payment page says that an order is paid; see docs/payments.md. Only its signature proves who asks."""
    settings = context.config().payments
    if not settings.secret:
        abort(404)
    request.max_content_length = payments.LONGEST_BODY
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    message_id, timestamp, signatures = (request.headers.get(each, "") for each in names)
    address = context.client_address()
    try:
        body = request.get_data()
        payments.verify(settings, message_id, timestamp, signatures, body, int(time.time()))
        said = payments.read(body)
        result = payments.receive(context.conn(), context.keys(), settings, said, message_id, address)
    except payments.CallbackRefused as refusal:
        # The audit log holds what came from the payment page; this may have come from anybody.
        _log.warning("a callback from %s was refused: %s", address, refusal)
        return {"error": refusal.code, "message": str(refusal)}, _CODES.get(type(refusal), 400)
    return {"result": result}
