"""The settings: from environment variables, a TOML file, or defaults, in this order. Unknown keys are errors.

A key's environment variable is `PORTAL_` and its path in capitals: `[smpp] port` is `PORTAL_SMPP_PORT`. A secret can be
in a file of its own, too, which `PORTAL_MAIL_URL_FILE` names.
"""

import os
import re
import shlex
import sys
import tomllib
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, get_type_hints
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from portal.core import db
from portal.core.pasted_text import remove_invisible_marks

FILE_NAME = "config.toml"
_DEFAULT_FOLDER = "data"


class ConfigError(Exception):
    """A setting is unknown or its value can't be used; the text names it and says why."""


def _declare_setting(default: Any, help: str, *, name: str = "", **rules: Any) -> Any:
    """A setting: its default, what it is for, and its name where Python reserves it.

    Args:
        rules: `low` and `high`, bounds (inclusive); `choices`, all that it can be. `pasted`: it is an address or the
            like, so marks that nobody sees in it are left out. Passwords, URLs with passwords and names of files are
            what they are. `secret`: it can be read from a file, and `app.py config` doesn't show it.
    """
    return field(default=default, metadata={"help": help, "key": name, **rules})


_MAX_PORT = 65535
# Its path is the session cookie's, too.
_PUBLIC_URL_PATTERN = re.compile(r"https?://[^/?#@\s]+(/[A-Za-z0-9._~-]+)*/*")

_CREDITS_PATTERN = re.compile(r"[0-9]{1,9}(\.[0-9]{1,3})?")

# Standard Webhooks: such a secret is base64, of 24 bytes or more.
WEBHOOK_SECRET_PREFIX = "whsec_"
_MIN_KEY_BYTES = 24
_MIN_SECRET_LENGTH = 32


@dataclass(frozen=True)
class WebSettings:
    host: str = _declare_setting("127.0.0.1", "address to listen on", pasted=True)
    port: int = _declare_setting(8000, "port of the pages", low=1, high=_MAX_PORT)
    public_url: str = _declare_setting("", "what links in mails begin with; empty: http://host:port", pasted=True)
    trusted_proxies: tuple[str, ...] = _declare_setting(
        (), "addresses or networks whose X-Forwarded-For, -Proto and -Prefix are believed", pasted=True
    )
    hsts_subdomains: str = _declare_setting(
        "off",
        "on: all hosts below public_url's are reached by https alone, too (HSTS includeSubDomains)",
        choices=("on", "off"),
    )
    threads: int = _declare_setting(
        8, "requests handled at the same time; strangers' logins take at most half of them, and four", low=1, high=256
    )
    metrics_token: str = _declare_setting(
        "", "bearer token for /healthz, /readyz and /metrics from other machines, and behind proxies", secret=True
    )


@dataclass(frozen=True)
class SmppSettings:
    host: str = _declare_setting("127.0.0.1", "address to listen on; :: for all, IPv4 and IPv6", pasted=True)
    port: int = _declare_setting(2775, "unsecured port; 0: not listened on", low=0, high=_MAX_PORT)
    tls_port: int = _declare_setting(3550, "TLS port; 0: not listened on", low=0, high=_MAX_PORT)
    tls_certificate: str = _declare_setting(
        "", "PEM file; empty: self-signed, made in the data folder at the first start"
    )
    tls_key: str = _declare_setting("", "PEM file of the certificate's private key")
    tls_minimum: str = _declare_setting(
        "1.3", "oldest version of TLS that is spoken: 1.3 or 1.2", choices=("1.2", "1.3")
    )
    proxy_protocol_from: tuple[str, ...] = _declare_setting(
        (),
        "addresses or networks whose connections begin with a PROXY protocol header, which is believed",
        pasted=True,
    )
    unknown_system_id: str = _declare_setting(
        "0x0E",
        "answer to a bind with an unknown system_id: 0x0E, as to a wrong password, or 0x0F, which tells strangers which"
        " system_ids there are",
        choices=("0x0E", "0x0F"),
    )
    public_host: str = _declare_setting(
        "", "host name that customers are shown; empty: the listening address", pasted=True
    )


@dataclass(frozen=True)
class MailSettings:
    url: str = _declare_setting(
        "", "smtp://user:password@host:port (by STARTTLS) or smtps://…; empty: files in outbox/", secret=True
    )
    tls: str = _declare_setting(
        "required",
        "required, or opportunistic: mails go in clear text where a server beyond this machine offers no STARTTLS",
        choices=("required", "opportunistic"),
    )
    sender: str = _declare_setting("SMPP Portal <portal@localhost>", "From: of the mails", name="from", pasted=True)


