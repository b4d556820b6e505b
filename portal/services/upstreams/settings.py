"""What can be set of an upstream: names, defaults, bounds, and how each is read and written. Needs no database."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from portal.core.i18n import N_
from portal.services.common.errors import Refused
from portal.services.upstreams import mappings
from portal.services.upstreams import setting_checks as checks
from portal.services.upstreams.setting_checks import InvalidUpstreamSetting, SettingRefused

_FIRST_OF_GROUPS = {
    "host": "connection",
    "system_id": "bind",
    "window": "limits",
    "source_ton": "text",
    "registered_delivery": "receipts",
    "receipt_charset": "inbound",
}
GROUPS = tuple(_FIRST_OF_GROUPS.values())
"""The groups in which carriers' letters have what is to be set, each of which goes on to the first of the next one."""

# What an unanswered submit_sm means, after a lost connection or a crash.
RESEND, FAIL = "resend", "fail"
# The charset of texts with data_coding 0 (SMPP 3.4, 5.2.19: "SMSC default alphabet").
GSM, GSM_PACKED = GSM_CHARSETS = ("gsm", "gsm-packed")
# Python calls them the same.
LATIN_1, ASCII, UTF_8 = OTHER_CHARSETS = ("latin-1", "ascii", "utf-8")
CHARSETS = (*GSM_CHARSETS, *OTHER_CHARSETS)
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
_Check = Callable[[str, str], None]

# SMPP 3.4, 4.1.1: system_id, system_type and address_range, each without its NUL.
_MAX_SYSTEM_ID, _MAX_SYSTEM_TYPE, _MAX_ADDRESS_RANGE = 15, 12, 40
_MAX_HOST = 253
# Room for more codes than carriers have.
_MAX_MAP, _MAX_WORDS = 1000, 100
_MAX_TLVS = 500
# SMPP 3.4, 5.2.5 and 5.2.6: the highest values that it gives a meaning.
_MAX_TON, _MAX_NPI = 6, 18
_MAX_VALIDITY_S = 30 * 86_400

_NUMBER_PATTERN = re.compile(r"[0-9]{1,9}")
_FLAG_WORDS: Mapping[str, SettingValue] = {"yes": True, "no": False}
_BY_ADDRESS: Mapping[str, SettingValue] = {"auto": None}


class UpstreamSettingMissing(SettingRefused):
    sentence = N_("The connection to a carrier needs %(setting)s.")


class SettingNeedsOther(SettingRefused):
    sentence = N_("%(setting)s is of use with %(other)s alone: set that, too, or leave %(setting)s out.")


class SecondHostIsFirst(Refused, field="second_host"):
    sentence = N_("second_host is the first host, at the same port: name another one, or leave second_host out.")


class PatternOfUnreadText(Refused, field="receipt_id_pattern"):
    sentence = N_(
        "receipt_id_pattern says where the id is in a receipt's text, and with tlv as receipt_id_from the text isn't"
        " read: set that to both or text, or leave receipt_id_pattern empty."
    )


class OptionalParametersIn33(SettingRefused):
    sentence = N_(
        "SMPP 3.3 has no optional parameters, which %(setting)s is about: leave that at its default, or set"
        " interface_version to 3.4."
    )


class ValidityAboveMaximum(Refused, field="default_validity_seconds"):
    sentence = N_("The default validity, %(default)s s, is longer than the longest one, %(longest)s s.")


class NoSettingOfSimulator(SettingRefused):
    sentence = N_("A simulator connects to nothing: it has no %(setting)s.")


@dataclass(frozen=True, slots=True)
class SettingRule:
    """What a setting is for, and which values it can have.

    `words` are texts that stand for a value; a number is from `low` to `high`. A text has neither, at most
    `max_length` characters of printable ASCII (0: whatever the check allows), and where not every text will do a
    `check`, which is called with the setting's name and a text that isn't the default. `metavar`: what stands for the
    value in the help of a command. `group`: one of GROUPS.
    """

    help: str
    low: int | None = None
    high: int | None = None
    words: Mapping[str, SettingValue] = field(default_factory=dict)
    max_length: int = 0
    check: _Check | None = None
    metavar: str = ""
    group: str = ""

    @property
    def is_flag(self) -> bool:
        return self.words is _FLAG_WORDS

    @property
    def choices(self) -> str:
        """The possible values, as people read them; empty for a text."""
        return ", ".join([*self.words, *([] if self.low is None else [f"{self.low}–{self.high}"])])


