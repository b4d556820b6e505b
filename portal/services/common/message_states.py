"""The states that a message can be in: message_state of SMPP 3.4 (5.2.28), and the "ptt" codes that customers read."""

from portal.core.i18n import N_

# SMPP 3.4, 5.2.28: message_state.
ENROUTE, DELIVERED, EXPIRED, DELETED, UNDELIVERABLE, ACCEPTED, UNKNOWN, REJECTED = 1, 2, 3, 4, 5, 6, 7, 8
# What a customer reads as the status of a message ("ptt").
PTT_NONE, PTT_NO_CREDIT, PTT_BLACKLISTED, PTT_PENDING = 0, 10, 53, 254
PTT_INTERNAL, PTT_NETWORK, PTT_UNREACHABLE, PTT_EQUIPMENT, PTT_SUBSCRIBER, PTT_OPERATOR = 1, 2, 3, 4, 5, 7
PTT_INVALID_NUMBER, PTT_INVALID_CONTENT, PTT_INVALID_GSM7 = 100, 101, 102
PTT_UNDELIVERABLE, PTT_EXPIRED, PTT_DELETED, PTT_REJECTED, PTT_UNKNOWN = 800, 801, 802, 803, 804
NO_ANSWER = N_("no answer")
"""What stands where an upstream's status would, of a message that was sent, not answered, and not sent again."""

# "ptt" codes and what they mean to a customer.
PTT_DESCRIPTIONS = {
    0: N_("Delivered"),
    1: N_("Internal error"),
    2: N_("Network error"),
    3: N_("Destination can't be reached"),
    4: N_("Equipment error"),
    5: N_("Subscriber or credit related"),
    6: N_("Timed out"),
    7: N_("Operator related"),
    8: N_("Parental lock"),
    9: N_("Undeliverable"),
    10: N_("Not enough credits"),
    50: N_("Internal error"),
    51: N_("Internal error"),
    52: N_("Missing template"),
    53: N_("Blacklisted: the recipient sent STOP"),
    54: N_("Forbidden destination"),
    100: N_("Invalid numbering plan"),
    101: N_("Invalid content"),
    102: N_("Invalid GSM 7-bit text"),
    103: N_("Too many parts"),
    254: N_("On its way"),
    255: N_("Unknown"),
    800: N_("Undeliverable"),
    801: N_("Expired"),
    802: N_("Deleted"),
    803: N_("Rejected"),
    804: N_("Unknown"),
}