@dataclass(frozen=True)
class DocumentSettings:
    clamd: str = _declare_setting(
        "", "host:port or Unix socket of the clamd that scans senders' documents; empty: nothing does", pasted=True
    )


@dataclass(frozen=True)
class BillingSettings:
    enabled: str = _declare_setting(
        "auto",
        "whether credits are sold: on, off, or auto, which is on where there are packs or orders",
        choices=("auto", "on", "off"),
    )


@dataclass(frozen=True)
class PaymentSettings:
    instructions: str = _declare_setting(
        "", "how orders are paid, such as where to transfer money; stands on each order"
    )
    checkout_url: str = _declare_setting("", "payment page that “Pay now” leads to, https://…; empty: there is none")
    secret: str = _declare_setting(
        "", "shared with the payment page, 32 characters or more; whsec_… is read as base64", secret=True
    )


@dataclass(frozen=True)
class LimitSettings:
    ips_per_account: int = _declare_setting(10, "authorised IPs an account", low=1, high=1000)
    login_failures: int = _declare_setting(
        10, "failed logins a quarter of an hour, by user; by address ten times that", low=1
    )
    bind_failures: int = _declare_setting(
        10, "failed binds a minute, by system_id and by address that isn't authorised", low=1
    )
    bind_seconds: int = _declare_setting(10, "time for a new connection to bind", low=1)
    enquire_link_seconds: int = _declare_setting(30, "silence after which a session is sent an enquire_link", low=1)
    response_seconds: int = _declare_setting(10, "time for a client to answer", low=1)
    session_hours: int = _declare_setting(24, "age at which a session is unbound", low=1)
    unbound_per_address: int = _declare_setting(
        50, "connections without a bind, from one address; more take turns", low=1
    )
    unbound: int = _declare_setting(1000, "connections without a bind, in all", low=1)
    connections: int = _declare_setting(10_000, "SMPP connections in all", low=1)


@dataclass(frozen=True)
class BrakeSettings:
    """What traffic of an account is unusual: see `services/brakes/unusual_traffic.py`."""

    busy_hour_messages: int = _declare_setting(500, "messages an hour that are never unusual", low=1)
    busy_hour_factor: int = _declare_setting(
        10, "how many times the messages of its median hour an account's hour is unusual", low=1
    )
    busy_hour_days: int = _declare_setting(14, "days that the median hour is of", low=1, high=90)
    expensive_credits: str = _declare_setting(
        "3", "credits a part above which the first messages to a country are unusual; 0: none are", pasted=True
    )
    expensive_days: int = _declare_setting(90, "days without a message to a country, so that one is the first", low=1)
    consecutive_numbers: int = _declare_setting(
        50, "so many of the last recipients may have a number one apart from another's; 0: any", low=0
    )
    consecutive_of: int = _declare_setting(100, "how many of the last recipients are looked at", low=2, high=1000)


@dataclass(frozen=True)
class AlertSettings:
    """When operators are alerted: see `services/operations/alert_causes.py`."""

    webhook_url: str = _declare_setting(
        "",
        "where alerts are sent as JSON, besides the mails: https://…, or http:// to this machine; empty: nowhere",
        secret=True,
    )
    unbound_minutes: int = _declare_setting(
        5, "minutes that an upstream is unbound, or the SMPP server down, until there is an alert; 0: never", low=0
    )
    delivery_points: int = _declare_setting(
        20,
        "percentage points by which an upstream's delivery rate of the last hour has to be lower than that of the seven"
        " days before, so that there is an alert; 0: never",
        low=0,
        high=100,
    )
    delivery_messages: int = _declare_setting(
        50,
        "messages that must have ended in the last hour, and as many before it, so that the two rates are compared",
        low=1,
    )
    queue_minutes: int = _declare_setting(
        15, "minutes that a message waits for an upstream until there is an alert; 0: never", low=0
    )
    mail_minutes: int = _declare_setting(10, "minutes that a mail fails until there is an alert; 0: never", low=0)
    disk_percent: int = _declare_setting(
        5, "percent of the data folder's disk; there is an alert while less is free; 0: never", low=0, high=99
    )
    disk_mb: int = _declare_setting(500, "the same in megabytes; 0: never", low=0)


@dataclass(frozen=True)
class RetentionSettings:
    messages_months: int = _declare_setting(
        12,
        "months that sent and received messages are kept, unless a customer has a number of its own",
        low=1,
        high=1200,
    )
    backups: int = _declare_setting(5, "copies of the database kept from before migrations", low=0)
    audit_days: int = _declare_setting(
        730,
        "days that the audit log, finished actions on waiting messages, and unusual traffic that is over are kept",
        low=1,
    )


