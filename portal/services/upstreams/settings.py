"""What can be set of an upstream: names, defaults, bounds, and how each is read and written. Needs no database."""

import re
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any

from portal.core.i18n import N_
from portal.services.common.errors import Refused
from portal.services.upstreams import mappings
from portal.services.upstreams.setting_checks import (
    InvalidUpstreamSetting,
    InvalidUpstreamText,
    UnusableCertificateFile,
    UnusableKeyFile,
    check_ca_file,
    check_certificate_file,
    check_country,
    check_error_map,
    check_host,
    check_id_pattern,
    check_intermediate_states,
    check_key_file,
    check_status_map,
    check_tags,
    check_time_zone,
    check_tlvs,
)

# The groups in which carriers' letters have what is to be set.
CONNECTION, BIND, LIMITS, TEXT, RECEIPTS, INBOUND = GROUPS = (
    "connection",
    "bind",
    "limits",
    "text",
    "receipts",
    "inbound",
)

# What an unanswered submit_sm means, after a lost connection or a crash.
RESEND, FAIL = "resend", "fail"
# The charset of texts with data_coding 0 (SMPP 3.4, 5.2.19: "SMSC default alphabet").
GSM, GSM_PACKED, LATIN_1, ASCII, UTF_8 = CHARSETS = ("gsm", "gsm-packed", "latin-1", "ascii", "utf-8")
# What becomes of a text with a character that this charset lacks.
UCS2, REPLACE, REFUSE = "ucs2", "replace", "fail"
# Texts that come in another alphabet: passed on as they are, or written in that charset.
KEEP, CONVERT = "keep", "convert"
# How a text goes out that needs several parts.
UDH_8, UDH_16, SAR, PAYLOAD = "udh8", "udh16", "sar", "payload"
# The interface_version that knows no optional parameters.
SMPP_3_3 = 0x33
# Of which messages the price is given back.
REFUND_NEVER, REFUND_REFUSED, REFUND_UNDELIVERED = "never", "refused", "undelivered"
# What is put before a number in international format.
NUMBER_PREFIXES = {"none": "", "plus": "+", "00": "00"}

SettingValue = int | str | bool | None

# SMPP 3.4, 4.1.1: system_id, system_type and address_range, each without its NUL.
_MAX_SYSTEM_ID, _MAX_SYSTEM_TYPE, _MAX_ADDRESS_RANGE = 15, 12, 40
_MAX_HOST = 253
# Room for more codes than carriers have.
_MAX_MAP, _MAX_WORDS = 1000, 100
_MAX_TLVS = 500
# SMPP 3.4, 5.2.5 and 5.2.6: the highest values that it gives a meaning.
_MAX_TON, _MAX_NPI = 6, 18
_MAX_SECONDS = 3600
_MAX_VALIDITY_S = 30 * 86_400

_NUMBER_PATTERN = re.compile(r"[0-9]{1,9}")
_FLAG_WORDS: Mapping[str, SettingValue] = {"yes": True, "no": False}
_BY_ADDRESS: Mapping[str, SettingValue] = {"auto": None}


class UpstreamSettingMissing(Refused):
    sentence = N_("The connection to a carrier needs %(setting)s.")

    def __init__(self, setting: str) -> None:
        super().__init__(setting=setting)
        self.field = setting


class SettingNeedsOther(Refused):
    sentence = N_("%(setting)s is of use with %(other)s alone: set that, too, or leave %(setting)s out.")

    def __init__(self, setting: str, other: str) -> None:
        super().__init__(setting=setting, other=other)
        self.field = setting


class SecondHostIsFirst(Refused):
    sentence = N_("second_host is the first host, at the same port: name another one, or leave second_host out.")
    field = "second_host"


class PatternOfUnreadText(Refused):
    sentence = N_(
        "receipt_id_pattern says where the id is in a receipt's text, and with tlv as receipt_id_from the text isn't"
        " read: set that to both or text, or leave receipt_id_pattern empty."
    )
    field = "receipt_id_pattern"


