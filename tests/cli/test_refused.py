"""`refused`, as operators and scripts run it."""

import asyncio
import json
import re

import pytest

from portal.core.clock import DAY_MS, HOUR_MS, now_ms
from portal.core.i18n import format_iso8601
from portal.services.accounts import accounts, refused_binds, refused_pdus
from portal.services.accounts.refused_binds import NOT_AUTHORISED, RefusedBind
from portal.services.accounts.refused_messages import SENDER, THROUGHPUT
from portal.services.common.audit import SHELL
from portal.services.statistics import daily_totals
from tests.smsc.esme import RawEsme, run_smsc
from tests.support import record_refused_messages


@pytest.fixture
def acme_1(conn):
    return accounts.get_account(conn, "smpp-acme-1")


@pytest.fixture
def refused_things(conn, acme_1):
    """Messages of Acme, binds of Globex, and a bind of nobody."""
    now, globex_1 = now_ms(), accounts.get_account(conn, "smpp-globex-1")
    record_refused_messages(conn, acme_1.id, {(SENDER, "NOTMINE"): 118, (THROUGHPUT, "20"): 3}, now - 2 * HOUR_MS)
    record_refused_messages(conn, acme_1.id, {(SENDER, "EARLIER"): 1}, now - 3 * DAY_MS)
    binds = [
        RefusedBind(globex_1.id, "203.0.113.7", NOT_AUTHORISED, now - HOUR_MS),
        RefusedBind(0, "203.0.113.9", "", now - 60_000, system_id="admin"),
    ]
    refused_binds.record_refused_binds(conn, binds)
    return now


@pytest.mark.usefixtures("refused_things")
def test_what_an_account_was_refused_is_listed_the_latest_first(ok):
    listed = ok("refused", "smpp-acme-1")
    assert [(each["reason"], each["value"], each["count"]) for each in listed] == [
        ("sender", "NOTMINE", 118),
        ("throughput", "20", 3),
        ("sender", "EARLIER", 1),
    ]
    assert {(each["account"], each["kind"]) for each in listed} == {("smpp-acme-1", "message")}
    assert listed[0]["text"] == "The sender NOTMINE isn't approved."
    assert [each["value"] for each in ok("refused", "smpp-acme-1", "--days", "1")] == ["NOTMINE", "20"]


def test_of_all_accounts_unknown_system_ids_are_listed_too(ok, run_app, refused_things):
    now = refused_things
    unknown, bind, *others = ok("refused", "--days", "1")
    assert unknown == {
        "account": None,
        "kind": "bind",
        "reason": "unknown_system_id",
        "value": "203.0.113.9",
        "count": 1,
        "first_at": format_iso8601(now - 60_000),
        "last_at": format_iso8601(now - 60_000),
        "text": "No account has this system_id.",
        "system_id": "admin",
    }
    assert (bind["account"], bind["kind"], bind["reason"], bind["value"]) == (
        "smpp-globex-1", "bind", "not_authorised", "203.0.113.7",
    )  # fmt: skip
    assert bind["text"] == "It is not an authorised IP."
    assert [each["value"] for each in others] == ["NOTMINE", "20"]
    printed = run_app("refused").stdout
    of_accounts, _, of_nobody = printed.partition("\nBinds with a system_id that no account has:\n")
    assert re.search(r"^smpp-acme-1 +message +NOTMINE +118 ", of_accounts, re.M)
    assert re.search(r"^admin +203\.0\.113\.9 +1 ", of_nobody, re.M)


def test_what_the_history_has_is_among_it(ok, conn, acme_1):
    """Without credits five, stopped for the blacklist two."""
    daily_totals.add_daily_totals(conn, [(acme_1.id, now_ms() // DAY_MS, 0, 0, 0, 2, 5, 0, 0)])
    for call in (("refused",), ("refused", "smpp-acme-1")):
        listed = {each["reason"]: each for each in ok(*call)}
        assert {reason: each["count"] for reason, each in listed.items()} == {"no_credits": 5, "blacklisted": 2}
        assert listed["no_credits"]["text"] == "The credits didn't cover it."


def test_days_and_accounts_that_there_are_not_are_refused(refused, run_app):
    assert "no account" in refused("refused", "smpp-x")
    assert run_app("refused", "--days", "32").returncode == 2


def test_refused_pdus_are_kept_for_a_day_or_not(ok, refused, acme_1, conn):
    kept = ok("refused", "smpp-acme-1", "--keep-pdus", "on")
    assert kept["kept_until"] > format_iso8601(now_ms() + DAY_MS - HOUR_MS)
    assert refused_pdus.get_kept_until(conn, acme_1.id)
    assert ok("refused", "smpp-acme-1", "--keep-pdus", "off") == {"account": "smpp-acme-1", "kept_until": None}
    assert "the SMPP server isn't answering" in refused("refused", "smpp-acme-1", "--pdus")


async def test_refused_pdus_are_listed_as_the_smpp_server_has_them(run_app, config, cast, conn, acme_1):
    refused_pdus.set_refused_pdus_kept(conn, SHELL, acme_1, kept=True)
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.submit("393331234567", b"a secret", source="\x1b]0;X\x07")
        await esme.submit("393331234567", b"a secret", source="NOTMINE")
        shown = await asyncio.to_thread(run_app, "refused", "smpp-acme-1", "--pdus")
        listed = await asyncio.to_thread(run_app, "refused", "smpp-acme-1", "--pdus", "--json")
    assert (
        "submit_sm  ESME_RINVSRCADR 0x0A  127.0.0.1\n    source_addr_ton: 5\n    source_addr: NOTMINE\n" in shown.stdout
    )
    assert "\n    source_addr: \\x1b]0;X\\x07\n" in shown.stdout
    pdu, _ = json.loads(listed.stdout)
    assert (pdu["reason"], pdu["value"], pdu["fields"]["destination_addr"]) == ("sender", "NOTMINE", "3933******67")
    assert "secret" not in shown.stdout + listed.stdout


def test_a_classic_account_has_no_refused_pdus(refused):
    assert "classic account" in refused("refused", "sms-acme-1", "--keep-pdus", "on")
