import json
from typing import Any

import pytest

from portal.core.clock import now_ms
from portal.core.crypto import Keys
from portal.core.db import Connection
from portal.services.common.audit import SHELL
from portal.services.common.errors import Refused
from portal.services.messages import sending, smpp_config
from portal.services.upstreams import load, upstreams
from portal.services.upstreams.claims import Claim
from portal.services.upstreams.load import UpstreamLoad
from portal.services.upstreams.setting_checks import InvalidUpstreamSetting
from portal.services.upstreams.settings import (
    NoSettingOfSimulator,
    SettingNeedsOther,
    UpstreamSettingMissing,
    list_changed_settings,
)
from portal.services.upstreams.upstreams import (
    DefaultUpstreamInUse,
    InvalidUpstreamKind,
    InvalidUpstreamName,
    InvalidUpstreamPassword,
    MessagesWaitForUpstream,
    NoSuchUpstream,
    Upstream,
    UpstreamExists,
    UpstreamPasswordNeeded,
    UpstreamPasswordUnreadable,
)
from tests.services.upstreams.waiting import queue_messages


def create(conn: Connection, keys: Keys, name: str = "carrier", **overrides: Any) -> Upstream:
    values = {"host": "smpp.carrier.example", "system_id": "acme", "password": "secret"} | overrides
    return upstreams.create_upstream(conn, keys, SHELL, name, **values)


def audited(conn: Connection) -> list[tuple[str, dict[str, Any]]]:
    rows = conn.execute("SELECT action, details FROM audit_log WHERE action LIKE 'upstream.%' ORDER BY id")
    return [(row["action"], json.loads(row["details"])) for row in rows]


def stored_settings(conn: Connection) -> Any:
    return json.loads(conn.execute("SELECT settings FROM upstreams").fetchone()[0])


def test_an_upstream_is_created_enabled_with_defaults(conn, keys):
    created = create(conn, keys, window="20")
    assert (created.name, created.kind, created.enabled, created.draining) == ("carrier", "smpp", True, False)
    assert (created.settings.host, created.settings.port, created.settings.window) == ("smpp.carrier.example", 2775, 20)
    assert stored_settings(conn) == {"host": "smpp.carrier.example", "system_id": "acme", "window": 20}
    assert upstreams.list_upstreams(conn) == [created]
    assert upstreams.get_upstream(conn, "CARRIER") == created
    assert upstreams.get_upstream_by_id(conn, created.id) == created


def test_the_password_is_sealed_and_in_no_log(conn, keys, data):
    created = create(conn, keys, password="s3cr3t!!")
    upstreams.change_upstream(conn, keys, SHELL, created, password="n3w")
    assert upstreams.get_upstream_password(conn, keys, created) == "n3w"
    dump = "\n".join(conn.iterdump())
    assert "s3cr3t" not in dump
    assert "n3w" not in dump
    assert audited(conn)[-1] == (
        "upstream.change",
        {"name": "carrier", "new_name": None, "settings": {}, "password_changed": True},
    )
    with pytest.raises(UpstreamPasswordUnreadable, match="carrier"):
        upstreams.get_upstream_password(conn, Keys(b"x" * 32), created)


@pytest.mark.parametrize(
    ("settings", "off", "left"),
    [
        ({"second_host": "192.0.2.2", "second_port": 2776}, {"second_host": ""}, {}),
        ({"tls": True, "tls_minimum": "1.3", "tls_verify": False}, {"tls": False}, {}),
        ({"second_host": "192.0.2.2", "tls": True}, {"second_host": ""}, {"tls": True}),
    ],
)
def test_what_belongs_to_a_setting_goes_with_it(conn, keys, settings, off, left):
    created = create(conn, keys, **settings)
    changed = upstreams.change_upstream(conn, keys, SHELL, created, password="secret", **off)
    kept = {"host": created.settings.host, "system_id": created.settings.system_id}
    assert list_changed_settings(changed.settings) == kept | left


