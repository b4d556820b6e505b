"""`upstream …`, as users and scripts run it."""

import re
import shlex

from portal.core.crypto import Keys
from portal.core.db import write_transaction
from portal.services.accounts import session_records
from portal.services.messages import kept_receipts, message_parts
from portal.services.messages.message_parts import AcceptedMessage, TextPart
from portal.services.upstreams import binds, counters, health, message_ids, unclaimed, upstreams, waiting
from portal.services.upstreams.binds import BindState
from portal.services.upstreams.health import UpstreamHealth
from portal.services.upstreams.message_ids import LEARNED_AFTER, IdForms
from portal.services.upstreams.settings import RULES
from portal.smsc.admission import tls
from tests.services.messages.test_receipt_matching import build, receive, send
from tests.services.upstreams.waiting import add_upstream, queue_messages
from tests.smsc.upstream.smpp_client.tls_carrier import Authority
from tests.support import ROOT

ADD = ("upstream", "add", "carrier", "--host", "smpp.carrier.example", "--system-id", "acme", "--password-stdin")


def test_host_system_id_and_password_are_enough(ok, conn, keys):
    added = ok(*ADD, stdin="secret\nnot this\n")
    assert (added["name"], added["kind"], added["state"], added["default"]) == ("carrier", "smpp", "unbound", True)
    assert (added["settings"]["host"], added["settings"]["port"]) == ("smpp.carrier.example", 2775)
    assert added["settings"].keys() == RULES.keys()
    assert upstreams.get_upstream_password(conn, keys, upstreams.get_upstream(conn, "carrier")) == "secret"
    (listed,) = ok("upstream", "list")
    assert (listed["parts_per_second"], listed["oldest_queued"], listed["delivered_7_days"]) == (0, None, None)
    assert [{name: listed[name] for name in [*listed][:8]}] == [
        {
            "name": "carrier",
            "enabled": True,
            "state": "unbound",
            "queued": 0,
            "kind": "smpp",
            "default": True,
            "binds": [{"kind": "trx", "state": "unbound"}],
            "health": "good",
        }
    ]


def test_everything_that_can_be_set_is_set_and_shown_as_it_is_typed(ok, run_app, tmp_path):
    certificate, key = tls.ensure_certificate(tmp_path, "carrier.example")
    given = {
        "host": "2001:db8::1",
        "port": 3550,
        "tls_ca_file": str(certificate),
        "tls_server_name": "carrier.example",
        "tls_certificate": str(certificate),
        "tls_key": str(key),
        "tls_minimum": "1.3",
        "connect_seconds": 11,
        "second_host": "smpp2.carrier.example",
        "second_port": 2777,
        "enquire_link_seconds": 12,
        "reconnect_seconds": 13,
        "system_id": "acme2",
        "system_type": "VMA",
        "bind": "tx+rx",
        "binds": 2,
        "interface_version": "5.0",
        "address_ton": 1,
        "address_npi": 2,
        "address_range": "^39",
        "bind_seconds": 14,
        "window": 15,
        "throughput": 16,
        "throttle_seconds": 20,
        "response_seconds": 17,
        "unanswered": "fail",
        "failover_seconds": 21,
        "status_map": "0x58=retry, 69=fail:100",
        "source_ton": 3,
        "source_npi": 4,
        "dest_ton": 5,
        "dest_npi": 6,
        "number_format": "plus",
        "charset": "gsm-packed",
        "missing_characters": "fail",
        "other_alphabets": "convert",
        "long_texts": "sar",
        "tlvs": "0x1400=0A0B",
        "pass_tlvs": "0x1401 0x1402",
        "default_validity_seconds": 18,
        "max_validity_seconds": 19,
        "registered_delivery": "failures",
        "message_ids": "hex-to-dec",
        "receipt_id_from": "text",
        "receipt_id_pattern": "ref=(.+)",
        "error_map": "27=6",
        "intermediate_states": "UNKNOWN",
        "receipt_timezone": "Europe/Rome",
        "refund": "refused",
        "receipt_charset": "latin-1",
        "inbound_country": "IT",
    }
    options = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    shown = ok("upstream", "add", "carrier", "--tls", "--no-tls-verify", *options, "--password-stdin", stdin="x")
    assert shown["settings"] == given | {"tls": True, "tls_verify": False}
    assert [each["kind"] for each in shown["binds"]] == ["tx", "rx", "tx", "rx"]
    text = run_app("upstream", "show", "carrier").stdout
    for name, value in (given | {"tls": "yes", "tls_verify": "no"}).items():
        assert re.search(rf"^{name} +{re.escape(str(value))}$", text, re.MULTILINE)
    again = ok("upstream", "change", "carrier", "--source-ton", "auto", "--tls-ca-file", "", "--tls-server-name", "")
    assert (again["settings"]["source_ton"], again["settings"]["tls_ca_file"]) == ("auto", "")
    assert again["settings"]["window"] == 15