@dataclass(frozen=True)
class SettingOrigin:
    """Where a setting came from, for `app.py config`."""

    key: str
    value: Any
    default: Any
    origin: str
    help: str
    is_secret: bool = False


@dataclass(frozen=True)
class Config:
    data: Path
    name: str = _declare_setting("SMPP Portal", "name of this installation, shown on every page")
    timezone: str = _declare_setting("UTC", "IANA name of the time zone that pages show times in")
    web: WebSettings = field(default_factory=WebSettings)
    smpp: SmppSettings = field(default_factory=SmppSettings)
    mail: MailSettings = field(default_factory=MailSettings)
    documents: DocumentSettings = field(default_factory=DocumentSettings)
    billing: BillingSettings = field(default_factory=BillingSettings)
    payments: PaymentSettings = field(default_factory=PaymentSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    brakes: BrakeSettings = field(default_factory=BrakeSettings)
    alerts: AlertSettings = field(default_factory=AlertSettings)
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    setting_origins: tuple[SettingOrigin, ...] = ()
    # None: that of the data folder, or none.
    file: Path | None = None

    def format_command(self, command: str) -> str:
        """Return a command of this program as somebody has to type it for this installation.

        Args:
            command: without the program's name, `--data` and `--config`.
        """
        words = [Path(sys.executable).name if getattr(sys, "frozen", False) else "app.py", command]
        if self.data != Path(_DEFAULT_FOLDER).absolute():
            words += ["--data", shlex.quote(str(self.data))]
        if self.file is not None:
            words += ["--config", shlex.quote(str(self.file))]
        return " ".join(words)

    @property
    def database_file(self) -> Path:
        return self.data / db.FILE_NAME

    @property
    def public_url(self) -> str:
        """The beginning of URLs in mails and of one-time links, without a slash at the end."""
        return self.web.public_url.rstrip("/") or f"http://{bracket_ipv6(self.web.host)}:{self.web.port}"

    @property
    def known_names(self) -> tuple[str, ...]:
        """What everybody knows of the installation: its name, and the hosts that people and clients connect to."""
        return self.name, urlsplit(self.web.public_url).hostname or "", self.smpp.public_host

    @property
    def trusted_proxy_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        return tuple(ip_network(each) for each in self.web.trusted_proxies)

    @property
    def proxy_protocol_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        return tuple(ip_network(each) for each in self.smpp.proxy_protocol_from)


_SECTIONS: dict[str, Any] = {name: cls for name, cls in get_type_hints(Config).items() if is_dataclass(cls)}


def bracket_ipv6(host: str) -> str:
    """Return a host as it is written before `:port`: an IPv6 address in brackets (RFC 3986, 3.2.2)."""
    return f"[{host}]" if ":" in host else host


def parse_socket_address(text: str) -> str | tuple[str, int]:
    """Read `host:port`, with an IPv6 address in brackets, or the absolute path of a Unix socket.

    Raises:
        ValueError: it is neither.
    """
    if text.startswith("/"):
        return text
    parts = urlsplit(f"//{text}")
    if not parts.hostname or not parts.port or parts.netloc != text or "@" in text:
        raise ValueError(text)
    return parts.hostname, parts.port


def wildcard_to_loopback(host: str) -> str:
    """Return the address under which a client on the same machine reaches a server that listens on this one."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def load_config(file: Path | None = None, data: Path | None = None, env: Mapping[str, str] = os.environ) -> Config:
    """Read the settings.

    Args:
        file: the TOML file (`--config`); otherwise `PORTAL_CONFIG`, otherwise `config.toml` in the data folder.
        data: the data folder (`--data`); otherwise `PORTAL_DATA`, otherwise the file's `data`, otherwise `./data`.
        env: the environment.

    Raises:
        ConfigError: a file that can't be read, an unknown key, a bad value.
    """
    explicit_file = file or (Path(env["PORTAL_CONFIG"]) if env.get("PORTAL_CONFIG") else None)
    folder = data or (Path(env["PORTAL_DATA"]) if env.get("PORTAL_DATA") else None)
    config_file = explicit_file or (folder or Path(_DEFAULT_FOLDER)) / FILE_NAME
    tree = _read_toml(config_file, must_exist=explicit_file is not None)
    data_origin = "--data" if data else "PORTAL_DATA" if folder else str(config_file) if "data" in tree else "default"
    file_value = _value_from_toml(tree.pop("data", _DEFAULT_FOLDER), _DEFAULT_FOLDER, "data")
    data_folder = (folder or Path(file_value)).absolute()

    origins = [
        SettingOrigin("data", str(data_folder), "data", data_origin, "folder of the database, the key and the outbox")
    ]
    if "upstream" in tree:
        raise ConfigError(
            f"upstream ({config_file}): upstreams are no settings; take it out, and add them by `upstream add`"
        )
    values: dict[str, Any] = {}
    for section, cls in _SECTIONS.items():
        table = tree.pop(section, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{section}: must be a section, [{section}]")
        values[section] = cls(**_read_section(cls, section, table, env, str(config_file), origins))
    values |= _read_section(Config, "", tree, env, str(config_file), origins)
    is_elsewhere = config_file.absolute() != data_folder / FILE_NAME and config_file.exists()
    file_elsewhere = config_file.absolute() if is_elsewhere else None
    config = Config(data=data_folder, setting_origins=tuple(origins), file=file_elsewhere, **values)
    _check_config(config)
    return config


def _read_toml(file: Path, *, must_exist: bool) -> dict[str, Any]:
    try:
        # Some editors begin a file with a BOM.
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        if must_exist:
            raise ConfigError(f"{file}: no such file") from None
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file}: {error}") from None


def _read_section(
    cls: type,
    section: str,
    table: dict[str, Any],
    env: Mapping[str, str],
    origin: str,
    origins: list[SettingOrigin],
) -> dict[str, Any]:
    settings = {each.metadata["key"] or each.name: each for each in fields(cls) if each.metadata}
    values = {}
    prefix = f"PORTAL_{section.upper()}_" if section else "PORTAL_"
    # Unknown variables are errors only with a section in their name: `PORTAL_PORT` and the like may have another
    # purpose (Kubernetes sets such variables for a service with the name "portal").
    unknown_env = {key for key in env if section and key.startswith(prefix)}
    for key, each in settings.items():
        path = f"{section}.{key}" if section else key
        variable = prefix + key.upper()
        is_secret = each.metadata.get("secret", False)
        file_variable = f"{variable}_FILE" if is_secret else variable
        unknown_env -= {variable, file_variable}
        if variable in env:
            value, value_origin = _value_from_env(env[variable], each.default, variable), variable
            table.pop(key, None)
        elif file_variable in env:
            value, value_origin = _read_secret(env[file_variable], file_variable), file_variable
            table.pop(key, None)
        elif key in table:
            value, value_origin = _value_from_toml(table.pop(key), each.default, path), origin
        else:
            value, value_origin = each.default, "default"
        values[each.name] = value = _apply_rules(value, each.metadata, path)
        origins.append(SettingOrigin(path, value, each.default, value_origin, each.metadata["help"], is_secret))
    for unknown_key in table:
        path = f"{section}.{unknown_key}" if section else unknown_key
        suggestion = _suggest_key(unknown_key, [*settings, *(() if section else _SECTIONS)])
        raise ConfigError(f"{path} ({origin}): unknown setting; {suggestion}")
    for unknown_key in sorted(unknown_env):
        suggestion = _suggest_key(unknown_key, [prefix + key.upper() for key in settings])
        raise ConfigError(f"{unknown_key}: unknown setting; {suggestion}")
    return values


def _suggest_key(name: str, known: list[str]) -> str:
    """Suggest a setting with a similar name, or list all: the command `config` can't list them while one is wrong."""
    close = get_close_matches(name, known, 1)
    return f"is {close[0]} meant?" if close else f"there are {', '.join(known)}"


def _value_from_toml(value: Any, default: Any, path: str) -> Any:
    if isinstance(default, tuple):
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise ConfigError(f"{path}: must be a list of strings")
        return tuple(value)
    if type(value) is not type(default):
        raise ConfigError(f"{path}: {value!r} must be {'a whole number' if isinstance(default, int) else 'a string'}")
    return value


def _value_from_env(text: str, default: Any, path: str) -> Any:
    if isinstance(default, tuple):
        return tuple(each.strip() for each in text.split(",") if each.strip())
    if isinstance(default, int):
        try:
            return int(remove_invisible_marks(text))
        except ValueError:
            raise ConfigError(f"{path}: {text!r} must be a whole number") from None
    return text


def _read_secret(path: str, variable: str) -> str:
    """The content of a file with a secret, without the line's end that editors add."""
    try:
        return Path(path).read_text(encoding="utf-8-sig").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"{variable}: {path}: {reason}") from None


