"""The simple model: dicts, and the rules of credits in a few lines each. It has no database and no transactions.

`apply` returns the answer and the effects that an operation must have; the event log has its real effects. Amounts are
thousandths of a credit.
"""

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from portal.core.clock import DAY_MS
from portal.services.common import ids
from portal.services.common.message_states import DELETED, DELIVERED, ENROUTE, EXPIRED, REJECTED
from portal.services.statistics.daily_totals import month_from_day
from tests.money.operations import Answer, Operation, message_text

Effect = tuple[Hashable, ...]


@dataclass
class ModelAccount:
    customer: int
    balance: int
    alert_below: int | None
    recredit_below: int | None
    recredit_pack: int | None
    recredit_per_day: int


@dataclass
class ModelCustomer:
    credit_line: int
    may_recredit: bool


@dataclass
class ModelCharge:
    """The credits that the messages of a usage movement were paid with, by expiry date, without those refunded."""

    dates: Counter[int] = field(default_factory=Counter)
    undated: int = 0


@dataclass
class ModelMessage:
    account: int
    destination: str
    price: int
    state: int
    scheduled_at: int | None
    expires_at: int | None
    due_at: int | None
    charge: ModelCharge | None = None
    refunded: bool = False


@dataclass
class ModelLot:
    """Credits that expire. `movement` is the id of the movement that brought them, None until it is known."""

    account: int
    expires_at: int
    remaining: int
    movement: int | None = None
    expired: bool = False


@dataclass
class ModelOrder:
    """Days are counted since 1970 (UTC)."""

    account: int
    credits: int
    automatic: bool
    credited_on: int | None = None
    cancelled_on: int | None = None
    paid: bool = False

    @property
    def credited(self) -> bool:
        return self.credited_on is not None

    @property
    def closed(self) -> bool:
        return self.paid or self.cancelled_on is not None