def _declare(default: SettingValue, help: str, **attributes: Any) -> Any:
    return field(default=default, metadata={"rule": SettingRule(help, **attributes)})


def _text(metavar: str, help: str, max_length: int = 0, check: _Check | None = None, default: str = "") -> Any:
    """A text; the arguments as in `SettingRule`."""
    return _declare(default, help, max_length=max_length, check=check, metavar=metavar)


def _host(help: str) -> Any:
    return _text("H", help, _MAX_HOST, checks.check_host)


def _file(help: str) -> Any:
    return _text("FILE", help, check=checks.check_tls_file)


def _number(default: int | None, low: int, high: int, help: str, **attributes: Any) -> Any:
    """A number from `low` to `high`, or one of the `words` that are given for others."""
    return _declare(default, help, low=low, high=high, **attributes)


def _seconds(default: int, help: str) -> Any:
    return _number(default, 1, 3600, help)


def _choice(default: SettingValue, help: str, words: Sequence[str] | Mapping[str, SettingValue]) -> Any:
    """One of some words, which stand for themselves, or for values."""
    return _declare(default, help, words=words if isinstance(words, Mapping) else {each: each for each in words})


def _flag(default: bool, help: str) -> Any:
    return _declare(default, help, words=_FLAG_WORDS)


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """The settings of an upstream. Host and system_id are the carrier's; all else has a default."""

    # --- connection

    host: str = _host(N_("name or IP address of the carrier's SMSC"))
    port: int = _number(2775, 1, 65_535, N_("port of the SMSC"), metavar="P")
    second_host: str = _host(N_("another host of the same SMSC, for when the first can't be reached"))
    second_port: int | None = _number(
        None, 1, 65_535, N_("port of the second host; same: the first one's"), words={"same": None}
    )
    tls: bool = _flag(False, N_("connect by TLS"))
    tls_verify: bool = _flag(True, N_("refuse a certificate that isn't the host's"))
    tls_ca_file: str = _file(N_("PEM file of the authorities to believe; empty: the system's"))
    tls_server_name: str = _host(N_("name that the certificate is for (SNI); empty: the host"))
    tls_certificate: str = _file(
        N_("PEM file of the client certificate, with its chain, where the carrier demands one")
    )
    tls_key: str = _file(N_("PEM file of its private key, without a passphrase; empty: it is in the same file"))
    tls_minimum: str = _choice("1.2", N_("lowest version of TLS that is spoken"), ("1.2", "1.3"))
    connect_seconds: int = _seconds(10, N_("time for a connection to each address of the host to open"))
    enquire_link_seconds: int = _seconds(30, N_("silence after which an enquire_link is sent"))
    reconnect_seconds: int = _seconds(
        10,
        N_(
            "pause before a second attempt to connect; it grows, to six times as much; where the bind is refused it is"
            " twice as long at first, and grows to thirty times"
        ),
    )

    # --- bind

    system_id: str = _text("S", N_("login that the carrier gave you"), _MAX_SYSTEM_ID)
    system_type: str = _text("T", N_("where the carrier names one"), _MAX_SYSTEM_TYPE)
    bind: str = _choice("trx", N_("transceivers, or pairs of transmitter and receiver"), ("trx", "tx+rx"))
    binds: int = _number(1, 1, 100, N_("how many transceivers, or pairs"))
    interface_version: int = _choice(
        0x34,
        N_("version of SMPP that is announced; with 3.3 no message has an optional parameter"),
        {"3.3": SMPP_3_3, "3.4": 0x34, "5.0": 0x50},
    )
    address_ton: int = _number(0, 0, _MAX_TON, N_("TON of the address range"))
    address_npi: int = _number(0, 0, _MAX_NPI, N_("NPI of the address range"))
    address_range: str = _text(
        "R", N_("numbers whose messages are to come here, where the carrier asks for it"), _MAX_ADDRESS_RANGE
    )
    bind_seconds: int = _seconds(30, N_("time for the answer to a bind"))

    # --- limits

    window: int = _number(10, 1, 1000, N_("how many submit_sm wait for their answer on each bind"))
    throughput: int = _number(0, 0, 100_000, N_("parts a second over all binds; 0: no limit"))
    throttle_seconds: int = _seconds(1, N_("pause after ESME_RTHROTTLED; it grows as long as that comes again"))
    response_seconds: int = _seconds(
        60, N_("time for the answer to a submit_sm; the connection is closed where none is answered")
    )
    unanswered: str = _choice(
        RESEND, N_("what becomes of a submit_sm without an answer after a lost connection or a crash"), (RESEND, FAIL)
    )
    failover_seconds: int = _seconds(
        30,
        N_(
            "how long it may be unbound, or answer nothing but refusals of the moment, until the next upstream of a"
            " route takes over"
        ),
    )
    status_map: str = _text(
        "MAP",
        N_("what is done about a command_status, where that isn't the usual: 0x58=throttle, 0x15=retry, 69=fail:100"),
        _MAX_MAP,
        checks.check_status_map,
    )

    # --- text

    source_ton: int | None = _number(
        None, 0, _MAX_TON, N_("TON of senders; auto: 5 letters, 3 short codes, 1 numbers"), words=_BY_ADDRESS
    )
    source_npi: int | None = _number(
        None, 0, _MAX_NPI, N_("NPI of senders; auto: 0 letters, 1 others"), words=_BY_ADDRESS
    )
    dest_ton: int = _number(1, 0, _MAX_TON, N_("TON of destinations"))
    dest_npi: int = _number(1, 0, _MAX_NPI, N_("NPI of destinations"))
    number_format: str = _choice("none", N_("what stands before a number's country code"), tuple(NUMBER_PREFIXES))
    charset: str = _choice(GSM, N_("charset of texts with data_coding 0, as the carrier understands it"), CHARSETS)
    missing_characters: str = _choice(
        UCS2,
        N_(
            "a text with a character that this charset lacks goes out in UCS-2 (data_coding 8), has it replaced, or"
            " fails"
        ),
        (UCS2, REPLACE, REFUSE),
    )
    other_alphabets: str = _choice(
        KEEP,
        N_(
            "texts with data_coding 1 or 3, or with a national language's table, go out as they came, or in this"
            " charset"
        ),
        (KEEP, CONVERT),
    )
    long_texts: str = _choice(
        UDH_8,
        N_(
            "how a text goes out that needs several parts: cut, and numbered in a user data header with 8 or 16 bits"
            " or in sar parameters, or whole in message_payload"
        ),
        (UDH_8, UDH_16, SAR, PAYLOAD),
    )
    tlvs: str = _text(
        "TAG=HEX",
        N_("optional parameters that each submit_sm has beside its own, as 0x1400=0A0B, with blanks between them"),
        _MAX_TLVS,
        checks.check_tlvs,
    )
    pass_tlvs: str = _text(
        "TAG",
        N_(
            "tags of optional parameters of customers' messages that are passed on, as 0x1400, with blanks between them"
        ),
        _MAX_TLVS,
        checks.check_tags,
    )
    default_validity_seconds: int = _number(
        0, 0, _MAX_VALIDITY_S, N_("validity of messages that have none; 0: the carrier's own")
    )
    max_validity_seconds: int = _number(
        0, 0, _MAX_VALIDITY_S, N_("longest validity that the carrier takes; 0: no limit")
    )

    # --- receipts

    registered_delivery: int = _choice(1, N_("receipts that are asked for"), {"all": 1, "failures": 2, "none": 0})
    message_ids: str = _choice(
        "auto", N_("how the ids of submit_sm_resp stand in receipts"), ("auto", "as-is", "hex-to-dec", "dec-to-hex")
    )
    receipt_id_from: str = _choice(
        "both",
        N_("where a receipt's id is: in receipted_message_id, in its text, or in either, the first one first"),
        ("both", "tlv", "text"),
    )
    receipt_id_pattern: str = _text(
        "REGEX",
        N_("regular expression whose one group is the id in a receipt's text; empty: what follows id:"),
        mappings.MAX_PATTERN_LENGTH,
        checks.check_id_pattern,
    )
    error_map: str = _text(
        "MAP",
        N_("what the error codes of receipts mean to customers, where that isn't the usual: 27=6, 1F=100"),
        _MAX_MAP,
        checks.check_error_map,
    )
    intermediate_states: str = _text(
        "WORDS",
        N_("words of receipts that end nothing, beside ENROUTE, ACCEPTD, BUFFERED and those that aren't known"),
        _MAX_WORDS,
        checks.check_intermediate_states,
    )
    receipt_timezone: str = _text(
        "ZONE", N_("time zone of the dates in receipts"), _MAX_WORDS, checks.check_time_zone, default="UTC"
    )
    refund: str = _choice(
        REFUND_NEVER,
        N_("messages whose price is given back: none, those the carrier refuses, those not delivered"),
        (REFUND_NEVER, REFUND_REFUSED, REFUND_UNDELIVERED),
    )

    # --- inbound

    receipt_charset: str = _choice(
        "auto",
        N_("charset of data_coding 0 in receipts and messages from handsets; auto: Latin-1 and GSM 03.38"),
        ("auto", *CHARSETS),
    )
    inbound_country: str = _text(
        "CC",
        N_("country of numbers that come without its code, such as IT; empty: all have one"),
        _MAX_WORDS,
        checks.check_country,
    )

    @property
    def bind_kinds(self) -> tuple[str, ...]:
        """The kinds of all binds: those of the numbers 1, 2, … in `upstream_binds`."""
        return tuple(self.bind.split("+")) * self.binds