def _apply_rules(value: Any, rules: Mapping[str, Any], path: str) -> Any:
    if "low" in rules and value < rules["low"]:
        raise ConfigError(f"{path}: {value} is too small; at least {rules['low']}")
    if "high" in rules and value > rules["high"]:
        raise ConfigError(f"{path}: {value} is too large; at most {rules['high']}")
    if "choices" in rules and value not in rules["choices"]:
        raise ConfigError(f"{path}: {value!r} must be one of {', '.join(rules['choices'])}")
    if not rules.get("pasted"):
        return value
    return remove_invisible_marks(value) if isinstance(value, str) else tuple(map(remove_invisible_marks, value))


def _check_config(config: Config) -> None:
    try:
        ZoneInfo(config.timezone)
    except (KeyError, ValueError, OSError):
        raise ConfigError(f"timezone: {config.timezone!r} is not an IANA time zone, like Europe/Rome") from None
    _check_networks("web.trusted_proxies", config.web.trusted_proxies)
    _check_networks("smpp.proxy_protocol_from", config.smpp.proxy_protocol_from)
    if config.web.public_url and not _is_public_url(config.web.public_url):
        raise ConfigError("web.public_url: must look like https://host or https://host/path (or http://…)")
    if config.mail.url:
        _check_mail_url(config.mail.url)
    if config.documents.clamd:
        _check_socket_address("documents.clamd", config.documents.clamd)
    if not _CREDITS_PATTERN.fullmatch(config.brakes.expensive_credits):
        raise ConfigError(f"brakes.expensive_credits: {config.brakes.expensive_credits!r} must look like 3 or 2.5")
    _check_payments(config.payments)
    # The message doesn't repeat the URL: those of chat tools hold a token.
    if config.alerts.webhook_url and not _is_webhook_url(config.alerts.webhook_url):
        raise ConfigError(
            "alerts.webhook_url: must look like https://… without # and user:password@; http:// only on this machine"
        )
    if bool(config.smpp.tls_certificate) != bool(config.smpp.tls_key):
        raise ConfigError("smpp.tls_certificate and smpp.tls_key: give both, or neither")
    if not config.smpp.port and not config.smpp.tls_port:
        raise ConfigError("smpp.port and smpp.tls_port: both are 0, so nothing could connect")