class OptionalParametersIn33(Refused):
    sentence = N_(
        "SMPP 3.3 has no optional parameters, which %(setting)s is about: leave that at its default, or set"
        " interface_version to 3.4."
    )

    def __init__(self, setting: str) -> None:
        super().__init__(setting=setting)
        self.field = setting


class ValidityAboveMaximum(Refused):
    sentence = N_("The default validity, %(default)s s, is longer than the longest one, %(longest)s s.")
    field = "default_validity_seconds"


class NoSettingOfSimulator(Refused):
    sentence = N_("A simulator connects to nothing: it has no %(setting)s.")

    def __init__(self, setting: str) -> None:
        super().__init__(setting=setting)
        self.field = setting


@dataclass(frozen=True, slots=True)
class SettingRule:
    """What a setting is for, and which values it can have.

    `words` are texts that stand for a value; a number is from `low` to `high`. A text has neither, at most
    `max_length` characters of printable ASCII (0: whatever the check allows), and where not every text will do a
    `check`, which is called with the setting's name and a text that isn't the default.
    """

    group: str
    help: str
    low: int | None = None
    high: int | None = None
    words: Mapping[str, SettingValue] = field(default_factory=dict)
    max_length: int = 0
    check: Callable[[str, str], None] | None = None

    @property
    def is_flag(self) -> bool:
        return self.words is _FLAG_WORDS

    @property
    def choices(self) -> str:
        """The possible values, as people read them; empty for a text."""
        return ", ".join([*self.words, *([] if self.low is None else [f"{self.low}–{self.high}"])])


def _declare(default: SettingValue, group: str, help: str, **attributes: Any) -> Any:
    return field(default=default, metadata={"rule": SettingRule(group, help, **attributes)})