SECURED = {"tls": True, "second_host": "192.0.2.2", "second_port": 2776}


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({}, {"host": "192.0.2.9"}),
        ({}, {"port": 2777}),
        ({}, {"second_host": "192.0.2.9"}),
        (SECURED, {"second_port": 2777}),
        (SECURED, {"second_port": "same"}),
        (SECURED, {"port": 2776}),
        (SECURED, {"tls": False}),
        (SECURED, {"tls_verify": False}),
        (SECURED, {"tls_server_name": "other.example"}),
        (SECURED | {"tls_server_name": "a.example"}, {"tls_server_name": ""}),
        (SECURED | {"tls_verify": False}, {"tls": False}),
    ],
)
def test_a_stored_password_goes_nowhere_else(conn, keys, settings, changes):
    created = create(conn, keys, **settings)
    with pytest.raises(UpstreamPasswordNeeded) as caught:
        upstreams.change_upstream(conn, keys, SHELL, created, window=20, **changes)
    assert caught.value.field == "password"
    assert upstreams.get_upstream(conn, "carrier") == created
    changed = upstreams.change_upstream(conn, keys, SHELL, created, password="other", **changes)
    assert changed.settings != created.settings


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({}, {"tls": True, "tls_server_name": "a.example", "window": 20, "system_id": "other"}),
        (SECURED, {"second_host": "", "tls_minimum": "1.3"}),
        ({"second_host": "192.0.2.2"}, {"host": "192.0.2.2", "second_host": "192.0.2.1"}),
        (SECURED | {"tls_verify": False}, {"tls_verify": True}),
    ],
)
def test_where_nobody_else_can_read_it_a_stored_password_stays(conn, keys, settings, changes):
    created = create(conn, keys, **{"host": "192.0.2.1"} | settings)
    changed = upstreams.change_upstream(conn, keys, SHELL, created, **changes)
    assert upstreams.get_upstream_password(conn, keys, changed) == upstreams.get_upstream_password(conn, keys, created)


def test_what_is_given_together_with_the_end_of_what_it_belongs_to_is_refused(conn, keys):
    created = create(conn, keys, second_host="192.0.2.2")
    with pytest.raises(SettingNeedsOther, match="second_port is of use with second_host alone"):
        upstreams.change_upstream(conn, keys, SHELL, created, second_host="", second_port=2776)


def test_the_first_one_is_the_default_until_another_is(conn, keys):
    first, second = create(conn, keys, "first"), create(conn, keys, "second")
    assert (first.is_default, second.is_default) == (True, False)
    upstreams.set_default_upstream(conn, SHELL, second)
    upstreams.set_default_upstream(conn, SHELL, second)
    assert [(each.name, each.is_default) for each in upstreams.list_upstreams(conn)] == [
        ("first", False),
        ("second", True),
    ]
    assert [action for action, _ in audited(conn)] == ["upstream.add", "upstream.add", "upstream.default"]


def test_that_there_is_no_default_one_is_a_choice_that_lasts(conn, keys):
    first, second = create(conn, keys, "first"), create(conn, keys, "second")
    version = smpp_config.read_config_version(conn)
    upstreams.set_default_upstream(conn, SHELL, None)
    assert smpp_config.read_config_version(conn) > version
    upstreams.set_default_upstream(conn, SHELL, None)
    third = create(conn, keys, "third")
    assert [each.is_default for each in upstreams.list_upstreams(conn)] == [False] * 3
    assert [details for action, details in audited(conn) if action == "upstream.default"] == [{"name": None}]
    upstreams.remove_upstream(conn, SHELL, first)
    upstreams.set_default_upstream(conn, SHELL, third)
    assert [(each.id, each.is_default) for each in upstreams.list_upstreams(conn)] == [
        (second.id, False),
        (third.id, True),
    ]


