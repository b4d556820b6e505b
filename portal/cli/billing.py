"""`pack …` and `order …`: what is sold, and what was bought."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace

from portal.cli.shell import Answer, Commands, Shell, database_command, group, iso, pairs, table
from portal.core import i18n
from portal.core.db import immediate
from portal.services.accounts import accounts
from portal.services.billing import orders, packs, purchases
from portal.services.billing.orders import Order, Which
from portal.services.billing.packs import Pack
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL
from portal.services.people import customers


def register(commands: "Commands[ArgumentParser]") -> None:
    order = group(commands, "order", "orders of credits")
    several = database_command(order, "list", _list, "list them, the newest first")
    several.add_argument("--account", metavar="NAME", help="of one account")
    several.add_argument("--customer", metavar="NAME", help="of one customer")
    several.add_argument("--status", choices=orders.STATUSES)
    for name, run, help in (
        ("show", _show, "show one"),
        ("pay", _pay, "mark one as paid: its credits arrive, and the customer gets a mail"),
        ("cancel", _cancel, "close one that won't be paid"),
    ):
        one = database_command(order, name, run, help)
        one.add_argument("number", metavar="NUMBER", help="such as 2026-00042")
        if name == "pay":
            one.add_argument("--note", default="", metavar="T", help="how it was paid; the customer sees it")

    pack = group(commands, "pack", "what credits cost")
    database_command(pack, "list", _list_packs, "list what is sold")
    change = database_command(pack, "set", _set_packs, "sell packs for these prices; the others stay")
    change.add_argument("packs", nargs="+", type=_pair, metavar="CREDITS=PRICE", help="such as 1000=60.00")
    change.add_argument("--currency", metavar="CODE", help="of ISO 4217; one for all packs (default: theirs)")
    remove = database_command(pack, "remove", _remove_packs, "sell packs no more")
    remove.add_argument("sizes", nargs="+", metavar="CREDITS")


# --- order


def _list(shell: Shell, args: Namespace) -> Answer:
    which = Which(
        account_id=accounts.by_name(shell.conn, args.account).id if args.account else None,
        customer_id=customers.by_name(shell.conn, args.customer).id if args.customer else None,
        status=args.status,
    )
    rows = [_order(each) for each in orders.each(shell.conn, which)]
    head = ("order", "created", "customer", "account", "credits", "price", "currency", "status")
    return Answer(rows, table(head, [[row[column] for column in head] for row in rows]))


def _show(shell: Shell, args: Namespace) -> Answer:
    return _shown(orders.by_number(shell.conn, args.number))


def _pay(shell: Shell, args: Namespace) -> Answer:
    order = orders.by_number(shell.conn, args.number)
    return _shown(purchases.pay(shell.conn, shell.keys, SHELL, order, args.note))


def _cancel(shell: Shell, args: Namespace) -> Answer:
    return _shown(orders.cancel(shell.conn, SHELL, orders.by_number(shell.conn, args.number)))


def _shown(order: Order) -> Answer:
    values = _order(order)
    return Answer(values, pairs(values | {"credits_arrived": "yes" if order.credited else "no"}))


def _order(order: Order) -> dict[str, object]:
    return {
        "order": order.number,
        "created": iso(order.created_at),
        "created_by": order.created_by,
        "customer": order.customer,
        "account": order.account,
        "origin": order.origin,
        "credits": credit_amounts.plain(order.credits),
        "price": i18n.exact_money(order.price, order.currency),
        "currency": order.currency,
        "status": order.status,
        "credits_arrived": order.credited,
        "paid": iso(order.paid_at),
        "paid_by": order.paid_by,
        "payment": order.payment,
        "cancelled": iso(order.cancelled_at),
        "cancelled_by": order.cancelled_by,
    }


# --- pack


def _pair(text: str) -> tuple[str, str]:
    size, equals, price = text.partition("=")
    if not equals:
        raise ArgumentTypeError(f"{text!r} is not CREDITS=PRICE, like 1000=60.00")
    return size, price


def _list_packs(shell: Shell, args: Namespace) -> Answer:
    return _packs(packs.everyone(shell.conn))


def _set_packs(shell: Shell, args: Namespace) -> Answer:
    with immediate(shell.conn):
        sold = {each.credits: each for each in packs.everyone(shell.conn)}
        used = next((each.currency for each in sold.values()), "")
        currency = packs.parse_currency(used if args.currency is None else args.currency)
        for size, price in args.packs:
            thousandths = credit_amounts.parse(size)
            sold[thousandths] = Pack(thousandths, packs.parse_price(price, currency), currency)
        return _packs(packs.replace(shell.conn, SHELL, list(sold.values())))


def _remove_packs(shell: Shell, args: Namespace) -> Answer:
    with immediate(shell.conn):
        gone = {packs.of_size(shell.conn, credit_amounts.parse(size)).credits for size in args.sizes}
        left = [each for each in packs.everyone(shell.conn) if each.credits not in gone]
        return _packs(packs.replace(shell.conn, SHELL, left))


def _packs(sold: list[Pack]) -> Answer:
    rows: list[dict[str, object]] = [
        {
            "credits": credit_amounts.plain(each.credits),
            "price": i18n.exact_money(each.price, each.currency),
            "currency": each.currency,
        }
        for each in sold
    ]
    lines = [(*row.values(), each.unit_price) for row, each in zip(rows, sold, strict=True)]
    return Answer(rows, table(("credits", "price", "currency", "a credit"), lines))