def _is_public_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        is_host = bool(parts.hostname) and parts.port != 0 and bool(parts.netloc.encode("idna"))
    except ValueError:
        return False
    return is_host and _PUBLIC_URL_PATTERN.fullmatch(url) is not None


def _check_networks(path: str, texts: tuple[str, ...]) -> None:
    for each in texts:
        try:
            ip_network(each)
        except ValueError as error:
            raise ConfigError(f"{path}: {error}") from None


def _check_socket_address(path: str, text: str) -> None:
    try:
        parse_socket_address(text)
    except ValueError:
        raise ConfigError(f"{path}: {text!r} must look like 127.0.0.1:3310 or /run/clamav/clamd.ctl") from None


def _check_mail_url(url: str) -> None:
    # The message doesn't repeat the URL: it may contain a password.
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("smtp", "smtps") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError("mail.url: must look like smtp://user:password@host:port or smtps://…")


def _check_payments(payments: PaymentSettings) -> None:
    # The messages don't repeat the values: one is a secret, the other may contain a token.
    if payments.secret.startswith(WEBHOOK_SECRET_PREFIX):
        try:
            key = b64decode(payments.secret.removeprefix(WEBHOOK_SECRET_PREFIX), validate=True)
        except ValueError:
            raise ConfigError("payments.secret: what follows whsec_ must be base64") from None
        if len(key) < _MIN_KEY_BYTES:
            raise ConfigError(f"payments.secret: too short; at least {_MIN_KEY_BYTES} bytes in base64 after whsec_")
    elif payments.secret and len(payments.secret) < _MIN_SECRET_LENGTH:
        raise ConfigError(f"payments.secret: too short; at least {_MIN_SECRET_LENGTH} characters")
    if payments.checkout_url and not payments.secret:
        raise ConfigError(f"payments.checkout_url: needs payments.secret, of {_MIN_SECRET_LENGTH} characters or more")
    if payments.checkout_url and not _is_secure_url(payments.checkout_url):
        raise ConfigError("payments.checkout_url: must look like https://… without #; http:// only on this machine")


def _is_webhook_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        is_host = parts.port != 0 and "@" not in parts.netloc and bool((parts.hostname or "").encode("idna"))
    except ValueError:
        return False
    return is_host and url.isascii() and " " not in url and _is_secure_url(url)


def _is_secure_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    local = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost")
    return (parts.scheme == "https" or local) and bool(parts.hostname) and "#" not in url and url.isprintable()
