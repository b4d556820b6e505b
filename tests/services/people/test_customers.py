import pytest

from portal.services.common.audit import SHELL
from portal.services.people import customers


def test_a_customer_is_found_by_its_name_however_written(conn, cast):
    assert customers.get_customer(conn, "aCmE").id == cast.acme
    assert customers.get_customer_by_id(conn, cast.acme).name == "Acme"
    with pytest.raises(customers.NoSuchCustomer):
        customers.get_customer(conn, "Initech")
    with pytest.raises(customers.NoSuchCustomer):
        customers.get_customer_by_id(conn, 4711)


def test_a_name_is_given_once(conn):
    with pytest.raises(customers.CustomerExists):
        customers.create_customer(conn, SHELL, " acme ", "x@acme.example")


def test_a_name_is_needed(conn):
    with pytest.raises(customers.CustomerNameMissing):
        customers.create_customer(conn, SHELL, "  ", "x@acme.example")


def test_the_list_is_sorted(conn):
    customers.create_customer(conn, SHELL, "beta", "x@beta.example")
    assert [each.name for each in customers.list_all_customers(conn)] == ["Acme", "beta", "Globex"]


@pytest.mark.parametrize(
    ("email", "masked"),
    [("marta@acme.example", "m•••a@acme.example"), ("ab@x.y", "a•••@x.y"), ("a@x.y", "a•••@x.y")],
)
def test_an_address_is_masked_so_that_its_owner_knows_it(email, masked):
    assert customers.mask_email(email) == masked
