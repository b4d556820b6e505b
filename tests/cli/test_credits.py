"""`credits …`, as users and scripts run it."""

from tests.web import acting


def test_credits(ok, refused):
    assert ok("credits", "show", "smpp-acme-1") == {"account": "smpp-acme-1", "balance": 1000}
    assert ok("credits", "grant", "smpp-acme-1", "0.5") == {"account": "smpp-acme-1", "balance": 1000.5}
    assert ok("credits", "transfer", "smpp-acme-1", "sms-acme-1", "100") == {
        "from": {"account": "smpp-acme-1", "balance": 900.5},
        "to": {"account": "sms-acme-1", "balance": 150},
    }
    assert "don't cover" in refused("credits", "transfer", "smpp-acme-1", "sms-acme-1", "901")
    assert "same customer" in refused("credits", "transfer", "smpp-acme-1", "smpp-globex-1", "1")
    assert "isn't an amount" in refused("credits", "grant", "smpp-acme-1", "-5")


def test_credits_that_run_out(ok, refused, run_app):
    assert ok("credits", "grant", "smpp-acme-1", "50", "--until", "2060-12-31", "--note", "Welcome")["balance"] == 1050
    assert ok("credits", "show", "smpp-acme-1") == {
        "account": "smpp-acme-1",
        "balance": 1050,
        "expiring": [{"amount": 50, "expires_at": "2061-01-01T00:00:00Z"}],
    }
    assert "50 of them run out at 2061-01-01" in run_app("credits", "show", "smpp-acme-1").stdout
    assert "isn't a date" in refused("credits", "grant", "smpp-acme-1", "50", "--until", "31.12.2060")
    assert "today at the earliest" in refused("credits", "grant", "smpp-acme-1", "50", "--until", "2020-01-01")


def test_corrections_and_refunds(ok, refused, run_app):
    assert ok("credits", "correct", "smpp-acme-1", "-0.5", "--reason", "counted twice")["balance"] == 999.5
    assert ok("credits", "correct", "smpp-acme-1", "+0.5", "--reason", "it was right")["balance"] == 1000
    assert ok("credits", "refund", "smpp-acme-1", "10", "--reason", "Ticket 4711")["balance"] == 1010
    assert "don't cover" in refused("credits", "correct", "smpp-acme-1", "-1010.001", "--reason", "x")
    assert "Say why" in refused("credits", "refund", "smpp-acme-1", "10", "--reason", " ")
    for args in (
        ("correct", "smpp-acme-1", "5"),
        ("refund", "smpp-acme-1", "5"),
        ("refund", "smpp-acme-1", "--reason", "x"),
    ):
        assert run_app("credits", *args).returncode == 2
    assert ok("check")["ok"]


def test_what_a_message_cost_is_refunded(ok, refused, conn):
    message_id, other = acting.send_texts(conn, "smpp-acme-1", "x" * 200, "hello")
    assert "on its way" in refused("credits", "refund", "smpp-acme-1", "--message", message_id, "--reason", "x")
    acting.deliver_messages(conn, message_id, other)
    assert "cost 3" in refused("credits", "refund", "smpp-acme-1", "2", "--message", message_id, "--reason", "x")
    refund = ("credits", "refund", "smpp-acme-1", "--message", message_id, "--reason", "Route down")
    assert ok(*refund) == {"account": "smpp-acme-1", "balance": 999}
    assert "given back already" in refused(*refund)
    assert ok("credits", "refund", "smpp-acme-1", "1", "--message", other, "--reason", "x")["balance"] == 1000
    assert "isn't in the history" in refused("credits", "refund", "sms-acme-1", "--message", other, "--reason", "x")
    assert ok("check")["ok"]