def _choose(*words: str) -> Mapping[str, SettingValue]:
    return {each: each for each in words}


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """The settings of an upstream. Host and system_id are the carrier's; all else has a default."""

    host: str = _declare(
        "", CONNECTION, "name or IP address of the carrier's SMSC", max_length=_MAX_HOST, check=check_host
    )
    port: int = _declare(2775, CONNECTION, "port of the SMSC", low=1, high=65_535)
    second_host: str = _declare(
        "",
        CONNECTION,
        "another host of the same SMSC, for when the first can't be reached",
        max_length=_MAX_HOST,
        check=check_host,
    )
    second_port: int | None = _declare(
        None, CONNECTION, "port of the second host; same: the first one's", low=1, high=65_535, words={"same": None}
    )
    tls: bool = _declare(False, CONNECTION, "connect by TLS", words=_FLAG_WORDS)
    tls_verify: bool = _declare(True, CONNECTION, "refuse a certificate that isn't the host's", words=_FLAG_WORDS)
    tls_ca_file: str = _declare(
        "", CONNECTION, "PEM file of the authorities to believe; empty: the system's", check=check_ca_file
    )
    tls_server_name: str = _declare(
        "",
        CONNECTION,
        "name that the certificate is for (SNI); empty: the host",
        max_length=_MAX_HOST,
        check=check_host,
    )
    tls_certificate: str = _declare(
        "",
        CONNECTION,
        "PEM file of the client certificate, with its chain, where the carrier demands one",
        check=check_certificate_file,
    )
    tls_key: str = _declare(
        "",
        CONNECTION,
        "PEM file of its private key, without a passphrase; empty: it is in the same file",
        check=check_key_file,
    )
    tls_minimum: str = _declare("1.2", CONNECTION, "lowest version of TLS that is spoken", words=_choose("1.2", "1.3"))
    connect_seconds: int = _declare(
        10, CONNECTION, "time for a connection to each address of the host to open", low=1, high=_MAX_SECONDS
    )
    enquire_link_seconds: int = _declare(
        30, CONNECTION, "silence after which an enquire_link is sent", low=1, high=_MAX_SECONDS
    )
    reconnect_seconds: int = _declare(
        10,
        CONNECTION,
        "pause before a second attempt to connect; it grows, to six times as much; where the bind is refused it is"
        " twice as long at first, and grows to thirty times",
        low=1,
        high=_MAX_SECONDS,
    )
    system_id: str = _declare("", BIND, "login that the carrier gave you", max_length=_MAX_SYSTEM_ID)
    system_type: str = _declare("", BIND, "where the carrier names one", max_length=_MAX_SYSTEM_TYPE)
    bind: str = _declare(
        "trx", BIND, "transceivers, or pairs of transmitter and receiver", words=_choose("trx", "tx+rx")
    )
    binds: int = _declare(1, BIND, "how many transceivers, or pairs", low=1, high=100)
    interface_version: int = _declare(
        0x34,
        BIND,
        "version of SMPP that is announced; with 3.3 no message has an optional parameter",
        words={"3.3": SMPP_3_3, "3.4": 0x34, "5.0": 0x50},
    )
    address_ton: int = _declare(0, BIND, "TON of the address range", low=0, high=_MAX_TON)
    address_npi: int = _declare(0, BIND, "NPI of the address range", low=0, high=_MAX_NPI)
    address_range: str = _declare(
        "",
        BIND,
        "numbers whose messages are to come here, where the carrier asks for it",
        max_length=_MAX_ADDRESS_RANGE,
    )
    bind_seconds: int = _declare(30, BIND, "time for the answer to a bind", low=1, high=_MAX_SECONDS)
    window: int = _declare(10, LIMITS, "how many submit_sm wait for their answer on each bind", low=1, high=1000)
    throughput: int = _declare(0, LIMITS, "parts a second over all binds; 0: no limit", low=0, high=100_000)
    throttle_seconds: int = _declare(
        1, LIMITS, "pause after ESME_RTHROTTLED; it grows as long as that comes again", low=1, high=_MAX_SECONDS
    )
    response_seconds: int = _declare(
        60,
        LIMITS,
        "time for the answer to a submit_sm; the connection is closed where none is answered",
        low=1,
        high=_MAX_SECONDS,
    )
    unanswered: str = _declare(
        RESEND,
        LIMITS,
        "what becomes of a submit_sm without an answer after a lost connection or a crash",
        words=_choose(RESEND, FAIL),
    )
    failover_seconds: int = _declare(
        30,
        LIMITS,
        "how long it may be unbound, or answer nothing but refusals of the moment, until the next upstream of a route"
        " takes over",
        low=1,
        high=_MAX_SECONDS,
    )
    status_map: str = _declare(
        "",
        LIMITS,
        "what is done about a command_status, where that isn't the usual: 0x58=throttle, 0x15=retry, 69=fail:100",
        max_length=_MAX_MAP,
        check=check_status_map,
    )
    source_ton: int | None = _declare(
        None, TEXT, "TON of senders; auto: 5 letters, 3 short codes, 1 numbers", low=0, high=_MAX_TON, words=_BY_ADDRESS
    )
    source_npi: int | None = _declare(
        None, TEXT, "NPI of senders; auto: 0 letters, 1 others", low=0, high=_MAX_NPI, words=_BY_ADDRESS
    )
    dest_ton: int = _declare(1, TEXT, "TON of destinations", low=0, high=_MAX_TON)
    dest_npi: int = _declare(1, TEXT, "NPI of destinations", low=0, high=_MAX_NPI)
    number_format: str = _declare(
        "none", TEXT, "what stands before a number's country code", words=_choose(*NUMBER_PREFIXES)
    )
    charset: str = _declare(
        GSM, TEXT, "charset of texts with data_coding 0, as the carrier understands it", words=_choose(*CHARSETS)
    )
    missing_characters: str = _declare(
        UCS2,
        TEXT,
        "a text with a character that this charset lacks goes out in UCS-2 (data_coding 8), has it replaced, or fails",
        words=_choose(UCS2, REPLACE, REFUSE),
    )
    other_alphabets: str = _declare(
        KEEP,
        TEXT,
        "texts with data_coding 1 or 3, or with a national language's table, go out as they came, or in this charset",
        words=_choose(KEEP, CONVERT),
    )
    long_texts: str = _declare(
        UDH_8,
        TEXT,
        "how a text goes out that needs several parts: cut, and numbered in a user data header with 8 or 16 bits or in"
        " sar parameters, or whole in message_payload",
        words=_choose(UDH_8, UDH_16, SAR, PAYLOAD),
    )
    tlvs: str = _declare(
        "",
        TEXT,
        "optional parameters that each submit_sm has beside its own, as 0x1400=0A0B, with blanks between them",
        max_length=_MAX_TLVS,
        check=check_tlvs,
    )
    pass_tlvs: str = _declare(
        "",
        TEXT,
        "tags of optional parameters of customers' messages that are passed on, as 0x1400, with blanks between them",
        max_length=_MAX_TLVS,
        check=check_tags,
    )
    default_validity_seconds: int = _declare(
        0, TEXT, "validity of messages that have none; 0: the carrier's own", low=0, high=_MAX_VALIDITY_S
    )
    max_validity_seconds: int = _declare(
        0, TEXT, "longest validity that the carrier takes; 0: no limit", low=0, high=_MAX_VALIDITY_S
    )
    registered_delivery: int = _declare(
        1, RECEIPTS, "receipts that are asked for", words={"all": 1, "failures": 2, "none": 0}
    )
    message_ids: str = _declare(
        "auto",
        RECEIPTS,
        "how the ids of submit_sm_resp stand in receipts",
        words=_choose("auto", "as-is", "hex-to-dec", "dec-to-hex"),
    )
    receipt_id_from: str = _declare(
        "both",
        RECEIPTS,
        "where a receipt's id is: in receipted_message_id, in its text, or in either, the first one first",
        words=_choose("both", "tlv", "text"),
    )
    receipt_id_pattern: str = _declare(
        "",
        RECEIPTS,
        "regular expression whose one group is the id in a receipt's text; empty: what follows id:",
        max_length=mappings.MAX_PATTERN_LENGTH,
        check=check_id_pattern,
    )
    error_map: str = _declare(
        "",
        RECEIPTS,
        "what the error codes of receipts mean to customers, where that isn't the usual: 27=6, 1F=100",
        max_length=_MAX_MAP,
        check=check_error_map,
    )
    intermediate_states: str = _declare(
        "",
        RECEIPTS,
        "words of receipts that end nothing, beside ENROUTE, ACCEPTD, BUFFERED and those that aren't known",
        max_length=_MAX_WORDS,
        check=check_intermediate_states,
    )
    receipt_timezone: str = _declare(
        "UTC", RECEIPTS, "time zone of the dates in receipts", max_length=_MAX_WORDS, check=check_time_zone
    )
    refund: str = _declare(
        REFUND_NEVER,
        RECEIPTS,
        "messages whose price is given back: none, those the carrier refuses, those not delivered",
        words=_choose(REFUND_NEVER, REFUND_REFUSED, REFUND_UNDELIVERED),
    )
    receipt_charset: str = _declare(
        "auto",
        INBOUND,
        "charset of data_coding 0 in receipts and messages from handsets; auto: Latin-1 and GSM 03.38",
        words=_choose("auto", *CHARSETS),
    )
    inbound_country: str = _declare(
        "",
        INBOUND,
        "country of numbers that come without its code, such as IT; empty: all have one",
        max_length=_MAX_WORDS,
        check=check_country,
    )

    @property
    def bind_kinds(self) -> tuple[str, ...]:
        """The kinds of all binds: those of the numbers 1, 2, … in `upstream_binds`."""
        return tuple(self.bind.split("+")) * self.binds


