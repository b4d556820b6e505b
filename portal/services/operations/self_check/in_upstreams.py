"""Checks of upstreams: their settings, their passwords, and which is the default one."""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import replace

from cryptography.exceptions import InvalidTag

from portal.core.crypto import Keys
from portal.core.i18n import N_
from portal.services.common.errors import Refused
from portal.services.operations.self_check.problem import Problem, iterate_rows
from portal.services.upstreams import upstreams
from portal.services.upstreams.settings import (
    DEFAULTS,
    InvalidUpstreamSetting,
    check_settings_together,
    parse_setting,
)


def check_upstreams(conn: sqlite3.Connection) -> Iterator[Problem]:
    """Check that each has possible settings and what its kind needs, and that one of those there are is the default."""
    rows = iterate_rows(
        conn, "SELECT id, name, kind, settings, password IS NOT NULL, is_default, enabled, removed_at FROM upstreams"
    )
    names, default_count = [], 0
    for row, name, kind, settings, has_password, is_default, enabled, removed_at in rows:
        params = {"upstream": name, "row": row}
        if removed_at is not None:
            if has_password or enabled or is_default:
                yield Problem(N_("%(upstream)s: upstreams row %(row)s was removed, and is still in use"), params)
            continue
        names.append(name)
        default_count += is_default
        if kind not in upstreams.KINDS:
            yield Problem(
                N_("%(upstream)s: upstreams row %(row)s is of the kind %(kind)s, which there isn't"),
                params | {"kind": kind},
            )
        if has_password != (kind == upstreams.SMPP):
            yield Problem(N_("%(upstream)s: upstreams row %(row)s has a password too much or too little"), params)
        yield from _check_settings(kind, json.loads(settings), params)
    if names and default_count != 1:
        yield Problem(
            N_("upstreams: %(count)s of %(names)s are the default one"),
            {"count": default_count, "names": ", ".join(sorted(names))},
        )


def _check_settings(kind: str, settings: Mapping[str, object], params: Mapping[str, str | int]) -> Iterator[Problem]:
    values = {}
    for name, value in settings.items():
        try:
            # A CA file that has gone is the connection's matter: this may be another machine.
            if name != "tls_ca_file":
                values[name] = parse_setting(name, value)
        except (KeyError, InvalidUpstreamSetting):
            sentence = N_("%(upstream)s: upstreams row %(row)s has %(setting)s set to %(value)s, which it can't be")
            yield Problem(sentence, {**params, "setting": name, "value": json.dumps(value)})
    if kind == upstreams.SMPP:
        try:
            check_settings_together(replace(DEFAULTS, **values))  # type: ignore[arg-type]
        except Refused as refusal:
            sentence = N_("%(upstream)s: upstreams row %(row)s has settings that don't go together: %(reason)s")
            yield Problem(sentence, {**params, "reason": str(refusal)})


def check_passwords(conn: sqlite3.Connection, keys: Keys) -> Iterator[Problem]:
    """Check that the passwords can be read: those of before a lost key can't."""
    for name, password in iterate_rows(conn, "SELECT name, password FROM upstreams WHERE password IS NOT NULL"):
        try:
            keys.decrypt_column(password)
        except InvalidTag:
            yield Problem(
                N_("%(upstream)s: its password was sealed under another secret.key; enter it anew"), {"upstream": name}
            )
