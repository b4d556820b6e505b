"""The settings: a TOML file, environment variables over it, defaults under it; each key is known and checked.

A key's environment variable is `PORTAL_` and its path in capitals: `[smpp] port` is `PORTAL_SMPP_PORT`.
"""

import os
import tomllib
import types
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, get_type_hints
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from portal.core import db

FILE_NAME = "config.toml"


class ConfigError(Exception):
    """A setting is unknown or its value can't be used; the text names it and says why."""


def _key(default: Any, help: str, *, name: str = "", low: int | None = None, high: int | None = None) -> Any:
    """A setting: its default, what it is for, its name where Python reserves it, and its bounds (inclusive)."""
    return field(default=default, metadata={"help": help, "key": name, "low": low, "high": high})


_HIGHEST_PORT = 65535

# Standard Webhooks: such a secret is base64, of 24 bytes or more.
SECRET_PREFIX = "whsec_"
_SHORTEST_KEY = 24
_SHORTEST_SECRET = 32


@dataclass(frozen=True)
class Web:
    host: str = _key("127.0.0.1", "address to listen on")
    port: int = _key(8000, "port of the pages", low=1, high=_HIGHEST_PORT)
    public_url: str = _key("", "what links in mails begin with; empty: http://host:port")
    trusted_proxies: tuple[str, ...] = _key((), "addresses or networks whose X-Forwarded-* headers are believed")
    threads: int = _key(8, "requests handled at the same time", low=1, high=256)
    metrics_token: str = _key("", "bearer token for /healthz, /readyz and /metrics from beyond loopback")


@dataclass(frozen=True)
class Smpp:
    host: str = _key("127.0.0.1", "address to listen on; :: for all, IPv4 and IPv6")
    port: int = _key(2775, "unsecured port; 0: not listened on", low=0, high=_HIGHEST_PORT)
    tls_port: int = _key(3550, "TLS port; 0: not listened on", low=0, high=_HIGHEST_PORT)
    tls_certificate: str = _key("", "PEM file; empty: self-signed, made in the data folder at the first start")
    tls_key: str = _key("", "PEM file of the certificate's private key")
    public_host: str = _key("", "host name that customers are shown; empty: the listening address")


@dataclass(frozen=True)
class Mail:
    url: str = _key("", "smtp://user:password@host:port (STARTTLS where offered) or smtps://…; empty: files in outbox/")
    sender: str = _key("SMPP Portal <portal@localhost>", "From: of the mails", name="from")


@dataclass(frozen=True)
class Payments:
    instructions: str = _key("", "how orders are paid, such as where to transfer money; stands on each order")
    checkout_url: str = _key("", "payment page that “Pay now” leads to, https://…; empty: there is none")
    secret: str = _key("", "shared with the payment page, 32 characters or more; whsec_… is read as base64")


@dataclass(frozen=True)
class Limits:
    ips_per_account: int = _key(10, "authorised IPs an account", low=1, high=1000)
    login_failures: int = _key(10, "failed logins a quarter of an hour, by user; by address ten times that", low=1)
    bind_failures: int = _key(10, "failed binds a minute, by system_id and by address", low=1)
    bind_seconds: int = _key(10, "time for a new connection to bind", low=1)
    enquire_link_seconds: int = _key(30, "silence after which a session is sent an enquire_link", low=1)
    response_seconds: int = _key(10, "time for a client to answer", low=1)
    session_hours: int = _key(24, "age at which a session is unbound", low=1)
    unbound_per_address: int = _key(50, "connections without a bind, from one address; more take turns", low=1)
    unbound: int = _key(1000, "connections without a bind, in all", low=1)
    connections: int = _key(10_000, "SMPP connections in all", low=1)


@dataclass(frozen=True)
class Retention:
    messages_months: int = _key(
        12,
        "months that sent and received messages are kept, unless a customer has a number of its own",
        low=1,
        high=1200,
    )
    backups: int = _key(5, "copies of the database kept from before migrations", low=0)
    audit_days: int = _key(730, "days that the audit log is kept", low=1)


@dataclass(frozen=True)
class Upstream:
    """Where messages go: `kind = "simulator"` is the one inside."""

    name: str
    kind: str = "simulator"


@dataclass(frozen=True)
class Source:
    """Where a setting came from, for `app.py config`."""

    key: str
    value: Any
    default: Any
    origin: str
    help: str