def _get_rule(setting: Field[Any]) -> SettingRule:
    rule: SettingRule = setting.metadata["rule"]
    return rule


RULES: Mapping[str, SettingRule] = {each.name: _get_rule(each) for each in fields(UpstreamSettings)}
DEFAULTS = UpstreamSettings()
# Those that are of use with another one alone. Whoever sets one of TLS's believes that nothing goes out unsecured.
DEPENDENT_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "second_host": ("second_port",),
    "tls": ("tls_verify", "tls_ca_file", "tls_server_name", "tls_certificate", "tls_key", "tls_minimum"),
    "tls_certificate": ("tls_key",),
}
# Those that name a file of this machine.
FILE_SETTINGS = ("tls_ca_file", "tls_certificate", "tls_key")
# The only ones that a simulator has.
SIMULATOR_SETTINGS = frozenset(("refund",))


def parse_setting(name: str, value: object) -> SettingValue:
    """Read the value of a setting, as it was typed or of its own type.

    Raises:
        InvalidUpstreamSetting: with the setting's name as its `field`.
    """
    rule = RULES[name]
    if isinstance(value, str):
        value = value.strip()
        value = rule.words.get(value.lower(), value)
    for each in rule.words.values():
        if each == value:
            return each
    if rule.low is not None and rule.high is not None:
        return _parse_number(name, value, rule.low, rule.high)
    if rule.words or not isinstance(value, str):
        raise InvalidUpstreamSetting(name, value, choices=rule.choices)
    _check_text(name, value, rule)
    return value