def _collect_rules() -> dict[str, SettingRule]:
    rules, group = {}, ""
    for each in fields(UpstreamSettings):
        group = _FIRST_OF_GROUPS.get(each.name, group)
        rules[each.name] = replace(each.metadata["rule"], group=group)
    return rules


RULES: Mapping[str, SettingRule] = _collect_rules()
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
        # int() reads more, such as 1_000 and digits of other scripts.
        number = int(str(value)) if _NUMBER_PATTERN.fullmatch(str(value)) else rule.low - 1
        if rule.low <= number <= rule.high:
            return number
    elif not rule.words and isinstance(value, str):
        _check_text(name, value, rule)
        return value
    raise InvalidUpstreamSetting(name, value=value, choices=rule.choices)


def _check_text(name: str, value: str, rule: SettingRule) -> None:
    if rule.max_length and (len(value) > rule.max_length or not (value.isascii() and value.isprintable())):
        raise checks.InvalidUpstreamText(name, value=value, limit=rule.max_length)
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
            raise checks.UnusableKeyFile("tls_key", value=settings.tls_key, reason=error.reason) from None
        raise checks.UnusableCertificateFile(
            "tls_certificate", value=settings.tls_certificate, reason=error.reason
        ) from None


def reaches_others(before: UpstreamSettings, after: UpstreamSettings) -> bool:
    """Whether somebody can read a password with some settings who couldn't with those before: at another host or port,
    without TLS, or with a certificate that wasn't believed.
    """
    if not _list_hosts(after) <= _list_hosts(before):
        return True
    trusts = [(each.tls_verify, each.tls_ca_file, each.tls_server_name) for each in (before, after)]
    return before.tls and (not after.tls or (before.tls_verify and trusts[0] != trusts[1]))