def test_a_ca_file_is_found_from_where_the_server_runs(ok, tmp_path, monkeypatch):
    tls.ensure_certificate(tmp_path, "carrier.example")
    monkeypatch.chdir(tmp_path)
    added = ok(*ADD, "--tls", "--tls-ca-file", tls.CERTIFICATE_NAME, stdin="x")
    assert added["settings"]["tls_ca_file"] == str(tmp_path / tls.CERTIFICATE_NAME)
    files = ("--tls-certificate", tls.CERTIFICATE_NAME, "--tls-key", tls.KEY_NAME)
    changed = ok("upstream", "change", "carrier", *files)["settings"]
    assert (changed["tls_certificate"], changed["tls_key"]) == (
        str(tmp_path / tls.CERTIFICATE_NAME),
        str(tmp_path / tls.KEY_NAME),
    )


def test_a_client_certificate_is_checked_when_it_is_given(ok, refused, run_app, tmp_path):
    certificate, key = tls.ensure_certificate(tmp_path, "acme")
    assert "private key: no private key in PEM" in refused(
        *ADD, "--tls", "--tls-certificate", certificate, "--tls-key", certificate, stdin="x"
    )
    assert "of use with tls_certificate alone" in refused(*ADD, "--tls", "--tls-key", key, stdin="x")
    assert "of use with tls alone" in refused(*ADD, "--tls-certificate", certificate, stdin="x")
    ok(*ADD, "--tls", "--tls-certificate", certificate, "--tls-key", key, stdin="x")
    # Once it is there, its files may go: that is told of the connection.
    key.unlink()
    ok("upstream", "change", "carrier", "--window", "20")
    off = ok("upstream", "change", "carrier", "--no-tls", "--password-stdin", stdin="x")["settings"]
    assert (off["tls_certificate"], off["tls_key"], off["tls_minimum"]) == ("", "", "1.2")


def test_a_private_key_that_everybody_can_read_is_warned_of(ok, run_app, tmp_path):
    certificate, key = tls.ensure_certificate(tmp_path, "acme")
    added = run_app(*ADD, "--tls", "--tls-certificate", certificate, "--tls-key", key, stdin="x")
    assert (added.returncode, added.stderr) == (0, "")
    key.chmod(0o644)
    changed = run_app("upstream", "change", "carrier", "--window", "20")
    assert changed.returncode == 0
    assert changed.stderr.startswith(f"Everybody on this machine can read the private key {key} (mode 644)")


def test_the_command_of_the_page_about_carriers_letters_does_what_its_letter_says(ok, tmp_path, monkeypatch):
    authority = Authority(tmp_path)
    authority.ca_file.rename(tmp_path / "telco-root.pem")
    certificate, _ = authority.issue("acme")
    certificate.rename(tmp_path / "acme.pem")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "carriers.md").read_text()
    (command,) = re.findall(r"^app\.py (upstream add (?:.*\\\n)+.*)$", page, re.MULTILINE)
    settings = ok(*shlex.split(command.replace("\\\n", " ")), stdin="x8Kp2mQz")["settings"]
    assert (settings["host"], settings["port"], settings["tls"]) == ("smpp.telco.example", 3550, True)
    assert (settings["tls_server_name"], settings["tls_key"]) == ("sms-gw.telco.example", str(tmp_path / "acme.key"))
    assert (settings["system_id"], settings["bind"], settings["binds"]) == ("acme_mt", "trx", 2)
    assert (settings["window"], settings["throughput"], settings["max_validity_seconds"]) == (20, 50, 48 * 3600)
    assert (settings["number_format"], settings["message_ids"]) == ("plus", "hex-to-dec")