def test_each_change_moves_the_version_that_the_server_polls_and_nothing_else_does(conn, keys):
    versions = [smpp_config.read_config_version(conn)]

    def moved() -> bool:
        versions.append(smpp_config.read_config_version(conn))
        return versions[-1] > versions[-2]

    created = create(conn, keys)
    assert moved()
    assert created.version == versions[-1]
    for act in (upstreams.drain_upstream, upstreams.disable_upstream, upstreams.enable_upstream):
        act(conn, SHELL, created)
        assert moved()
        act(conn, SHELL, created)
        assert not moved()
    for changes in ({"window": 11}, {"password": "secret"}, {"name": "other"}):
        changed = upstreams.change_upstream(conn, keys, SHELL, created, **changes)
        assert moved()
        assert changed.version == versions[-1]
    upstreams.change_upstream(conn, keys, SHELL, created, window=11, name="other")
    assert not moved()
    upstreams.set_default_upstream(conn, SHELL, created)
    assert not moved()
    upstreams.remove_upstream(conn, SHELL, created)
    assert moved()


def test_what_was_measured_of_one_goes_with_it(conn, keys):
    created = create(conn, keys)
    load.record_load(conn, created.id, UpstreamLoad(37.8))
    upstreams.remove_upstream(conn, SHELL, created)
    assert load.list_loads(conn) == {}


def test_enabling_disabling_and_draining(conn, keys):
    created = create(conn, keys)

    def state() -> tuple[bool, bool]:
        now = upstreams.get_upstream(conn, "carrier")
        return now.enabled, now.draining

    upstreams.drain_upstream(conn, SHELL, created)
    assert state() == (True, True)
    upstreams.disable_upstream(conn, SHELL, created)
    assert state() == (False, False)
    upstreams.drain_upstream(conn, SHELL, created)
    assert state() == (True, True), "it connects to send what waits"
    upstreams.enable_upstream(conn, SHELL, created)
    assert state() == (True, False)
    assert [action for action, _ in audited(conn)][1:] == [
        "upstream.drain",
        "upstream.disable",
        "upstream.drain",
        "upstream.enable",
    ]


def test_a_change_leaves_the_rest_as_it_is(conn, keys):
    created = create(conn, keys, window=20, throughput=5)
    # What another has changed meanwhile stays.
    upstreams.change_upstream(conn, keys, SHELL, created, throughput="0")
    changed = upstreams.change_upstream(conn, keys, SHELL, created, name="new", tls=True)
    assert (changed.id, changed.name) == (created.id, "new")
    assert stored_settings(conn) == {"host": "smpp.carrier.example", "system_id": "acme", "window": 20, "tls": True}
    assert upstreams.get_upstream_password(conn, keys, changed) == "secret"
    assert audited(conn)[-1][1]["settings"] == {"tls": True}


def test_what_is_refused_changes_nothing(conn, keys):
    created, other = create(conn, keys), create(conn, keys, "other")
    for changes, refusal in (
        ({"window": 0}, InvalidUpstreamSetting),
        ({"host": ""}, UpstreamSettingMissing),
        ({"password": ""}, InvalidUpstreamPassword),
        ({"password": "123456789"}, InvalidUpstreamPassword),
        ({"password": "pàss"}, InvalidUpstreamPassword),
        ({"name": "OTHER"}, UpstreamExists),
        ({"name": "a,b"}, InvalidUpstreamName),
        ({"name": ""}, InvalidUpstreamName),
    ):
        with pytest.raises(refusal):
            upstreams.change_upstream(conn, keys, SHELL, created, throughput=9, **changes)
    assert upstreams.list_upstreams(conn) == [created, other]
    creations: list[tuple[str, dict[str, Any], type[Refused]]] = [
        ("third", {"kind": "pigeon"}, InvalidUpstreamKind),
        ("third", {"password": ""}, InvalidUpstreamPassword),
        ("third", {"system_id": ""}, UpstreamSettingMissing),
        ("Carrier", {}, UpstreamExists),
        ("x" * 31, {}, InvalidUpstreamName),
        ("-x", {}, InvalidUpstreamName),
    ]
    for name, values, refused in creations:
        with pytest.raises(refused):
            create(conn, keys, name, **values)
    assert len(upstreams.list_upstreams(conn)) == 2
    assert len(audited(conn)) == 2


