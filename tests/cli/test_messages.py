"""`number …`, `blacklist …` and `simulate …`, as users and scripts run them."""

import re

from portal.services.messages import blacklist
from tests.support import wait_until


def test_numbers_are_added_listed_and_removed(ok, refused):
    added = ok("number", "add", "smpp-acme-1", "+48484", "--keyword", "info")
    assert added == {"number": "48484", "keyword": "INFO"}
    assert ok("number", "list", "smpp-acme-1") == [added]
    assert refused("number", "add", "smpp-globex-1", "48484", "--keyword", "INFO").startswith(
        "What is sent to 48484 INFO reaches smpp-acme-1 already."
    )
    assert refused("number", "remove", "smpp-acme-1", "48484") == "48484 isn't in the list.\n"
    assert ok("number", "remove", "smpp-acme-1", "48484", "--keyword", "info") == added
    assert ok("number", "list", "smpp-acme-1") == []


def test_a_blacklist_is_added_to_listed_and_taken_from(ok, refused):
    added = ok("blacklist", "add", "smpp-acme-1", "+393337654321")
    assert (added["number"], added["reason"]) == ("393337654321", "by hand")
    assert ok("blacklist", "list", "smpp-acme-1") == [added]
    assert ok("blacklist", "remove", "smpp-acme-1", "393337654321") == added
    assert refused("blacklist", "remove", "smpp-acme-1", "393337654321") == "393337654321 isn't on the blacklist.\n"


def test_a_blacklist_is_exported_and_imported(ok, refused, run_app, tmp_path):
    ok("blacklist", "add", "smpp-acme-1", "+393337654321")
    exported = run_app("blacklist", "export", "smpp-acme-1").stdout
    assert re.fullmatch(
        r"number;since;reason;added_by;message\n393337654321;\d{4}-\d\d-\d\dT[\d:]+Z;by hand;shell;\n", exported
    )
    file = tmp_path / "numbers.csv"
    file.write_text(exported + "+39 333 765 4322\n")
    counted = {"added": 2, "known": 0}
    assert ok("blacklist", "import", "smpp-acme-2", str(file), "--dry-run") == counted
    assert ok("blacklist", "list", "smpp-acme-2") == []
    assert ok("blacklist", "import", "smpp-acme-2", str(file)) == counted
    assert ok("blacklist", "import", "smpp-acme-2", str(file)) == {"added": 0, "known": 2}
    assert [each["number"] for each in ok("blacklist", "list", "smpp-acme-2")] == ["393337654321", "393337654322"]
    file.write_text("393337654323\nx\n")
    assert refused("blacklist", "import", "smpp-acme-2", str(file)) == (
        "Nothing was imported: 1 line can't be read."
        " Line 2: “x” is no phone number: digits with the country code first (393401234567).\n"
    )
    assert len(ok("blacklist", "list", "smpp-acme-2")) == 2


def test_a_sender_that_is_no_number_is_listed_and_exported(ok, run_app, conn):
    (account_id,) = conn.execute("SELECT id FROM accounts WHERE name = 'smpp-acme-1'").fetchone()
    blacklist.blacklist_stop_senders(conn, [(account_id, "ACME", 0, 4711)])
    assert [(each["number"], each["reason"]) for each in ok("blacklist", "list", "smpp-acme-1")] == [("ACME", "STOP")]
    exported = run_app("blacklist", "export", "smpp-acme-1").stdout
    assert exported == "number;since;reason;added_by;message\nACME;1970-01-01T00:00:00Z;STOP;;4711\n"


def test_a_message_from_a_handset_is_simulated(ok, refused, run_app):
    mo = ("simulate", "mo", "--from", "+393337654321", "--to", "48484")
    assert refused(*mo, "hello").startswith("What is sent to 48484 reaches no account.")
    ok("number", "add", "smpp-acme-1", "48484")
    assert ok(*mo, "hello") == {"accounts": ["smpp-acme-1"], "keyword": "", "stop": False, "running": False}
    result = run_app(*mo, "stop")
    assert result.returncode == 0
    assert "For smpp-acme-1." in result.stdout
    assert "+393337654321 goes on the blacklist of smpp-acme-1." in result.stdout
    assert "The SMPP server isn't running: it takes the message when it starts." in result.stdout


def test_the_text_of_a_simulated_message_is_what_was_typed(ok, conn):
    ok("number", "add", "smpp-acme-1", "48484")
    text = "\u202bשלום\u202c\u00a0\u200b"
    ok("simulate", "mo", "--from", "+393337654321\u200b", "--to", "\u202a48484\u202c", text)
    assert [tuple(row) for row in conn.execute("SELECT source, destination, text FROM simulated")] == [
        ("393337654321", "48484", text)
    ]


def test_a_simulated_message_is_taken_by_the_server_that_runs(ok, server):
    ok("number", "add", "smpp-acme-1", "48484")
    assert ok("simulate", "mo", "--from", "393337654321", "--to", "48484", "ARRET")["running"]
    conn = server.connect()
    assert wait_until(lambda: [row[0] for row in conn.execute("SELECT text FROM received")]) == ["ARRET"]
    conn.close()
    assert [each["reason"] for each in ok("blacklist", "list", "smpp-acme-1")] == ["STOP"]