def test_what_is_wrong_is_told_by_its_setting(ok, refused, run_app):
    assert "“0” can't be the value of window. Possible: 1–1000." in refused(*ADD, "--window", "0", stdin="x")
    assert "value of throughput" in refused(*ADD, "--throughput", "fast", stdin="x")
    assert "needs host" in refused("upstream", "add", "carrier", "--system-id", "x", "--password-stdin", stdin="x")
    assert "1 to 8 characters" in refused(*ADD, stdin="123456789")
    assert "1 to 8 characters" in refused(*ADD, stdin="")
    assert "isn't text in utf-8" in refused(*ADD, stdin="p\udce4ss")
    assert run_app(*ADD, "--bind", "rx", stdin="x").returncode == 2
    missing = run_app(*ADD[:-1])
    assert missing.returncode == 2
    assert "--password-stdin" in missing.stderr
    assert run_app("upstream", "add", "sim", "--kind", "simulator", "--password-stdin", stdin="x").returncode == 2
    assert "it has no host" in refused("upstream", "add", "sim", "--kind", "simulator", "--host", "x")
    assert "no upstream “carrier”" in refused("upstream", "show", "carrier")
    assert ok("upstream", "list") == []
    ok(*ADD, stdin="x")
    assert "“carrier”: change that one, or give another name" in refused(*ADD, stdin="x")


def test_a_password_is_changed_without_the_rest(ok, conn, keys):
    ok(*ADD, "--window", "20", stdin="secret")
    changed = ok("upstream", "change", "carrier", "--password-stdin", "--name", "other", stdin="n3w")
    assert (changed["name"], changed["settings"]["window"]) == ("other", 20)
    assert upstreams.get_upstream_password(conn, keys, upstreams.get_upstream(conn, "other")) == "n3w"


def test_disabled_enabled_drained_made_the_default_and_removed(ok, refused, run_app):
    ok(*ADD, stdin="x")
    assert ok("upstream", "add", "sim", "--kind", "simulator", "--refund", "refused")["settings"] == {
        "refund": "refused"
    }
    assert (ok("upstream", "disable", "carrier")["state"], ok("upstream", "list")[0]["enabled"]) == ("disabled", False)
    assert ok("upstream", "enable", "carrier")["enabled"]
    assert ok("upstream", "drain", "carrier")["draining"]
    assert re.search(r"^carrier +smpp +unbound, draining +0/1 +0 +default$", run_app("upstream", "list").stdout, re.M)
    assert "default upstream" in refused("upstream", "remove", "carrier")
    assert ok("upstream", "default", "sim")["default"]
    assert ok("upstream", "remove", "carrier") == {"name": "carrier"}
    assert [each["name"] for each in ok("upstream", "list")] == ["sim"]


def test_one_that_messages_wait_for_is_not_removed(ok, refused, monkeypatch):
    ok(*ADD, stdin="x")
    monkeypatch.setattr(upstreams, "count_waiting_messages", lambda *_: {1: 3})
    monkeypatch.setattr(waiting, "list_waiting", lambda _conn: {1: waiting.WaitingMessages(3, None)})
    assert ok("upstream", "list")[0]["queued"] == 3
    assert "under way to it: 3." in refused("upstream", "remove", "carrier")