@dataclass(frozen=True)
class Config:
    data: Path
    name: str = _key("SMPP Portal", "name of this installation, shown on every page")
    timezone: str = _key("UTC", "IANA name of the time zone that pages show times in")
    web: Web = field(default_factory=Web)
    smpp: Smpp = field(default_factory=Smpp)
    mail: Mail = field(default_factory=Mail)
    payments: Payments = field(default_factory=Payments)
    limits: Limits = field(default_factory=Limits)
    retention: Retention = field(default_factory=Retention)
    upstreams: tuple[Upstream, ...] = (Upstream("simulator"),)
    sources: tuple[Source, ...] = ()

    @property
    def database(self) -> Path:
        return self.data / db.FILE_NAME

    @property
    def public_url(self) -> str:
        """What addresses in mails and one-time links begin with, without a slash at the end."""
        return self.web.public_url.rstrip("/") or f"http://{bracketed(self.web.host)}:{self.web.port}"

    @property
    def proxies(self) -> tuple[IPv4Network | IPv6Network, ...]:
        return tuple(ip_network(each) for each in self.web.trusted_proxies)


_SECTIONS = {"web": Web, "smpp": Smpp, "mail": Mail, "payments": Payments, "limits": Limits, "retention": Retention}


def bracketed(host: str) -> str:
    """A host as it stands before `:port`: an IPv6 address goes into brackets (RFC 3986, 3.2.2)."""
    return f"[{host}]" if ":" in host else host


def reachable(host: str) -> str:
    """Where a client on the same machine finds a server that listens on this address."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def load(file: Path | None = None, data: Path | None = None, env: Mapping[str, str] = os.environ) -> Config:
    """Read the settings.

    Args:
        file: the TOML file (`--config`); otherwise `PORTAL_CONFIG`, otherwise `config.toml` in the data folder.
        data: the data folder (`--data`); otherwise `PORTAL_DATA`, otherwise the file's `data`, otherwise `./data`.
        env: the environment.

    Raises:
        ConfigError: a file that can't be read, an unknown key, a bad value.
    """
    named = file or (Path(env["PORTAL_CONFIG"]) if env.get("PORTAL_CONFIG") else None)
    folder = data or (Path(env["PORTAL_DATA"]) if env.get("PORTAL_DATA") else None)
    candidate = named or (folder or Path("data")) / FILE_NAME
    tree = _read(candidate, must_exist=named is not None)
    data_origin = "--data" if data else "PORTAL_DATA" if folder else str(candidate) if "data" in tree else "default"
    from_file = _from_toml(tree.pop("data", "data"), str, "data")
    data_folder = (folder or Path(from_file)).absolute()

    sources = [Source("data", str(data_folder), "data", data_origin, "folder of the database, the key and the outbox")]
    upstreams = _upstreams(tree.pop("upstream", {}))
    values: dict[str, Any] = {}
    for section, cls in _SECTIONS.items():
        table = tree.pop(section, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{section}: must be a section, [{section}]")
        values[section] = cls(**_keys(cls, section, table, env, str(candidate), sources))
    values |= _keys(Config, "", tree, env, str(candidate), sources, only=("name", "timezone"))
    config = Config(data=data_folder, upstreams=upstreams, sources=tuple(sources), **values)
    _check(config)
    return config


def _read(file: Path, *, must_exist: bool) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except FileNotFoundError:
        if must_exist:
            raise ConfigError(f"{file}: no such file") from None
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file}: {error}") from None


def _keys(
    cls: type,
    section: str,
    table: dict[str, Any],
    env: Mapping[str, str],
    origin: str,
    sources: list[Source],
    only: tuple[str, ...] = (),
) -> dict[str, Any]:
    hints = get_type_hints(cls)
    values = {}
    prefix = f"PORTAL_{section.upper()}_" if section else "PORTAL_"
    # Only variables of a known section are checked for unknown names: `PORTAL_PORT` and the like may be somebody
    # else's (Kubernetes makes such variables for a service that is called "portal").
    unknown_env = {key for key in env if section and key.startswith(prefix)}
    for each in fields(cls):
        if only and each.name not in only:
            continue
        key = _name(each)
        path = f"{section}.{key}" if section else key
        variable = prefix + key.upper()
        unknown_env.discard(variable)
        default = each.default if each.default is not MISSING else None
        if variable in env:
            value, came = _from_text(env[variable], hints[each.name], variable), variable
            table.pop(key, None)
        elif key in table:
            value, came = _from_toml(table.pop(key), hints[each.name], path), origin
        else:
            value, came = default, "default"
        _bounds(value, each, path)
        values[each.name] = value
        sources.append(Source(path, value, default, came, each.metadata["help"]))
    known = [_name(each) for each in fields(cls) if not only or each.name in only]
    for left in table:
        path = f"{section}.{left}" if section else left
        raise ConfigError(
            f"{path} ({origin}): unknown setting; {_meant(left, known if section else [*known, *_SECTIONS])}"
        )
    for left in sorted(unknown_env):
        raise ConfigError(f"{left}: unknown setting; {_meant(left, [prefix + key.upper() for key in known])}")
    return values


def _meant(name: str, known: list[str]) -> str:
    """The setting that a misspelt one may be, or all that there are: `config` can't list them while one is wrong."""
    close = get_close_matches(name, known, 1)
    return f"is {close[0]} meant?" if close else f"there are {', '.join(known)}"


