"""`sender …`, as users and scripts run it."""

from tests.clamd import EICAR, Clamd
from tests.documents import PDF, create_png


def test_senders(ok, refused, run_app):
    added = ok("sender", "add", "smpp-acme-1", "SHOP", "--description", "Web shop")
    assert (added["sender"], added["status"]) == ("SHOP", "waitingValidation")
    assert "Waiting for a decision" in run_app("sender", "list", "smpp-acme-1").stdout
    assert ok("sender", "approve", "smpp-acme-1", "SHOP")["status"] == "enable"
    assert ok("sender", "refuse", "smpp-acme-1", "SHOP", "--comment", "no")["comment"] == "no"
    assert ok("sender", "add", "smpp-acme-1", "+393401234567", "--approve")["status"] == "enable"
    assert [each["sender"] for each in ok("sender", "list", "smpp-acme-1")] == ["393401234567", "SHOP", "ACME"]
    for spelling in ("+393401234567", "00393401234567"):
        assert ok("sender", "approve", "smpp-acme-1", spelling)["sender"] == "393401234567"
    assert "isn't in the list" in refused("sender", "approve", "smpp-acme-1", "OTHER")


def test_a_sender_is_disabled_enabled_and_removed(ok, refused):
    assert ok("sender", "disable", "smpp-acme-1", "ACME")["status"] == "disable"
    assert ok("sender", "enable", "smpp-acme-1", "ACME")["status"] == "enable"
    ok("sender", "add", "smpp-acme-1", "SHOP")
    assert "has not been approved" in refused("sender", "enable", "smpp-acme-1", "SHOP")
    assert ok("sender", "remove", "smpp-acme-1", "SHOP")["sender"] == "SHOP"
    assert [each["sender"] for each in ok("sender", "list", "smpp-acme-1")] == ["ACME"]
    assert "isn't in the list" in refused("sender", "remove", "smpp-acme-1", "SHOP")


def test_a_sender_s_document(ok, refused, tmp_path, conn):
    paper, copy = tmp_path / "paper", tmp_path / "copy.pdf"
    paper.write_bytes(PDF)
    added = ok("sender", "add", "smpp-acme-1", "SHOP", "--reason", "Orders", "--document", paper)
    assert (added["document"], added["reason"]) == ("pdf", "Orders")
    assert ok("sender", "document", "smpp-acme-1", "SHOP", copy) == {"sender": "SHOP", "type": "pdf", "size": len(PDF)}
    assert copy.read_bytes() == PDF
    assert "File exists" in refused("sender", "document", "smpp-acme-1", "SHOP", copy)
    assert "has no document" in refused("sender", "document", "smpp-acme-1", "ACME", tmp_path / "other")
    paper.write_bytes(b"")
    assert "isn't a PDF" in refused("sender", "add", "smpp-acme-1", "NEWS", "--document", paper)
    assert "No such file" in refused("sender", "add", "smpp-acme-1", "NEWS", "--document", tmp_path / "none")


def test_a_document_is_scanned(ok, refused, data, tmp_path):
    paper = tmp_path / "paper"
    paper.write_bytes(PDF + EICAR)
    with Clamd().listening() as clamd:
        (data / "config.toml").write_text(f'[documents]\nclamd = "{clamd.address}"\n')
        for approval in ([], ["--approve"]):
            told = refused("sender", "add", "smpp-acme-1", "SHOP", "--document", paper, *approval)
            assert "has found Eicar-Test-Signature" in told
        paper.write_bytes(PDF)
        assert ok("sender", "add", "smpp-acme-1", "SHOP", "--document", paper)["document"] == "pdf"
        assert clamd.received == [PDF + EICAR, PDF + EICAR, PDF]
    assert [each["sender"] for each in ok("sender", "list", "smpp-acme-1")] == ["SHOP", "ACME"]


def test_decisions_in_the_shell_are_told_to_the_customer(ok, conn):
    def recipients() -> list[str]:
        return [row[0] for row in conn.execute("SELECT recipient FROM mails ORDER BY id")]

    ok("sender", "add", "smpp-acme-1", "NEWS", "--approve")
    assert recipients() == [], "nobody has asked"
    ok("sender", "add", "smpp-acme-1", "SHOP")
    ok("sender", "refuse", "smpp-acme-1", "SHOP")
    assert recipients() == ["olga@portal.example", "marta@acme.example"]


def test_documents_are_in_the_backup(ok, run_app, data, tmp_path):
    paper, copy = tmp_path / "paper", tmp_path / "copy"
    paper.write_bytes(create_png(padding=400_000))
    ok("sender", "add", "smpp-acme-1", "SHOP", "--document", paper)
    assert run_app("backup", tmp_path / "backup.db").returncode == 0
    ok("sender", "remove", "smpp-acme-1", "SHOP")
    assert run_app("restore", tmp_path / "backup.db").returncode == 0
    ok("sender", "document", "smpp-acme-1", "SHOP", copy)
    assert copy.read_bytes() == paper.read_bytes()