def test_a_drained_one_and_a_removed_one_tell_of_receipts_that_have_not_come(ok, run_app, conn, cast):
    ok(*ADD, stdin="x")
    *message_ids, cut_id, begun_id = queue_messages(conn, cast.smpp_acme_1.id, 5)
    conn.execute("DELETE FROM queued_messages")
    conn.execute("UPDATE messages SET upstream = 1, bind = 1")
    # One that was accepted, one whose receipt has come, one that is under way, one that was accepted in two parts, and
    # one of which a part is still to be sent.
    for message_id, upstream_id in zip(message_ids[:2], ("a1", "a2"), strict=True):
        conn.execute("UPDATE messages SET upstream_id = ? WHERE id = ?", (upstream_id, message_id))
    conn.execute("UPDATE messages SET state = 2 WHERE id = ?", (message_ids[1],))
    parts = [AcceptedMessage(1, cut_id, f"p{each}", 1, 1, TextPart(each, 2, "{}")) for each in (1, 2)]
    parts.append(AcceptedMessage(1, begun_id, "p3", 1, 1, TextPart(1, 2, "{}")))
    with write_transaction(conn):
        message_parts.store_accepted_parts(conn, parts)
        message_parts.store_answered_messages(conn, [cut_id])
    assert re.search(r"^without a final receipt +2$", run_app("upstream", "drain", "carrier").stdout, re.M)
    conn.execute("UPDATE messages SET state = 2 WHERE id IN (?, ?)", (message_ids[2], begun_id))
    removed = run_app("upstream", "remove", "carrier")
    assert (removed.returncode, removed.stdout) == (0, "carrier removed\n")
    assert "no final receipt: 2. None will match them any more" in removed.stderr


def test_check_names_a_password_from_before_a_lost_key_until_it_is_entered_anew(ok, run_app, conn):
    ok(*ADD, stdin="x")
    sealed = Keys(b"the key that was lost".ljust(32)).encrypt_column(b"x")
    conn.execute("UPDATE upstreams SET password = ?", (sealed,))
    for options in ((), ("--record",)):
        assert "carrier: its password was sealed under another secret.key" in run_app("check", *options).stdout
    ok("upstream", "change", "carrier", "--password-stdin", stdin="x")
    assert ok("check") == {"ok": True, "problems": []}


def test_where_messages_go_without_an_upstream_is_said(run_app, ok):
    assert "go to the built-in simulator" in run_app("upstream", "list").stdout
    ok(*ADD, stdin="x")
    ok("upstream", "remove", "carrier")
    assert "messages wait" in run_app("upstream", "list").stdout


def test_what_the_server_has_recorded_is_shown(ok, run_app, conn):
    ok(*ADD, "--binds", "2", stdin="x")
    session_records.record_component_heartbeat(conn, "smsc", 0)
    binds.record_bind_states(
        conn,
        1,
        [
            BindState(1, "trx", "bound", 1_700_000_000_000),
            BindState(2, "trx", "refused", 0, "wrong password", 14, 1_700_000_005_000),
        ],
    )
    counters.add_to_counters(conn, 1, {"submitted": 7})
    assert ok("upstream", "list")[0]["state"] == "partly"
    shown = ok("upstream", "show", "carrier")
    assert shown["binds"] == [
        {
            "number": 1,
            "kind": "trx",
            "state": "bound",
            "since": "2023-11-14T22:13:20Z",
            "error": "",
            "status": 0,
            "host": "",
            "next_attempt": None,
        },
        {
            "number": 2,
            "kind": "trx",
            "state": "refused",
            "since": None,
            "error": "wrong password",
            "status": 14,
            "host": "",
            "next_attempt": "2023-11-14T22:13:25Z",
        },
    ]
    assert shown["counters"]["submitted"] == 7
    text = run_app("upstream", "show", "carrier").stdout
    assert re.search(r"^bind 1 +trx  bound  since 2023-11-14T22:13:20", text, re.M)
    assert re.search(r"^bind 2 +trx  refused  wrong password  next attempt at 2023-11-14T22:13:25Z$", text, re.M)
    assert re.search(r"^submitted +7$", text, re.M)


