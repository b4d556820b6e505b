"""What can be set of an upstream: names, defaults, bounds, and how each is read and written. Needs no database."""

import re
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from portal.core.i18n import N_
from portal.services.common.errors import Refused
from portal.services.upstreams import mappings

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
# Of which messages the price is given back.
REFUND_NEVER, REFUND_REFUSED, REFUND_UNDELIVERED = "never", "refused", "undelivered"
# What is put before a number in international format.
NUMBER_PREFIXES = {"none": "", "plus": "+", "00": "00"}

SettingValue = int | str | bool | None

# SMPP 3.4, 4.1.1: system_id, system_type and address_range, each without its NUL.
_MAX_SYSTEM_ID, _MAX_SYSTEM_TYPE, _MAX_ADDRESS_RANGE = 15, 12, 40
_MAX_HOST = 253
_MAX_PATH = 1000
# Room for more codes than carriers have.
_MAX_MAP, _MAX_WORDS = 1000, 100
_MAX_TLVS = 500
# SMPP 3.4, 5.2.5 and 5.2.6: the highest values that it gives a meaning.
_MAX_TON, _MAX_NPI = 6, 18
_MAX_SECONDS = 3600
_MAX_VALIDITY_S = 30 * 86_400

_HOST_PATTERN = re.compile(
    r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?"
)
_TLV_PATTERN = re.compile(r"(?:0[xX])?([0-9A-Fa-f]{1,4})=((?:[0-9A-Fa-f]{2})*)")
_TAG_PATTERN = re.compile(r"(?:0[xX])?([0-9A-Fa-f]{1,4})")
# SMPP 3.4, 5.3.2.22 to 24 and 32: the place of a part in its text, and message_payload.
_OWN_TLVS = (0x020C, 0x020E, 0x020F, 0x0424)
_FLAG_WORDS: Mapping[str, SettingValue] = {"yes": True, "no": False}
_BY_ADDRESS: Mapping[str, SettingValue] = {"auto": None}


class InvalidUpstreamSetting(Refused):
    sentence = N_("“%(value)s” can't be the value of %(setting)s. Possible: %(choices)s.")

    def __init__(self, setting: str, value: object, **params: object) -> None:
        super().__init__(setting=setting, value=value, **params)
        self.field = setting


class InvalidUpstreamText(InvalidUpstreamSetting):
    sentence = N_(
        "“%(value)s” can't be the value of %(setting)s: it has at most %(limit)s characters, each of which is printable"
        " ASCII."
    )


class InvalidUpstreamHost(InvalidUpstreamSetting):
    sentence = N_(
        "“%(value)s” can't be the value of %(setting)s: it is a name, such as smpp.carrier.example, or an IP address,"
        " without the port."
    )


class UnusableCertificateFile(InvalidUpstreamSetting):
    sentence = N_("“%(value)s” can't be the value of %(setting)s, a PEM file of certificates: %(reason)s.")


class InvalidMapEntry(InvalidUpstreamSetting):
    """`value` is the entry that can't be read."""


class InvalidStatusMap(InvalidMapEntry):
    sentence = N_(
        "“%(value)s” can't stand in %(setting)s. An entry is a command_status that stands there once, an equals sign,"
        " and retry, throttle, fail, or fail: with one of the codes %(codes)s; commas are between them:"
        " 0x58=throttle, 69=fail:100."
    )

    def __init__(self, setting: str, value: object) -> None:
        super().__init__(setting, value, codes=", ".join(map(str, mappings.FAILED_PTTS)))


class InvalidErrorMap(InvalidMapEntry):
    sentence = N_(
        "“%(value)s” can't stand in %(setting)s. An entry is a carrier's error code that stands there once, an equals"
        " sign, and one of the codes %(codes)s; commas are between them: 27=6, 1F=100."
    )

    def __init__(self, setting: str, value: object) -> None:
        super().__init__(setting, value, codes=", ".join(map(str, mappings.FAILED_PTTS)))