def _list_hosts(settings: UpstreamSettings) -> set[tuple[str, int]]:
    hosts = [(settings.host, settings.port), (settings.second_host, settings.second_port or settings.port)]
    return {(host.lower(), port) for host, port in hosts if host}


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
                raise SettingNeedsOther(name, other=other)
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


def parse_settings(settings: Mapping[str, object], *, is_simulator: bool) -> dict[str, SettingValue]:
    """Read the values of some settings; see `parse_setting`.

    Raises:
        InvalidUpstreamSetting, NoSettingOfSimulator
    """
    for name in settings:
        if is_simulator and name not in SIMULATOR_SETTINGS:
            raise NoSettingOfSimulator(name)
    return {name: parse_setting(name, value) for name, value in settings.items()}


def merge_settings(
    settings: UpstreamSettings, parsed: Mapping[str, SettingValue], *, is_simulator: bool
) -> UpstreamSettings:
    """The settings of an upstream with others instead.

    Raises:
        those of `check_settings_together` and `check_client_certificate`
    """
    merged = replace(settings, **parsed)  # type: ignore[arg-type]
    for other, names in DEPENDENT_SETTINGS.items():
        if getattr(settings, other) and not getattr(merged, other):
            # Whoever takes it away has no use for what belongs to it, unless that was given together with it.
            unused = {name: getattr(DEFAULTS, name) for name in names if name not in parsed}
            merged = replace(merged, **unused)
    if not is_simulator:
        check_settings_together(merged)
        if {"tls_certificate", "tls_key"} & parsed.keys():
            # At other changes a certificate that has gone since is the connection's matter.
            check_client_certificate(merged)
    return merged


def format_setting(name: str, value: SettingValue) -> str:
    """A value as `parse_setting` reads it."""
    return next((word for word, each in RULES[name].words.items() if each == value), str(value))


def format_settings(settings: UpstreamSettings) -> dict[str, str]:
    """All values as `parse_setting` reads them, by the settings' names."""
    return {name: format_setting(name, value) for name, value in asdict(settings).items()}


def list_changed_settings(settings: UpstreamSettings) -> dict[str, SettingValue]:
    """The settings that differ from their defaults."""
    return {name: value for name, value in asdict(settings).items() if value != getattr(DEFAULTS, name)}