@dataclass
class CreditModel:
    """The state of all credits, which `apply` changes."""

    accounts: dict[int, ModelAccount]
    customers: dict[int, ModelCustomer]
    messages: dict[str, ModelMessage] = field(default_factory=dict)
    orders: dict[int, ModelOrder] = field(default_factory=dict)
    lots: list[ModelLot] = field(default_factory=list)
    """In the order in which they came."""
    blacklisted: set[tuple[int, str]] = field(default_factory=set)
    sent_forms: set[str] = field(default_factory=set)
    usage: Counter[tuple[object, ...]] = field(default_factory=Counter)
    """Messages, parts and price by account, month, country and sender."""
    movement_sums: Counter[str] = field(default_factory=Counter)
    """The sum of the amounts of each kind of movement, over all accounts."""
    effects: Counter[Effect] = field(default_factory=Counter)
    """The effects that the current operation must have."""
    movement_ids: Mapping[tuple[int, str], int] = field(default_factory=dict)
    """The ids of its movements by account id and kind. They hold their times."""
    charges: dict[int, ModelCharge] = field(default_factory=lambda: defaultdict(ModelCharge))
    """By the id of the movement."""

    @classmethod
    def from_database(cls, conn: sqlite3.Connection) -> "CreditModel":
        """Read the initial state of a database: accounts without messages and orders."""
        rows = conn.execute(
            "SELECT id, customer_id, balance, alert_below, recredit_below, recredit_pack, recredit_per_day"
            " FROM accounts"
        )
        accounts = {row[0]: ModelAccount(*tuple(row)[1:]) for row in rows}
        rows = conn.execute("SELECT id, credit_line, recredit_min_age_days FROM customers")
        return cls(accounts, {row[0]: ModelCustomer(row[1], row[2] == 0) for row in rows})

    def apply(
        self, key: str, operation: Operation, at: int, movement_ids: Mapping[tuple[int, str], int]
    ) -> tuple[Answer, Counter[Effect]]:
        """Do an operation.

        Args:
            at: when (milliseconds).
            movement_ids: see the attribute.

        Returns:
            The answer, and the effects; none where it is refused. Messages are identified by their texts.
        """
        self.movement_ids = movement_ids
        self.effects = Counter()
        form = operation.get("form", "")
        if form and form in self.sent_forms:
            return {"refused": "FormAlreadySent"}, self.effects
        handlers: dict[str, Callable[[str, Operation, int], Answer]] = {
            "submit": self._apply_submit,
            "grant": self._apply_grant,
            "correct": self._apply_correct,
            "refund": self._apply_refund,
            "refund message": self._apply_refund_message,
            "transfer": self._apply_transfer,
            "order": self._apply_order,
            "pay": self._apply_pay,
            "cancel order": self._apply_cancel_order,
            "cancel": self._apply_cancel,
            "finish": self._apply_finish,
            "due": self._apply_due,
            "list": self._apply_list,
            "unlist": self._apply_unlist,
        }
        answer = handlers[operation["kind"]](key, operation, at)
        if form and not is_refusal(answer):
            self.sent_forms.add(form)
        return answer, self.effects

    # --- the rules

    def _apply_submit(self, key: str, operation: Operation, at: int) -> Answer:
        batch = [(message_text(key, number), *each) for number, each in enumerate(operation["batch"])]
        balances_before = {account_id: self.accounts[account_id].balance for _, account_id, *_ in batch}
        charged_messages: dict[int, list[tuple[str, int]]] = defaultdict(list)
        answer: list[str | None] = []
        for text, account_id, destination, parts, price, source, country, scheduled_at, expires_at in batch:
            account = self.accounts[account_id]
            stopped = (account_id, destination) in self.blacklisted
            if not stopped and account.recredit_below is not None and account.balance - price < account.recredit_below:
                balances_before[account_id] += self._recredit_account(account_id, at)
            if stopped:
                outcome, price = (REJECTED, 53), 0
            elif price <= account.balance:
                outcome = (ENROUTE, 254)
                account.balance -= price
                self.movement_sums["usage"] -= price
                dates = self._spend_lots(account_id, "usage", price, at)
                charge = self.charges[self.movement_ids.get((account_id, "usage"), 0)]
                charge.dates += dates
                charge.undated += price - dates.total()
                charged_messages[account_id].append((text, price))
                month = account_id, month_from_day(at // DAY_MS), country, source
                self.usage.update({(*month, "messages"): 1, (*month, "parts"): parts, (*month, "price"): price})
            else:
                outcome, price = (REJECTED, 10), 0
            answer.append(None if outcome == (REJECTED, 10) else text)
            due_at = (scheduled_at or expires_at) if outcome[0] == ENROUTE else None
            self.messages[text] = ModelMessage(
                account_id,
                destination,
                price,
                outcome[0],
                scheduled_at,
                expires_at,
                due_at,
                charge if outcome[0] == ENROUTE else None,
            )
            self._add_effect("message", account_id, text, *outcome, price, parts, country, source)
        for account_id, messages in charged_messages.items():
            price = sum(price for _, price in messages)
            self._add_effect(
                "movement", account_id, "usage", -price, None, len(messages), messages[0][0], messages[-1][0]
            )
            self._check_alert(account_id, balances_before[account_id])
        return answer

    def _recredit_account(self, account_id: int, at: int) -> int:
        """Store a batch of messages that arrive together."""
        account, today = self.accounts[account_id], at // DAY_MS
        customer = self.customers[account.customer]
        assert account.recredit_pack is not None
        automatic = {key: each for key, each in self.orders.items() if each.account == account_id and each.automatic}
        requests = [key for key, each in automatic.items() if not each.credited and not each.closed]
        owed = sum(
            each.credits
            for each in self.orders.values()
            if self.accounts[each.account].customer == account.customer and each.credited and not each.closed
        )
        if sum(each.credited_on == today for each in automatic.values()) >= account.recredit_per_day:
            return 0
        if not customer.may_recredit or owed + account.recredit_pack > customer.credit_line:
            if not requests and (not automatic or automatic[max(automatic)].cancelled_on != today):
                self._add_order(ModelOrder(account_id, account.recredit_pack, True))
                self._add_effect("notice", account_id, "requested")
            return 0
        for request in requests:
            self._mark_cancelled(request, at)
        self._credit_order(self._add_order(ModelOrder(account_id, account.recredit_pack, True)), at)
        self._add_effect("notice", account_id, "recredited")
        return account.recredit_pack

    def _apply_grant(self, key: str, operation: Operation, at: int) -> Answer:
        account_id, amount, expires_at = operation["account"], operation["amount"], operation["expires_at"]
        self._add_movement(account_id, "grant", amount, at)
        if expires_at is not None:
            self._add_lot(account_id, expires_at, amount)
        return self.accounts[account_id].balance

    def _apply_correct(self, key: str, operation: Operation, at: int) -> Answer:
        return self._change_balance(operation, "correction", at)

    def _apply_refund(self, key: str, operation: Operation, at: int) -> Answer:
        return self._change_balance(operation, "refund", at)

    def _change_balance(self, operation: Operation, kind: str, at: int) -> Answer:
        account = self.accounts[operation["account"]]
        if account.balance + operation["amount"] < 0:
            return {"refused": "NotEnoughCredits"}
        self._add_movement(operation["account"], kind, operation["amount"], at)
        return account.balance

    def _apply_refund_message(self, key: str, operation: Operation, at: int) -> Answer:
        message = self.messages[operation["message"][1]]
        if message.state == ENROUTE:
            return {"refused": "MessageNotFinished"}
        if not message.price:
            return {"refused": "MessageWasFree"}
        if message.refunded:
            return {"refused": "AlreadyRefunded"}
        self._refund_price(operation["message"][1], at)
        if message.charge is not None:
            message.charge.undated = max(0, message.charge.undated - message.price)
        return message.price

    def _apply_transfer(self, key: str, operation: Operation, at: int) -> Answer:
        source, target, amount = operation["source"], operation["target"], operation["amount"]
        if self.accounts[source].balance < amount:
            return {"refused": "NotEnoughCredits"}
        dates = self._add_movement(source, "transfer_out", -amount, at, counterpart=target)
        self._add_movement(target, "transfer_in", amount, at, counterpart=source)
        for expires_at, transferred in dates.items():
            self._add_lot(target, expires_at, transferred)
        return [self.accounts[source].balance, self.accounts[target].balance]

    def _apply_order(self, key: str, operation: Operation, at: int) -> Answer:
        return self._add_order(ModelOrder(operation["account"], operation["pack"], False))

    def _apply_pay(self, key: str, operation: Operation, at: int) -> Answer:
        order = self.orders[operation["order"]]
        if order.closed:
            return {"refused": "OrderClosed"}
        if not order.credited:
            self._credit_order(operation["order"], at)
        order.paid = True
        self._add_effect("paid", operation["order"])
        return True

    def _apply_cancel_order(self, key: str, operation: Operation, at: int) -> Answer:
        order = self.orders[operation["order"]]
        if order.closed:
            return {"refused": "OrderClosed"}
        if order.credited:
            return {"refused": "OrderCredited"}
        self._mark_cancelled(operation["order"], at)
        return True

    def _apply_cancel(self, key: str, operation: Operation, at: int) -> Answer:
        done = []
        for _, text, waits in operation["messages"]:
            message = self.messages[text]
            is_scheduled = message.scheduled_at is not None and message.due_at == message.scheduled_at
            in_time = message.state == ENROUTE and (is_scheduled or not waits)
            if in_time:
                self._finish_message(text, DELETED, 802)
                self._refund_lots(text, at)
            done.append(in_time)
        return done

    def _apply_finish(self, key: str, operation: Operation, at: int) -> Answer:
        for _, text, state, ptt in operation["messages"]:
            if self.messages[text].state == ENROUTE:
                self._finish_message(text, state, ptt)
        return True

    def _apply_due(self, key: str, operation: Operation, at: int) -> Answer:
        now = operation["now"]
        for text, message in self.messages.items():
            if message.state != ENROUTE or message.due_at is None or message.due_at > now:
                continue
            if message.expires_at is not None and message.expires_at <= now:
                self._finish_message(text, EXPIRED, 801)
            elif (message.account, message.destination) in self.blacklisted:
                self._finish_message(text, REJECTED, 53)
                self._refund_lots(text, at)
            else:
                message.due_at = message.expires_at
                self._add_effect("sent", text)
        return True

    def _apply_list(self, key: str, operation: Operation, at: int) -> Answer:
        entry = operation["account"], operation["number"]
        if entry not in self.blacklisted:
            self.blacklisted.add(entry)
            self._add_effect("listed", *entry)
        return True

    def _apply_unlist(self, key: str, operation: Operation, at: int) -> Answer:
        entry = operation["account"], operation["number"]
        if entry not in self.blacklisted:
            return {"refused": "NotBlacklisted"}
        self.blacklisted.remove(entry)
        self._add_effect("unlisted", *entry)
        return True

    # --- what they have in common

    def _add_effect(self, *effect: Hashable) -> None:
        self.effects[effect] += 1

    def _add_movement(
        self,
        account_id: int,
        kind: str,
        amount: int,
        at: int,
        *,
        counterpart: int | None = None,
        text: str | None = None,
    ) -> Counter[int]:
        """Change a balance; returns the expiry dates of the credits taken, with their amounts."""
        account, balance_before = self.accounts[account_id], self.accounts[account_id].balance
        account.balance += amount
        self.movement_sums[kind] += amount
        messages = None if text is None else 1
        self._add_effect("movement", account_id, kind, amount, counterpart, messages, text, text)
        self._check_alert(account_id, balance_before)
        return self._spend_lots(account_id, kind, -amount, at) if amount < 0 else Counter()

    def _spend_lots(self, account_id: int, kind: str, amount: int, at: int) -> Counter[int]:
        """Take an amount from the credits that expire first."""
        at, dates = self._get_movement_time(account_id, kind, at), Counter[int]()
        for lot in sorted(self.lots, key=lambda each: each.expires_at):
            if lot.account == account_id and lot.expires_at > at:
                spent = min(lot.remaining, amount)
                lot.remaining -= spent
                amount -= spent
                if spent:
                    dates[lot.expires_at] += spent
        return dates

    def _get_movement_time(self, account_id: int, kind: str, otherwise: int) -> int:
        movement_id = self.movement_ids.get((account_id, kind))
        return otherwise if movement_id is None else ids.time_from_id(movement_id)

    def _add_lot(self, account_id: int, expires_at: int, amount: int) -> None:
        self.lots.append(ModelLot(account_id, expires_at, amount))
        self._add_effect("lot", account_id, expires_at, amount)

    def expire_lots(self, lots: Sequence[tuple[int, int, int]], at: int) -> tuple[int, Counter[Effect]]:
        """Let lots expire, which are identified by account, movement and date.

        Returns:
            The number of movements, and the effects.
        """
        self.effects, self.movement_ids, count = Counter(), {}, 0
        for account_id, movement, expires_at in lots:
            key = account_id, movement, expires_at
            lot = {(each.account, each.movement, each.expires_at): each for each in self.lots}[key]
            if lot.expired:
                continue
            lot.expired = True
            self._add_effect("ran out", account_id, movement, expires_at)
            if amount := min(lot.remaining, self.accounts[account_id].balance):
                self.accounts[account_id].balance -= amount
                self.movement_sums["expiry"] -= amount
                self._add_effect("movement", account_id, "expiry", -amount, None, None, None, None)
                self._check_alert(account_id, self.accounts[account_id].balance + amount)
                count += 1
        return count, self.effects

    def _check_alert(self, account_id: int, balance_before: int) -> None:
        account = self.accounts[account_id]
        if account.alert_below is not None and account.balance < account.alert_below <= balance_before:
            self._add_effect("notice", account_id, "low", account.balance)

    def _add_order(self, order: ModelOrder) -> int:
        order_id = len(self.orders) + 1
        self.orders[order_id] = order
        self._add_effect(
            "order", order_id, order.account, "automatic" if order.automatic else "customer", order.credits
        )
        return order_id

    def _mark_cancelled(self, order_id: int, at: int) -> None:
        self.orders[order_id].cancelled_on = at // DAY_MS
        self._add_effect("cancelled", order_id)

    def _credit_order(self, order_id: int, at: int) -> None:
        order = self.orders[order_id]
        order.credited_on = self._get_movement_time(order.account, "purchase", at) // DAY_MS
        self._add_movement(order.account, "purchase", order.credits, at)
        self._add_effect("credited", order_id)

    def _finish_message(self, text: str, state: int, ptt: int) -> None:
        message = self.messages[text]
        message.state, message.due_at = state, None
        self._add_effect("ended", text, state, ptt)

    def _refund_price(self, text: str, at: int) -> None:
        message = self.messages[text]
        message.refunded = True
        self._add_movement(message.account, "refund", message.price, at, text=text)

    def _refund_lots(self, text: str, at: int) -> None:
        """Give back the credits it was paid with: first those without a date, then those that expire last."""
        self._refund_price(text, at)
        message, charge = self.messages[text], self.messages[text].charge
        assert charge is not None
        undated = min(charge.undated, message.price)
        charge.undated -= undated
        rest = message.price - undated
        for expires_at in sorted(charge.dates, reverse=True):
            refunded = min(charge.dates[expires_at], rest)
            charge.dates[expires_at] -= refunded
            rest -= refunded
            if refunded:
                self._add_lot(message.account, expires_at, refunded)

    # --- what the days' totals must say

    def daily_sums(self) -> dict[str, Any]:
        """How many messages of all accounts were sent, delivered and failed, and what they cost."""
        sent = [each for each in self.messages.values() if each.price]
        return {
            "sent": len(sent),
            "delivered": sum(each.state == DELIVERED for each in sent),
            "failed": sum(each.state not in (ENROUTE, DELIVERED) for each in sent),
            "price": sum(each.price for each in sent),
        }


def is_refusal(answer: Answer) -> bool:
    return isinstance(answer, dict) and "refused" in answer
