import pytest

from portal.core.db import Connection
from portal.services.accounts.accounts import Account
from portal.services.common.audit import SHELL
from portal.services.messages import inbound_numbers
from tests.services.audit_log import list_audit_entries


def listed(conn: Connection, account: Account) -> list[str]:
    return [str(each) for each in inbound_numbers.list_inbound_numbers(conn, account.id)]


@pytest.mark.parametrize("number", ["123", "12345678", "393401234567", "+393401234567", " 48484 "])
def test_numbers(conn, acme_1, number):
    assert inbound_numbers.add_inbound_number(conn, SHELL, acme_1, number).number == number.strip().removeprefix("+")


def test_a_00_in_front_of_a_country_code_is_no_part_of_the_number(conn, acme_1):
    assert inbound_numbers.add_inbound_number(conn, SHELL, acme_1, "00393401234567").number == "393401234567"
    assert inbound_numbers.remove_inbound_number(conn, SHELL, acme_1, "00393401234567").number == "393401234567"
    assert inbound_numbers.add_inbound_number(conn, SHELL, acme_1, "00484").number == "00484"


@pytest.mark.parametrize(
    "number", ["", "12", "0123456789", "1234567890123456", "ACME", "48 484", "٤٨٤٨٤", "48484\n48485"]
)
def test_what_is_no_number(conn, acme_1, number):
    with pytest.raises(inbound_numbers.InvalidInboundNumber):
        inbound_numbers.add_inbound_number(conn, SHELL, acme_1, number)


@pytest.mark.parametrize(
    ("keyword", "stored"),
    [("info", "INFO"), (" Info ", "INFO"), ("caffè", "CAFFE"), ("24h", "24H"), ("Πάμε", "ΠΑΜΕ"), (" ", "")],
)
def test_keywords_are_kept_as_they_are_compared(conn, acme_1, keyword, stored):
    assert inbound_numbers.add_inbound_number(conn, SHELL, acme_1, "48484", keyword).keyword == stored


@pytest.mark.parametrize("keyword", ["two words", "a-b", "!", "x" * 21, "_"])
def test_what_is_no_keyword(conn, acme_1, keyword):
    with pytest.raises(inbound_numbers.InvalidKeyword):
        inbound_numbers.add_inbound_number(conn, SHELL, acme_1, "48484", keyword)


@pytest.mark.parametrize("keyword", ["STOP", "stop", "Arrêt", "sms", "StopSMS"])
def test_a_stop_is_no_keyword(conn, acme_1, keyword):
    with pytest.raises(inbound_numbers.ReservedKeyword):
        inbound_numbers.add_inbound_number(conn, SHELL, acme_1, "48484", keyword)


def test_a_number_with_its_keyword_is_one_account_s(conn, acme_1, globex_1):
    inbound_numbers.add_inbound_number(conn, SHELL, acme_1, "48484", "info")
    for account in (acme_1, globex_1):
        with pytest.raises(inbound_numbers.InboundNumberTaken) as refusal:
            inbound_numbers.add_inbound_number(conn, SHELL, account, "+48484", "ÍNFO")
        assert str(refusal.value) == "What is sent to 48484 INFO reaches smpp-acme-1 already."
    inbound_numbers.add_inbound_number(conn, SHELL, globex_1, "48484")
    inbound_numbers.add_inbound_number(conn, SHELL, globex_1, "48484", "help")
    assert (listed(conn, acme_1), listed(conn, globex_1)) == (["48484 INFO"], ["48484", "48484 HELP"])
    assert inbound_numbers.get_accounts_by_keyword(conn, "48484") == {
        "INFO": acme_1.id,
        "": globex_1.id,
        "HELP": globex_1.id,
    }


def test_only_its_own_account_s_is_removed(conn, acme_1, globex_1):
    inbound_numbers.add_inbound_number(conn, SHELL, acme_1, "48484", "info")
    for account, number, keyword in ((globex_1, "48484", "info"), (acme_1, "48484", ""), (acme_1, "48485", "info")):
        with pytest.raises(inbound_numbers.NoSuchInboundNumber):
            inbound_numbers.remove_inbound_number(conn, SHELL, account, number, keyword)
    assert inbound_numbers.remove_inbound_number(conn, SHELL, acme_1, "+48484", "Info").keyword == "INFO"
    assert listed(conn, acme_1) == []


def test_both_are_in_the_audit_log(conn, acme_1):
    inbound_numbers.add_inbound_number(conn, SHELL, acme_1, "48484", "info")
    inbound_numbers.remove_inbound_number(conn, SHELL, acme_1, "48484", "info")
    logged = [(each.action, each.details) for each in list_audit_entries(conn, acme_1.id, 2)]
    assert logged == [
        ("number.remove", {"number": "48484", "keyword": "INFO"}),
        ("number.add", {"number": "48484", "keyword": "INFO"}),
    ]