def test_the_list_says_why_one_is_not_bound_and_that_no_server_runs(ok, run_app, conn):
    ok(*ADD, stdin="x")
    listed = run_app("upstream", "list").stdout.splitlines()
    assert listed[-1] == "The SMPP server isn't running: nothing is bound."
    assert re.search(
        r"^state +unbound \(the SMPP server isn't running\)$", run_app("upstream", "show", "carrier").stdout, re.M
    )
    session_records.record_component_heartbeat(conn, "smsc", 0)
    why = "no connection to smpp.carrier.example port 2775: its certificate has expired"
    binds.record_bind_states(conn, 1, [BindState(1, "trx", "unbound", 0, why, 0, 1_700_000_000_000)])
    assert run_app("upstream", "list").stdout.splitlines()[-1] == f"carrier: {why}"
    assert re.search(r"^state +unbound$", run_app("upstream", "show", "carrier").stdout, re.M)


def test_after_a_change_the_state_of_before_is_not_told(ok, run_app, conn):
    ok(*ADD, stdin="x")
    session_records.record_component_heartbeat(conn, "smsc", 0)
    binds.record_bind_states(conn, 1, [BindState(1, "trx", "bound", 1_700_000_000_000)])
    for command, state in (
        (("change", "carrier", "--window", "20"), "pending"),
        (("disable", "carrier"), "disabled"),
        (("enable", "carrier"), "pending"),
        (("drain", "carrier"), "pending"),
    ):
        told = ok("upstream", *command)
        assert (told["state"], told["binds"][0]["state"], told["binds"][0]["since"]) == (state, "pending", None)
        assert ok("upstream", "show", "carrier")["binds"][0]["state"] == "bound"
    text = run_app("upstream", "enable", "carrier").stdout
    assert re.search(r"^state +pending: the server takes the change over$", text, re.M)
    # What changes nothing leaves the state as it is.
    assert ok("upstream", "enable", "carrier")["state"] == "bound"
    assert ok("upstream", "change", "carrier", "--window", "20")["state"] == "bound"


def test_people_are_told_what_a_change_has_changed_and_what_came_of_it(run_app, ok, config):
    def tell(*command: str, stdin: str = "") -> list[str]:
        lines = run_app("upstream", *command, stdin=stdin).stdout.splitlines()
        assert lines.pop().endswith(f" app.py upstream show carrier --data {config.data}")
        return [" ".join(each.split()) for each in lines]

    state = "state unbound (the SMPP server isn't running)"
    assert tell(*ADD[1:], "--window", "20", stdin="x") == [
        "name carrier",
        "host smpp.carrier.example",
        "system_id acme",
        "window 20",
        state,
        "default yes",
    ]
    ok("upstream", "add", "other", "--host", "h", "--system-id", "s", "--password-stdin", stdin="x")
    ok("upstream", "default", "other")
    assert tell("change", "carrier", "--window", "30", "--system-type", "VMA", "--password-stdin", stdin="y") == [
        "name carrier",
        "system_type VMA, before (empty)",
        "window 30, before 20",
        "password changed",
        state,
    ]
    disabled = state.replace("unbound", "disabled")
    assert tell("drain", "carrier") == ["name carrier", state.replace("unbound", "unbound, draining")]
    assert tell("enable", "carrier") == ["name carrier", state]
    assert tell("disable", "carrier") == ["name carrier", disabled]
    assert tell("default", "carrier") == [
        "name carrier",
        disabled,
        "default yes",
    ]


def test_a_charset_without_the_euro_sign_is_said_to_make_more_parts(run_app, ok):
    told = "Texts with a character that latin-1 lacks, such as the euro sign, go out in UCS-2"
    assert told in run_app(*ADD, "--charset", "latin-1", stdin="x").stdout
    assert told not in run_app("upstream", "change", "carrier", "--window", "20").stdout
    assert told not in run_app("upstream", "change", "carrier", "--missing-characters", "replace").stdout
    assert told in run_app("upstream", "change", "carrier", "--missing-characters", "ucs2").stdout
    assert told not in run_app("upstream", "change", "carrier", "--charset", "utf-8").stdout