def test_a_simulator_has_neither_a_connection_nor_a_password(conn, keys):
    made = upstreams.create_upstream(conn, keys, SHELL, "sim", kind="simulator", refund="undelivered")
    assert (made.kind, made.settings.refund, made.is_default) == ("simulator", "undelivered", True)
    assert upstreams.get_upstream_password(conn, keys, made) == ""
    for values in ({"host": "x"}, {"password": "x"}, {"window": 5}):
        with pytest.raises(NoSettingOfSimulator, match=next(iter(values))):
            upstreams.create_upstream(conn, keys, SHELL, "two", kind="simulator", **values)
        with pytest.raises(NoSettingOfSimulator):
            upstreams.change_upstream(conn, keys, SHELL, made, **values)


def test_one_that_messages_wait_for_is_not_removed(conn, keys, cast):
    created = create(conn, keys)
    queue_messages(conn, cast.smpp_acme_1.id, 3)
    with pytest.raises(MessagesWaitForUpstream, match=r"Messages wait for “carrier”.* it: 3[.] Make another"):
        upstreams.remove_upstream(conn, SHELL, created)
    assert upstreams.get_upstream(conn, "carrier") == created


@pytest.mark.parametrize("values", [{}, {"kind": "simulator"}])
def test_one_that_has_not_ended_messages_is_not_removed(conn, keys, cast, values):
    created = upstreams.create_upstream(conn, keys, SHELL, "sim", **values) if values else create(conn, keys)
    create(conn, keys, "other")
    queue_messages(conn, cast.smpp_acme_1.id, 2)
    sending.claim_messages(conn, Claim(created.id, [()], 10), now_ms())
    with pytest.raises(MessagesWaitForUpstream, match=r"Messages wait for “.+ it: 2[.] .* drain this one"):
        upstreams.remove_upstream(conn, SHELL, created)
    assert upstreams.get_upstream(conn, created.name) == created


def test_the_default_one_goes_last(conn, keys):
    first, second = create(conn, keys, "first"), create(conn, keys, "second")
    with pytest.raises(DefaultUpstreamInUse):
        upstreams.remove_upstream(conn, SHELL, first)
    upstreams.remove_upstream(conn, SHELL, second)
    upstreams.remove_upstream(conn, SHELL, first)
    assert upstreams.list_upstreams(conn) == []
    assert create(conn, keys, "third").is_default


def test_of_one_that_is_removed_the_name_stays_and_no_password(conn, keys):
    created = create(conn, keys)
    upstreams.remove_upstream(conn, SHELL, created)
    assert tuple(conn.execute("SELECT password, enabled FROM upstreams").fetchone()) == (None, 0)
    assert audited(conn)[-1] == ("upstream.remove", {"name": "carrier"})
    for act in (
        lambda: upstreams.get_upstream(conn, "carrier"),
        lambda: upstreams.change_upstream(conn, keys, SHELL, created, window=1),
        lambda: upstreams.set_default_upstream(conn, SHELL, created),
        lambda: upstreams.remove_upstream(conn, SHELL, created),
    ):
        with pytest.raises(NoSuchUpstream):
            act()
    upstreams.enable_upstream(conn, SHELL, created)
    assert conn.execute("SELECT enabled FROM upstreams").fetchone()[0] == 0
    assert upstreams.list_upstreams(conn) == []
    again = create(conn, keys)
    assert again.id != created.id
    assert upstreams.get_upstream_names(conn) == {created.id: "carrier", again.id: "carrier"}


def test_an_installation_remembers_that_it_had_an_upstream(conn, keys):
    assert not upstreams.has_ever_had_upstream(conn)
    created = create(conn, keys)
    assert upstreams.has_ever_had_upstream(conn)
    upstreams.remove_upstream(conn, SHELL, created)
    assert upstreams.has_ever_had_upstream(conn)


def test_a_setting_that_is_no_more_is_passed_over(conn, keys):
    created = create(conn, keys)
    conn.execute("UPDATE upstreams SET settings = json_insert(settings, '$.carrier_pigeons', 7)")
    assert upstreams.get_upstream(conn, "carrier").settings == created.settings
