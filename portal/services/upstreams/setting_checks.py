"""Whether a text can be the value of an upstream's setting, and what is said where it can't. Needs no database.

Each check is called with the setting's name and the text, and raises an InvalidUpstreamSetting.
"""

import re
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from zoneinfo import ZoneInfo

from portal.core.i18n import N_
from portal.services.common.errors import Refused
from portal.services.upstreams import mappings

# Labels have at most 63 characters (RFC 1035, 2.3.4).
_LABEL = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_PATTERN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")


class SettingRefused(Refused):
    """What is set of an upstream isn't possible; `field` is the setting's name."""

    def __init__(self, setting: str, **params: object) -> None:
        super().__init__(field=setting, setting=setting, **params)


class InvalidUpstreamSetting(SettingRefused):
    sentence = N_("“%(value)s” can't be the value of %(setting)s. Possible: %(choices)s.")


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


class InvalidStatusMap(InvalidUpstreamSetting):
    sentence = N_(
        "“%(value)s” can't stand in %(setting)s. An entry is a command_status that stands there once, an equals sign,"
        " and retry, throttle, fail, or fail: with one of the codes %(codes)s; commas are between them:"
        " 0x58=throttle, 69=fail:100."
    )


class InvalidErrorMap(InvalidUpstreamSetting):
    sentence = N_(
        "“%(value)s” can't stand in %(setting)s. An entry is a carrier's error code that stands there once, an equals"
        " sign, and one of the codes %(codes)s; commas are between them: 27=6, 1F=100."
    )


class InvalidIntermediateStates(InvalidUpstreamSetting):
    sentence = N_(
        "“%(value)s” can't stand in %(setting)s: these are words that receipts have behind stat:, such as UNKNOWN or"
        " UNDELIV, but not DELIVRD, with commas between them."
    )


class InvalidIdPattern(InvalidUpstreamSetting):
    sentence = N_(
        "“%(value)s” can't be the value of %(setting)s. It is a regular expression of at most %(limit)s characters with"
        " one group, (…), which is the id. At most three things are repeated (*, +, {}), two of them without a limit;"
        " or one, and three may be missing (?); but no group. (?, references to a group, and [[, --, &&, ~~ or || in"
        " brackets have no place in it. An example: ref=([0-9A-F]+)"
    )


class InvalidTimeZone(InvalidUpstreamSetting):
    sentence = N_("“%(value)s” can't be the value of %(setting)s: it is a time zone's name, such as Europe/Rome.")


class InvalidCountry(InvalidUpstreamSetting):
    sentence = N_("“%(value)s” can't be the value of %(setting)s: it is a country's code of two letters, such as IT.")


class InvalidUpstreamTlvs(InvalidUpstreamSetting):
    sentence = N_(
        "“%(value)s” can't stand in %(setting)s: optional parameters are written as tag and value in hexadecimal"
        " digits, such as 0x1400=0A0B, with blanks between them. What the portal sets itself (message_payload, sar_*)"
        " can't be among them."
    )


class InvalidUpstreamTags(InvalidUpstreamSetting):
    sentence = N_(
        "“%(value)s” can't stand in %(setting)s: the tags of optional parameters are written in hexadecimal"
        " digits, such as 0x1400, with blanks between them. What the portal sets itself (message_payload, sar_*) can't"
        " be among them."
    )


class UnusableKeyFile(InvalidUpstreamSetting):
    sentence = N_("“%(value)s” can't be the value of %(setting)s, a PEM file with a private key: %(reason)s.")


def check_host(name: str, value: str) -> None:
    try:
        ip_address(value)
    except ValueError:
        # What has only digits and dots and is no address is one that was mistyped.
        if not _HOST_PATTERN.fullmatch(value) or re.fullmatch(r"[0-9.]+", value):
            raise InvalidUpstreamHost(name, value=value) from None


def check_country(name: str, value: str) -> None:
    # Imported here: all that is known of numbers takes a while to load.
    from portal.services.prices import countries

    if value.upper() not in countries.COUNTRIES:
        raise InvalidCountry(name, value=value)


def _check_by(parse: Callable[[str], object], refusal: type[InvalidUpstreamSetting]) -> Callable[[str, str], None]:
    def check(name: str, value: str) -> None:
        try:
            parse(value)
        except ValueError as error:
            # Of a map the entry that can't be read.
            wrong = getattr(error, "entry", value)
            raise refusal(name, value=wrong, codes=_CODES, limit=mappings.MAX_PATTERN_LENGTH) from None

    return check


_CODES = ", ".join(map(str, mappings.FAILED_PTTS))
check_status_map = _check_by(mappings.parse_status_map, InvalidStatusMap)
check_error_map = _check_by(mappings.parse_error_map, InvalidErrorMap)
check_intermediate_states = _check_by(mappings.parse_intermediate_states, InvalidIntermediateStates)
check_id_pattern = _check_by(mappings.parse_id_pattern, InvalidIdPattern)
check_tlvs = _check_by(mappings.parse_tlvs, InvalidUpstreamTlvs)
check_tags = _check_by(mappings.parse_tags, InvalidUpstreamTags)


def check_time_zone(name: str, value: str) -> None:
    try:
        ZoneInfo(value)
    except (OSError, ValueError, KeyError):
        raise InvalidTimeZone(name, value=value) from None


def check_tls_file(name: str, value: str) -> None:
    refusal = UnusableKeyFile if name == "tls_key" else UnusableCertificateFile
    if not Path(value).is_absolute():
        raise refusal(name, value=value, reason="its path must begin with /")
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
        raise refusal(name, value=value, reason=error.reason) from None