class InvalidIntermediateStates(InvalidMapEntry):
    sentence = N_(
        "“%(value)s” can't stand in %(setting)s: these are words that receipts have behind stat:, such as UNKNOWN or"
        " UNDELIV, but not DELIVRD, with commas between them."
    )


class InvalidIdPattern(InvalidMapEntry):
    sentence = N_(
        "“%(value)s” can't be the value of %(setting)s. It is a regular expression of at most %(limit)s characters with"
        " one group, (…), which is the id. At most three things are repeated (*, +, {}), two of them without a limit;"
        " or one, and three may be missing (?); but no group. (? and references to a group have no place in it. An"
        " example: ref=([0-9A-F]+)"
    )

    def __init__(self, setting: str, value: object) -> None:
        super().__init__(setting, value, limit=mappings.MAX_PATTERN_LENGTH)


class InvalidTimeZone(InvalidUpstreamSetting):
    sentence = N_("“%(value)s” can't be the value of %(setting)s: it is a time zone's name, such as Europe/Rome.")


class InvalidCountry(InvalidUpstreamSetting):
    sentence = N_("“%(value)s” can't be the value of %(setting)s: it is a country's code of two letters, such as IT.")


class InvalidUpstreamTlvs(InvalidUpstreamSetting):
    sentence = N_(
        "“%(value)s” can't be the value of %(setting)s: optional parameters are written as tag and value in hexadecimal"
        " digits, such as 0x1400=0A0B, with blanks between them. What the portal sets itself (message_payload, sar_*)"
        " can't be among them."
    )


class InvalidUpstreamTags(InvalidUpstreamSetting):
    sentence = N_(
        "“%(value)s” can't be the value of %(setting)s: the tags of optional parameters are written in hexadecimal"
        " digits, such as 0x1400, with blanks between them. What the portal sets itself (message_payload, sar_*) can't"
        " be among them."
    )


class UnusableKeyFile(InvalidUpstreamSetting):
    sentence = N_("“%(value)s” can't be the value of %(setting)s, a PEM file with a private key: %(reason)s.")


class UpstreamSettingMissing(Refused):
    sentence = N_("The connection to a carrier needs %(setting)s.")

    def __init__(self, setting: str) -> None:
        super().__init__(setting=setting)
        self.field = setting


class TlsSettingWithoutTls(Refused):
    sentence = N_("%(setting)s is of use with TLS alone: switch TLS on, or leave %(setting)s out.")

    def __init__(self, setting: str) -> None:
        super().__init__(setting=setting)
        self.field = setting


class SecondPortWithoutHost(Refused):
    sentence = N_("second_port is the port of second_host: give that, too, or leave second_port out.")
    field = "second_port"


class KeyWithoutCertificate(Refused):
    sentence = N_("tls_key is of use with its certificate alone: give tls_certificate as well, or leave tls_key out.")
    field = "tls_key"


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
    `max_length` characters, and where not every text will do a `check`, which is called with the setting's name and the
    text.
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


def _check_entries(parse: Callable[[str], object], refusal: type[InvalidMapEntry]) -> Callable[[str, str], None]:
    def check(name: str, value: str) -> None:
        try:
            parse(value)
        except mappings.InvalidEntry as error:
            raise refusal(name, error.entry) from None

    return check


def _check_id_pattern(name: str, value: str) -> None:
    if value:
        _check_entries(mappings.parse_id_pattern, InvalidIdPattern)(name, value)


def _check_time_zone(name: str, value: str) -> None:
    try:
        ZoneInfo(value)
    except (OSError, ValueError, KeyError):
        raise InvalidTimeZone(name, value) from None


def _check_country(name: str, value: str) -> None:
    if not value:
        return
    # Imported here: all that is known of numbers takes a while to load.
    from portal.services.prices import countries

    if value.upper() not in countries.COUNTRIES:
        raise InvalidCountry(name, value)


def _declare(default: SettingValue, group: str, help: str, **attributes: Any) -> Any:
    return field(default=default, metadata={"rule": SettingRule(group, help, **attributes)})