def test_the_help_has_the_options_in_the_groups_of_a_carriers_letter(run_app):
    text = run_app("upstream", "change", "--help").stdout
    headings = re.findall(r"^(\w+):$", text, re.MULTILINE)
    assert headings == ["Connection", "Bind", "Limits", "Text", "Receipts", "Inbound", "Options", "Example"]
    connection, bind = text.split("Connection:")[1].split("Bind:")
    assert "--tls-ca-file" in connection
    assert re.search(r"--system-id.*\n +--password-stdin", bind)


def test_receipts_that_belong_to_no_message_are_listed_with_what_was_tried(ok, refused, run_app, conn):
    ok("upstream", "add", "sim", "--kind", "simulator")
    assert ok("upstream", "unmatched") == []
    for number, text in enumerate(("id:ab12 stat:DELIVRD", "id:ab13 stat:EXPIRED")):
        conn.execute(
            "INSERT INTO unmatched_receipts (upstream, received_at, message_id, source, destination, ptt, status, text,"
            " tried) VALUES (1, ?, '', '393331234567', 'ACME', 0, 'stat:DELIVRD err:000', ?, ?)",
            (1_800_000_000_000 + number, text, f"ab1{number + 2}, 4379{number}"),
        )
    newest, _ = ok("upstream", "unmatched", "sim")
    assert (newest["upstream"], newest["tried"], newest["text"]) == ("sim", "ab13, 43791", "id:ab13 stat:EXPIRED")
    assert len(ok("upstream", "unmatched", "--limit", "1")) == 1
    assert "larger number" in refused("upstream", "unmatched", "--limit", 1 << 63)
    assert "393331234567" in run_app("upstream", "unmatched", "SIM").stdout
    assert run_app("upstream", "unmatched", "other").returncode == 1


def test_receipts_that_belong_to_no_message_are_listed_with_the_likely_setting(run_app, ok, conn, cast, keys):
    add_upstream(conn, keys, receipt_id_from="tlv")
    numbers = range(0xAB00, 0xAB10)
    send(conn, cast.smpp_acme_1.id, [f"{each:x}" for each in numbers])
    receive(conn, *(build("7", source="", destination="", text=f"ref={each} stat:DELIVRD") for each in numbers))
    words = (
        "carrier: of the last 16 receipts 16 ids match when the id is what follows “ref=” in the receipt's text, when"
        " those of submit_sm_resp are read as hexadecimal, and those of receipts as decimal. Set it: "
    )
    line = run_app("upstream", "unmatched").stdout.splitlines()[-1]
    assert line.startswith(words)
    options = "--receipt-id-from both --receipt-id-pattern 'ref=([0-9A-Za-z-]+)' --message-ids hex-to-dec"
    assert f"upstream change carrier {options}" in line
    # The command that it says does what it says.
    ok(*shlex.split(line.removeprefix(words))[1:])
    assert kept_receipts.list_upstreams_to_retry(conn)
    # Scripts get the rows alone.
    assert len(ok("upstream", "unmatched")) == 16


def test_how_an_upstream_does_is_shown(ok, run_app, conn):
    ok(*ADD, "--second-host", "smpp2.carrier.example", stdin="x")
    assert (ok("upstream", "list")[0]["health"], ok("upstream", "show", "carrier")["health_reason"]) == ("good", "")
    session_records.record_component_heartbeat(conn, "smsc", 0)
    binds.record_bind_states(conn, 1, [BindState(1, "trx", "bound", 1, host="smpp2.carrier.example:2775")])
    health.record_health(conn, 1, UpstreamHealth("failing", 1_700_000_000_000, "it answers nothing"))
    assert ok("upstream", "list")[0]["health"] == "failing"
    shown = ok("upstream", "show", "carrier")
    assert (shown["health"], shown["health_reason"]) == ("failing", "it answers nothing")
    assert shown["binds"][0]["host"] == "smpp2.carrier.example:2775"
    assert re.search(r"^carrier +smpp +bound, failing +1/1 ", run_app("upstream", "list").stdout, re.M)
    text = run_app("upstream", "show", "carrier").stdout
    assert re.search(r"^health +failing  since 2023-11-14.* it answers nothing$", text, re.M)
    assert re.search(r"^bind 1 .* smpp2\.carrier\.example:2775$", text, re.M)


