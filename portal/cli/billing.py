"""`pack …` and `order …`: what is sold, and what was bought."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace

from portal.cli.shell import (
    CommandContext,
    CommandOutput,
    Commands,
    add_command_group,
    add_database_command,
    format_names_and_values,
    format_table,
    format_timestamp,
)
from portal.core import i18n
from portal.core.db import write_transaction
from portal.services.accounts import accounts
from portal.services.billing import orders, packs, purchases
from portal.services.billing.orders import Order, OrderFilter
from portal.services.billing.packs import Pack
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL
from portal.services.people import customers


def register_commands(commands: "Commands[ArgumentParser]") -> None:
    order = add_command_group(commands, "order", "orders of credits")
    several = add_database_command(order, "list", _list_orders, "list them, the newest first")
    several.add_argument("--account", metavar="NAME", help="of one account")
    several.add_argument("--customer", metavar="NAME", help="of one customer")
    several.add_argument("--status", choices=orders.STATUSES)
    for name, run, help in (
        ("show", _show_order, "show one"),
        ("pay", _pay_order, "mark one as paid: its credits arrive, and the customer gets a mail"),
        ("cancel", _cancel_order, "close one that won't be paid"),
    ):
        one = add_database_command(order, name, run, help)
        one.add_argument("number", metavar="NUMBER", help="such as 2026-00042")
        if name == "pay":
            one.add_argument("--note", default="", metavar="T", help="how it was paid; the customer sees it")

    pack = add_command_group(commands, "pack", "what credits cost")
    add_database_command(pack, "list", _list_packs, "list what is sold")
    change = add_database_command(pack, "set", _set_packs, "sell packs for these prices; the others stay")
    change.add_argument("packs", nargs="+", type=_parse_pack_price, metavar="CREDITS=PRICE", help="such as 1000=60.00")
    change.add_argument("--currency", metavar="CODE", help="of ISO 4217; one for all packs (default: theirs)")
    remove = add_database_command(pack, "remove", _remove_packs, "sell packs no more")
    remove.add_argument("sizes", nargs="+", metavar="CREDITS")


# --- order


def _list_orders(context: CommandContext, args: Namespace) -> CommandOutput:
    order_filter = OrderFilter(
        account_id=accounts.get_account(context.conn, args.account).id if args.account else None,
        customer_id=customers.get_customer(context.conn, args.customer).id if args.customer else None,
        status=args.status,
    )
    rows = [_order_to_dict(each) for each in orders.iterate_orders(context.conn, order_filter)]
    columns = ("order", "created", "customer", "account", "credits", "price", "currency", "status")
    return CommandOutput(rows, format_table(columns, [[row[column] for column in columns] for row in rows]))


def _show_order(context: CommandContext, args: Namespace) -> CommandOutput:
    return _describe_order(orders.get_order_by_number(context.conn, args.number))


def _pay_order(context: CommandContext, args: Namespace) -> CommandOutput:
    order = orders.get_order_by_number(context.conn, args.number)
    return _describe_order(purchases.confirm_payment(context.conn, context.keys, SHELL, order, args.note))


def _cancel_order(context: CommandContext, args: Namespace) -> CommandOutput:
    return _describe_order(
        orders.cancel_order(context.conn, SHELL, orders.get_order_by_number(context.conn, args.number))
    )


def _describe_order(order: Order) -> CommandOutput:
    values = _order_to_dict(order)
    return CommandOutput(
        values, format_names_and_values(values | {"credits_arrived": "yes" if order.credited else "no"})
    )


def _order_to_dict(order: Order) -> dict[str, object]:
    return {
        "order": order.number,
        "created": format_timestamp(order.created_at),
        "created_by": order.created_by,
        "customer": order.customer,
        "account": order.account,
        "origin": order.origin,
        "credits": credit_amounts.credits_to_json_number(order.credits),
        "price": i18n.format_money_for_machines(order.price, order.currency),
        "currency": order.currency,
        "status": order.status,
        "credits_arrived": order.credited,
        "paid": format_timestamp(order.paid_at),
        "paid_by": order.paid_by,
        "payment": order.payment,
        "cancelled": format_timestamp(order.cancelled_at),
        "cancelled_by": order.cancelled_by,
    }


# --- pack


def _parse_pack_price(text: str) -> tuple[str, str]:
    size, equals, price = text.partition("=")
    if not equals:
        raise ArgumentTypeError(f"{text!r} is not CREDITS=PRICE, like 1000=60.00")
    return size, price


def _list_packs(context: CommandContext, args: Namespace) -> CommandOutput:
    return _describe_packs(packs.list_packs(context.conn))


def _set_packs(context: CommandContext, args: Namespace) -> CommandOutput:
    with write_transaction(context.conn):
        packs_by_credits = {each.credits: each for each in packs.list_packs(context.conn)}
        current_currency = next((each.currency for each in packs_by_credits.values()), "")
        currency = packs.parse_currency(current_currency if args.currency is None else args.currency)
        for size, price in args.packs:
            thousandths = credit_amounts.parse_amount(size)
            packs_by_credits[thousandths] = Pack(thousandths, packs.parse_pack_price(price, currency), currency)
        return _describe_packs(packs.replace_packs(context.conn, SHELL, list(packs_by_credits.values())))


def _remove_packs(context: CommandContext, args: Namespace) -> CommandOutput:
    with write_transaction(context.conn):
        removed_sizes = {packs.get_pack(context.conn, credit_amounts.parse_amount(size)).credits for size in args.sizes}
        remaining = [each for each in packs.list_packs(context.conn) if each.credits not in removed_sizes]
        return _describe_packs(packs.replace_packs(context.conn, SHELL, remaining))


def _describe_packs(pack_list: list[Pack]) -> CommandOutput:
    rows: list[dict[str, object]] = [
        {
            "credits": credit_amounts.credits_to_json_number(each.credits),
            "price": i18n.format_money_for_machines(each.price, each.currency),
            "currency": each.currency,
        }
        for each in pack_list
    ]
    lines = [(*row.values(), each.unit_price) for row, each in zip(rows, pack_list, strict=True)]
    return CommandOutput(rows, format_table(("credits", "price", "currency", "a credit"), lines))