def _choose(*words: str) -> Mapping[str, SettingValue]:
    return {each: each for each in words}


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """The settings of an upstream. Host and system_id are the carrier's; all else has a default."""

    host: str = _declare("", CONNECTION, "name or IP address of the carrier's SMSC", max_length=_MAX_HOST)
    port: int = _declare(2775, CONNECTION, "port of the SMSC", low=1, high=65_535)
    second_host: str = _declare(
        "", CONNECTION, "another host of the same SMSC, for when the first can't be reached", max_length=_MAX_HOST
    )
    second_port: int | None = _declare(
        None, CONNECTION, "port of the second host; same: the first one's", low=1, high=65_535, words={"same": None}
    )
    tls: bool = _declare(False, CONNECTION, "connect by TLS", words=_FLAG_WORDS)
    tls_verify: bool = _declare(True, CONNECTION, "refuse a certificate that isn't the host's", words=_FLAG_WORDS)
    tls_ca_file: str = _declare(
        "", CONNECTION, "PEM file of the authorities to believe; empty: the system's", max_length=_MAX_PATH
    )
    tls_server_name: str = _declare(
        "", CONNECTION, "name that the certificate is for (SNI); empty: the host", max_length=_MAX_HOST
    )
    tls_certificate: str = _declare(
        "",
        CONNECTION,
        "PEM file of the client certificate, with its chain, where the carrier demands one",
        max_length=_MAX_PATH,
    )
    tls_key: str = _declare(
        "",
        CONNECTION,
        "PEM file of its private key, without a passphrase; empty: it is in the same file",
        max_length=_MAX_PATH,
    )
    tls_minimum: str = _declare("1.2", CONNECTION, "lowest version of TLS that is spoken", words=_choose("1.2", "1.3"))
    connect_seconds: int = _declare(10, CONNECTION, "time for a connection to open", low=1, high=_MAX_SECONDS)
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
        0x34, BIND, "version of SMPP that is announced", words={"3.3": 0x33, "3.4": 0x34, "5.0": 0x50}
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
        check=_check_entries(mappings.parse_status_map, InvalidStatusMap),
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
    )
    pass_tlvs: str = _declare(
        "",
        TEXT,
        "tags of optional parameters of customers' messages that are passed on, as 0x1400, with blanks between them",
        max_length=_MAX_TLVS,
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
        check=_check_id_pattern,
    )
    error_map: str = _declare(
        "",
        RECEIPTS,
        "what the error codes of receipts mean to customers, where that isn't the usual: 27=6, 1F=100",
        max_length=_MAX_MAP,
        check=_check_entries(mappings.parse_error_map, InvalidErrorMap),
    )
    intermediate_states: str = _declare(
        "",
        RECEIPTS,
        "words of receipts that end nothing, beside ENROUTE, ACCEPTD, BUFFERED and those that aren't known",
        max_length=_MAX_WORDS,
        check=_check_entries(mappings.parse_intermediate_states, InvalidIntermediateStates),
    )
    receipt_timezone: str = _declare(
        "UTC", RECEIPTS, "time zone of the dates in receipts", max_length=_MAX_WORDS, check=_check_time_zone
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
        words=_choose("auto", "gsm", "gsm-packed", "latin-1", "ascii", "utf-8"),
    )
    inbound_country: str = _declare(
        "",
        INBOUND,
        "country of numbers that come without its code, such as IT; empty: all have one",
        max_length=2,
        check=_check_country,
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
# Of use with TLS alone: whoever sets one believes that nothing goes out unsecured.
TLS_SETTINGS = ("tls_ca_file", "tls_server_name", "tls_certificate", "tls_key", "tls_minimum")
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
    try:
        number = int(str(value))
    except ValueError:
        number = low - 1
    if not low <= number <= high:
        raise InvalidUpstreamSetting(name, value, choices=RULES[name].choices)
    return number


def _check_text(name: str, value: str, rule: SettingRule) -> None:
    if name in FILE_SETTINGS:
        # Its name is what the file system has it by.
        _check_file(name, value)
    elif len(value) > rule.max_length or not (value.isascii() and value.isprintable()):
        raise InvalidUpstreamText(name, value, limit=rule.max_length)
    elif name in ("host", "second_host", "tls_server_name") and value and not _is_host(value):
        raise InvalidUpstreamHost(name, value)
    elif rule.check is not None:
        rule.check(name, value)
    elif name == "tlvs" and parse_tlvs(value) is None:
        raise InvalidUpstreamTlvs(name, value)
    elif name == "pass_tlvs" and parse_tags(value) is None:
        raise InvalidUpstreamTags(name, value)


# Each message asks for those of its upstream.
@lru_cache(maxsize=100)
def parse_tlvs(text: str) -> Mapping[int, bytes] | None:
    """Read the value of the setting `tlvs`: values by tag (SMPP 3.4, 3.2.4.1); None where it isn't one."""
    tlvs: dict[int, bytes] = {}
    for each in text.replace(",", " ").split():
        match = _TLV_PATTERN.fullmatch(each)
        tag = int(match[1], 16) if match else 0
        if match is None or not tag or tag in tlvs or tag in _OWN_TLVS:
            return None
        tlvs[tag] = bytes.fromhex(match[2])
    return tlvs


@lru_cache(maxsize=100)
def parse_tags(text: str) -> frozenset[int] | None:
    """Read the value of the setting `pass_tlvs`; None where it isn't one."""
    matches = [_TAG_PATTERN.fullmatch(each) for each in text.replace(",", " ").split()]
    tags = {int(each[1], 16) for each in matches if each is not None}
    is_readable = len(tags) == len(matches) and 0 not in tags and tags.isdisjoint(_OWN_TLVS)
    return frozenset(tags) if is_readable else None


def _is_host(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        # What has only digits and dots and is no address is one that was mistyped.
        return bool(_HOST_PATTERN.fullmatch(text)) and not re.fullmatch(r"[0-9.]+", text)
    return True


def _check_file(name: str, value: str) -> None:
    if not value:
        return
    refusal = UnusableKeyFile if name == "tls_key" else UnusableCertificateFile
    if not Path(value).is_absolute():
        raise refusal(name, value, reason="its path must begin with /")
    # Imported here: most commands need no TLS.
    from portal.core import tls_client

    try:
        if name == "tls_ca_file":
            tls_client.create_client_context(ca_file=value)
        elif name == "tls_certificate":
            tls_client.check_certificate_file(value)
        else:
            tls_client.check_key_file(value)
    except tls_client.UnusableTlsFile as error:
        raise refusal(name, value, reason=error.reason) from None


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
        UpstreamSettingMissing, SecondPortWithoutHost, TlsSettingWithoutTls, KeyWithoutCertificate,
        ValidityAboveMaximum
    """
    for name in ("host", "system_id"):
        if not getattr(settings, name):
            raise UpstreamSettingMissing(name)
    if settings.second_port is not None and not settings.second_host:
        raise SecondPortWithoutHost()
    for name in TLS_SETTINGS:
        if getattr(settings, name) != getattr(DEFAULTS, name) and not settings.tls:
            raise TlsSettingWithoutTls(name)
    if settings.tls_key and not settings.tls_certificate:
        raise KeyWithoutCertificate
    if 0 < settings.max_validity_seconds < settings.default_validity_seconds:
        raise ValidityAboveMaximum(default=settings.default_validity_seconds, longest=settings.max_validity_seconds)


def format_setting(name: str, value: SettingValue) -> str:
    """A value as `parse_setting` reads it."""
    return next((word for word, each in RULES[name].words.items() if each == value), str(value))


def list_changed_settings(settings: UpstreamSettings) -> dict[str, SettingValue]:
    """The settings that differ from their defaults."""
    values = {name: getattr(settings, name) for name in RULES}
    return {name: value for name, value in values.items() if value != getattr(DEFAULTS, name)}