def _name(each: Field[Any]) -> str:
    return each.metadata.get("key") or each.name


def _from_toml(value: Any, wanted: Any, path: str) -> Any:
    if isinstance(wanted, types.GenericAlias):
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise ConfigError(f"{path}: must be a list of strings")
        return tuple(value)
    if type(value) is not wanted:
        raise ConfigError(f"{path}: {value!r} must be {'a whole number' if wanted is int else 'a string'}")
    return value


def _from_text(text: str, wanted: Any, path: str) -> Any:
    if isinstance(wanted, types.GenericAlias):
        return tuple(each.strip() for each in text.split(",") if each.strip())
    if wanted is int:
        try:
            return int(text)
        except ValueError:
            raise ConfigError(f"{path}: {text!r} must be a whole number") from None
    return text


def _bounds(value: Any, each: Field[Any], path: str) -> None:
    low, high = each.metadata["low"], each.metadata["high"]
    if low is not None and value < low:
        raise ConfigError(f"{path}: {value} is too small; at least {low}")
    if high is not None and value > high:
        raise ConfigError(f"{path}: {value} is too large; at most {high}")


def _upstreams(table: Any) -> tuple[Upstream, ...]:
    if not isinstance(table, dict) or not all(isinstance(each, dict) for each in table.values()):
        raise ConfigError("upstream: must be sections, [upstream.NAME]")
    for name, keys in table.items():
        for key in keys:
            if key != "kind":
                raise ConfigError(f"upstream.{name}.{key}: unknown setting")
        if keys.get("kind", "simulator") != "simulator":
            raise ConfigError(f"upstream.{name}.kind: {keys['kind']!r} is not known; there is 'simulator'")
    return tuple(Upstream(name) for name in table) or (Upstream("simulator"),)


def _check(config: Config) -> None:
    try:
        ZoneInfo(config.timezone)
    except (KeyError, ValueError, OSError):
        raise ConfigError(f"timezone: {config.timezone!r} is not an IANA time zone, like Europe/Rome") from None
    for each in config.web.trusted_proxies:
        try:
            ip_network(each)
        except ValueError as error:
            raise ConfigError(f"web.trusted_proxies: {error}") from None
    if config.web.public_url and not config.web.public_url.startswith(("http://", "https://")):
        raise ConfigError("web.public_url: must begin with http:// or https://")
    if config.mail.url:
        _check_mail_url(config.mail.url)
    _check_payments(config.payments)
    if bool(config.smpp.tls_certificate) != bool(config.smpp.tls_key):
        raise ConfigError("smpp.tls_certificate and smpp.tls_key: give both, or neither")
    if not config.smpp.port and not config.smpp.tls_port:
        raise ConfigError("smpp.port and smpp.tls_port: both are 0, so nothing could connect")


def _check_mail_url(url: str) -> None:
    # The url isn't repeated in the answer: it may hold a password.
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("smtp", "smtps") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError("mail.url: must look like smtp://user:password@host:port or smtps://…")


def _check_payments(payments: Payments) -> None:
    # Neither value is repeated in the answers: one is a secret, the other may hold a token.
    if payments.secret.startswith(SECRET_PREFIX):
        try:
            key = b64decode(payments.secret.removeprefix(SECRET_PREFIX), validate=True)
        except ValueError:
            raise ConfigError("payments.secret: what follows whsec_ must be base64") from None
        if len(key) < _SHORTEST_KEY:
            raise ConfigError(f"payments.secret: too short; at least {_SHORTEST_KEY} bytes in base64 after whsec_")
    elif payments.secret and len(payments.secret) < _SHORTEST_SECRET:
        raise ConfigError(f"payments.secret: too short; at least {_SHORTEST_SECRET} characters")
    if payments.checkout_url and not payments.secret:
        raise ConfigError(f"payments.checkout_url: needs payments.secret, of {_SHORTEST_SECRET} characters or more")
    if payments.checkout_url and not _is_secured(payments.checkout_url):
        raise ConfigError("payments.checkout_url: must look like https://… without #; http:// only on this machine")


def _is_secured(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    local = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost")
    return (parts.scheme == "https" or local) and bool(parts.hostname) and "#" not in url and url.isprintable()