def _parse_number(name: str, value: object, low: int, high: int) -> int:
    # int() reads more, such as 1_000 and digits of other scripts.
    number = int(str(value)) if _NUMBER_PATTERN.fullmatch(str(value)) else low - 1
    if not low <= number <= high:
        raise InvalidUpstreamSetting(name, value, choices=RULES[name].choices)
    return number


def _check_text(name: str, value: str, rule: SettingRule) -> None:
    if rule.max_length and (len(value) > rule.max_length or not (value.isascii() and value.isprintable())):
        raise InvalidUpstreamText(name, value, limit=rule.max_length)
    if rule.check is not None and value != getattr(DEFAULTS, name):
        rule.check(name, value)


def check_client_certificate(settings: UpstreamSettings) -> None:
    """Make sure that the client certificate and its key can be used together, by whoever runs this.

    Raises:
        UnusableCertificateFile, UnusableKeyFile
    """
    if not settings.tls_certificate:
        return
    # Imported here: most commands need no TLS.
    from portal.core import tls_client

    try:
        tls_client.create_client_context(certificate=settings.tls_certificate, key=settings.tls_key)
    except tls_client.UnusableTlsFile as error:
        if error.is_key and settings.tls_key:
            raise UnusableKeyFile("tls_key", settings.tls_key, reason=error.reason) from None
        raise UnusableCertificateFile("tls_certificate", settings.tls_certificate, reason=error.reason) from None


def check_settings_together(settings: UpstreamSettings) -> None:
    """Make sure that the settings of a connection to a carrier, each of which is possible, go together.

    Raises:
        UpstreamSettingMissing, SettingNeedsOther, SecondHostIsFirst, PatternOfUnreadText, OptionalParametersIn33,
        ValidityAboveMaximum
    """
    for name in ("host", "system_id"):
        if not getattr(settings, name):
            raise UpstreamSettingMissing(name)
    for other, names in DEPENDENT_SETTINGS.items():
        for name in names:
            if getattr(settings, name) != getattr(DEFAULTS, name) and not getattr(settings, other):
                raise SettingNeedsOther(name, other)
    if settings.second_host.lower() == settings.host.lower() and settings.second_port in (None, settings.port):
        raise SecondHostIsFirst
    if settings.receipt_id_pattern and settings.receipt_id_from == "tlv":
        raise PatternOfUnreadText
    if settings.interface_version == SMPP_3_3:
        for name in ("tlvs", "pass_tlvs", "long_texts"):
            if getattr(settings, name) not in ("", UDH_8, UDH_16):
                raise OptionalParametersIn33(name)
    if 0 < settings.max_validity_seconds < settings.default_validity_seconds:
        raise ValidityAboveMaximum(default=settings.default_validity_seconds, longest=settings.max_validity_seconds)


def format_setting(name: str, value: SettingValue) -> str:
    """A value as `parse_setting` reads it."""
    return next((word for word, each in RULES[name].words.items() if each == value), str(value))


def list_changed_settings(settings: UpstreamSettings) -> dict[str, SettingValue]:
    """The settings that differ from their defaults."""
    values = {name: getattr(settings, name) for name in RULES}
    return {name: value for name, value in values.items() if value != getattr(DEFAULTS, name)}