def test_what_waits_is_told_by_the_upstreams_that_may_take_it(ok, run_app, conn):
    ok(*ADD, stdin="x")
    ok("upstream", "add", "second", *ADD[3:], stdin="x")
    conn.execute("INSERT INTO queue_paths VALUES (1, '2,1', 2)")
    conn.executemany("INSERT INTO queued_messages VALUES (?, 1, 3, ?)", [(0, 1), (1, 2), (1, 3)])
    shown = ok("upstream", "show", "carrier")
    assert shown["queued"] == 1
    assert shown["waiting"] == [
        {"upstreams": ["carrier"], "queued": 1},
        {"upstreams": ["second", "carrier"], "queued": 2},
    ]
    assert [each["queued"] for each in ok("upstream", "list")] == [1, 2]
    assert re.search(r"^queued for second, carrier +2$", run_app("upstream", "show", "carrier").stdout, re.M)


def test_a_second_port_needs_its_host(ok, refused):
    assert "second_port is of use with second_host alone" in refused(*ADD, "--second-port", "2776", stdin="x")
    shown = ok(*ADD, "--second-host", "smpp2.carrier.example", "--second-port", "2776", stdin="x")
    assert shown["settings"]["second_port"] == 2776
    assert "enter it again for another host or port" in refused(
        "upstream", "change", "carrier", "--second-port", "same"
    )
    shown = ok("upstream", "change", "carrier", "--second-port", "same", "--password-stdin", stdin="x")
    assert shown["settings"]["second_port"] == "same"
    assert "can't be the value of second_host" in refused("upstream", "change", "carrier", "--second-host", "a b")


def test_messages_that_no_account_takes_are_listed(ok, run_app, conn):
    ok("upstream", "add", "sim", "--kind", "simulator")
    assert ok("upstream", "unowned") == []
    for upstream_id, text in ((None, "simulated"), (1, "first\nline"), (1, "second")):
        at = 1_800_000_000_000
        message = (at, upstream_id, "393331234567", "48480", text)
        unclaimed.keep_unowned_messages(conn, [message])
    newest, _ = ok("upstream", "unowned", "sim")
    assert newest == {
        "received_at": "2027-01-15T08:00:00Z",
        "upstream": "sim",
        "source": "393331234567",
        "destination": "48480",
        "text": "second",
    }
    assert [each["upstream"] for each in ok("upstream", "unowned")] == ["sim", "sim", ""]
    assert len(ok("upstream", "unowned", "--limit", "1")) == 1
    assert "first\\x0aline" in run_app("upstream", "unowned", "SIM").stdout
    assert run_app("upstream", "unowned", "other").returncode == 1


def test_the_form_of_ids_that_was_learned_is_shown(ok, run_app, conn):
    ok(*ADD, stdin="x")
    message_ids.save_id_forms(conn, 1, IdForms("auto", "hex-to-dec", LEARNED_AFTER - 1))
    assert ok("upstream", "show", "carrier")["learned_ids"] == ""
    message_ids.save_id_forms(conn, 1, IdForms("auto", "hex-to-dec", LEARNED_AFTER))
    assert ok("upstream", "show", "carrier")["learned_ids"] == "hex-to-dec"
    assert re.search(
        r"^ids in receipts +hex-to-dec, as was learned$", run_app("upstream", "show", "carrier").stdout, re.M
    )
    assert ok("upstream", "change", "carrier", "--message-ids", "as-is")["learned_ids"] == ""


def test_a_map_that_is_wrong_is_refused_with_its_entry(refused):
    assert "“0x58=wait” can't stand in status_map." in refused(*ADD, "--status-map", "8=retry,0x58=wait", stdin="x")
    assert "“27” can't stand in error_map." in refused(*ADD, "--error-map", "27", stdin="x")
    assert "ref=([0-9A-F]+)" in refused(*ADD, "--receipt-id-pattern", "(a+)+", stdin="x")
