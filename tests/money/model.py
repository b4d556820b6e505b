"""The simple model: dicts, and the rules of the money in a few lines each. It knows no database and no transaction.

`apply` says what an operation must have answered and must have done, as a bag of facts; the chronicle says what was
done. Amounts are thousandths of a credit.
"""

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from portal.core.clock import DAY_MS
from portal.services.common.message_states import DELETED, DELIVERED, ENROUTE, EXPIRED, REJECTED
from portal.services.statistics.daily_totals import month_of
from tests.money.operations import Answer, Operation, text_of

Fact = tuple[Hashable, ...]


@dataclass
class Account:
    customer: int
    balance: int
    alert_below: int | None
    recredit_below: int | None
    recredit_pack: int | None
    recredit_per_day: int


@dataclass
class Customer:
    credit_line: int
    lets_recredit: bool


@dataclass
class Charge:
    """What an account's messages of one batch were paid with, as far as it was not given back: by date, and without."""

    dates: Counter[int] = field(default_factory=Counter)
    undated: int = 0


@dataclass
class Message:
    account: int
    destination: str
    price: int
    state: int
    scheduled_at: int | None
    expires_at: int | None
    due_at: int | None
    charge: Charge | None = None
    refunded: bool = False


@dataclass
class Lot:
    """Credits that run out. `movement` is the id of what they came by, None until it is told."""

    account: int
    expires_at: int
    left: int
    movement: int | None = None
    ran_out: bool = False


@dataclass
class Order:
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
class Model:
    """All that is known of the money. `apply` moves it on."""

    accounts: dict[int, Account]
    customers: dict[int, Customer]
    messages: dict[str, Message] = field(default_factory=dict)
    orders: dict[int, Order] = field(default_factory=dict)
    lots: list[Lot] = field(default_factory=list)
    """In the order in which they came."""
    listed: set[tuple[int, str]] = field(default_factory=set)
    forms: set[str] = field(default_factory=set)
    usage: Counter[tuple[object, ...]] = field(default_factory=Counter)
    """Messages, parts and price by account, month, country and sender."""
    moved: Counter[str] = field(default_factory=Counter)
    """What each kind of movement has changed of all balances together."""
    facts: Counter[Fact] = field(default_factory=Counter)
    """What the operation that is looked at must have done."""
    times: Mapping[tuple[int, str], int] = field(default_factory=dict)
    """When its movements were written (milliseconds), by account and kind: dates are kept to the millisecond."""

    @classmethod
    def of(cls, conn: sqlite3.Connection) -> "Model":
        """What a database begins with: accounts without messages and orders."""
        found = conn.execute(
            "SELECT id, customer_id, balance, alert_below, recredit_below, recredit_pack, recredit_per_day"
            " FROM accounts"
        )
        accounts = {row[0]: Account(*tuple(row)[1:]) for row in found}
        found = conn.execute("SELECT id, credit_line, recredit_min_age_days FROM customers")
        return cls(accounts, {row[0]: Customer(row[1], row[2] == 0) for row in found})

    def apply(
        self, key: str, operation: Operation, at: int, times: Mapping[tuple[int, str], int]
    ) -> tuple[Answer, Counter[Fact]]:
        """Do an operation; `at` is when (milliseconds), `times` as above.

        Returns:
            What it answers, and what it changes. Nothing, where it is refused. A message is named by its text.
        """
        self.times = times
        self.facts = Counter()
        form = operation.get("form", "")
        if form and form in self.forms:
            return {"refused": "AlreadySent"}, self.facts
        rules: dict[str, Callable[[str, Operation, int], Answer]] = {
            "submit": self._submit,
            "grant": self._grant,
            "correct": self._correct,
            "refund": self._refund,
            "refund message": self._refund_message,
            "transfer": self._transfer,
            "order": self._order,
            "pay": self._pay,
            "cancel order": self._cancel_order,
            "cancel": self._cancel,
            "finish": self._finish,
            "due": self._due,
            "list": self._list,
            "unlist": self._unlist,
        }
        answer = rules[operation["kind"]](key, operation, at)
        if form and not is_refusal(answer):
            self.forms.add(form)
        return answer, self.facts

    # --- the rules

    def _submit(self, key: str, operation: Operation, at: int) -> Answer:
        batch = [(text_of(key, number), *each) for number, each in enumerate(operation["batch"])]
        before = {account_id: self.accounts[account_id].balance for _, account_id, *_ in batch}
        taken: dict[int, list[tuple[str, int]]] = defaultdict(list)
        charges: dict[int, Charge] = defaultdict(Charge)
        answer: list[str | None] = []
        for text, account_id, destination, parts, price, source, country, scheduled_at, expires_at in batch:
            account = self.accounts[account_id]
            stopped = (account_id, destination) in self.listed
            if not stopped and account.recredit_below is not None and account.balance - price < account.recredit_below:
                before[account_id] += self._recredit(account_id, at)
            if stopped:
                outcome, price = (REJECTED, 53), 0
            elif price <= account.balance:
                outcome = (ENROUTE, 254)
                account.balance -= price
                self.moved["usage"] -= price
                dates = self._spend(account_id, "usage", price, at)
                charges[account_id].dates += dates
                charges[account_id].undated += price - dates.total()
                taken[account_id].append((text, price))
                month = account_id, month_of(at // DAY_MS), country, source
                self.usage.update({(*month, "messages"): 1, (*month, "parts"): parts, (*month, "price"): price})
            else:
                outcome, price = (REJECTED, 10), 0
            answer.append(None if outcome == (REJECTED, 10) else text)
            due_at = (scheduled_at or expires_at) if outcome[0] == ENROUTE else None
            charge = charges[account_id] if outcome[0] == ENROUTE else None
            self.messages[text] = Message(
                account_id, destination, price, outcome[0], scheduled_at, expires_at, due_at, charge
            )
            self._fact("message", account_id, text, *outcome, price, parts, country, source)
        for account_id, messages in taken.items():
            price = sum(price for _, price in messages)
            self._fact("movement", account_id, "usage", -price, None, len(messages), messages[0][0], messages[-1][0])
            self._alert(account_id, before[account_id])
        return answer

    def _recredit(self, account_id: int, at: int) -> int:
        """What arrives at once."""
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
        if not customer.lets_recredit or owed + account.recredit_pack > customer.credit_line:
            if not requests and (not automatic or automatic[max(automatic)].cancelled_on != today):
                self._enter(Order(account_id, account.recredit_pack, True))
                self._fact("notice", account_id, "requested")
            return 0
        for request in requests:
            self._close(request, at)
        self._credit(self._enter(Order(account_id, account.recredit_pack, True)), at)
        self._fact("notice", account_id, "recredited")
        return account.recredit_pack

    def _grant(self, key: str, operation: Operation, at: int) -> Answer:
        account_id, amount, expires_at = operation["account"], operation["amount"], operation["expires_at"]
        self._move(account_id, "grant", amount, at)
        if expires_at is not None:
            self._put(account_id, expires_at, amount)
        return self.accounts[account_id].balance

    def _correct(self, key: str, operation: Operation, at: int) -> Answer:
        return self._change(operation, "correction", at)

    def _refund(self, key: str, operation: Operation, at: int) -> Answer:
        return self._change(operation, "refund", at)

    def _change(self, operation: Operation, kind: str, at: int) -> Answer:
        account = self.accounts[operation["account"]]
        if account.balance + operation["amount"] < 0:
            return {"refused": "NotEnoughCredits"}
        self._move(operation["account"], kind, operation["amount"], at)
        return account.balance

    def _refund_message(self, key: str, operation: Operation, at: int) -> Answer:
        message = self.messages[operation["message"][1]]
        if message.state == ENROUTE:
            return {"refused": "NotFinished"}
        if not message.price:
            return {"refused": "CostNothing"}
        if message.refunded:
            return {"refused": "AlreadyRefunded"}
        self._give_back(operation["message"][1], at)
        if message.charge is not None:
            message.charge.undated = max(0, message.charge.undated - message.price)
        return message.price

    def _transfer(self, key: str, operation: Operation, at: int) -> Answer:
        source, target, amount = operation["source"], operation["target"], operation["amount"]
        if self.accounts[source].balance < amount:
            return {"refused": "NotEnoughCredits"}
        dates = self._move(source, "transfer_out", -amount, at, counterpart=target)
        self._move(target, "transfer_in", amount, at, counterpart=source)
        for expires_at, handed_over in dates.items():
            self._put(target, expires_at, handed_over)
        return [self.accounts[source].balance, self.accounts[target].balance]

    def _order(self, key: str, operation: Operation, at: int) -> Answer:
        return self._enter(Order(operation["account"], operation["pack"], False))

    def _pay(self, key: str, operation: Operation, at: int) -> Answer:
        order = self.orders[operation["order"]]
        if order.closed:
            return {"refused": "OrderClosed"}
        if not order.credited:
            self._credit(operation["order"], at)
        order.paid = True
        self._fact("paid", operation["order"])
        return True

    def _cancel_order(self, key: str, operation: Operation, at: int) -> Answer:
        order = self.orders[operation["order"]]
        if order.closed:
            return {"refused": "OrderClosed"}
        if order.credited:
            return {"refused": "OrderCredited"}
        self._close(operation["order"], at)
        return True

    def _cancel(self, key: str, operation: Operation, at: int) -> Answer:
        done = []
        for _, text, waits in operation["messages"]:
            message = self.messages[text]
            in_time = message.state == ENROUTE and (message.due_at == message.scheduled_at or not waits)
            if in_time:
                self._end(text, DELETED, 802)
                self._call_back(text, at)
            done.append(in_time)
        return done

    def _finish(self, key: str, operation: Operation, at: int) -> Answer:
        for _, text, state, ptt in operation["messages"]:
            if self.messages[text].state == ENROUTE:
                self._end(text, state, ptt)
        return True

    def _due(self, key: str, operation: Operation, at: int) -> Answer:
        now = operation["now"]
        for text, message in self.messages.items():
            if message.state != ENROUTE or message.due_at is None or message.due_at > now:
                continue
            if message.expires_at is not None and message.expires_at <= now:
                self._end(text, EXPIRED, 801)
            elif (message.account, message.destination) in self.listed:
                self._end(text, REJECTED, 53)
                self._call_back(text, at)
            else:
                message.due_at = message.expires_at
                self._fact("sent", text)
        return True

    def _list(self, key: str, operation: Operation, at: int) -> Answer:
        listed = operation["account"], operation["number"]
        if listed not in self.listed:
            self.listed.add(listed)
            self._fact("listed", *listed)
        return True

    def _unlist(self, key: str, operation: Operation, at: int) -> Answer:
        listed = operation["account"], operation["number"]
        if listed not in self.listed:
            return {"refused": "NotListed"}
        self.listed.remove(listed)
        self._fact("unlisted", *listed)
        return True

    # --- what they have in common

    def _fact(self, *fact: Hashable) -> None:
        self.facts[fact] += 1

    def _move(
        self,
        account_id: int,
        kind: str,
        amount: int,
        at: int,
        *,
        counterpart: int | None = None,
        text: str | None = None,
    ) -> Counter[int]:
        """Change a balance; returns the dates of what left, and how much had each."""
        account, before = self.accounts[account_id], self.accounts[account_id].balance
        account.balance += amount
        self.moved[kind] += amount
        messages = None if text is None else 1
        self._fact("movement", account_id, kind, amount, counterpart, messages, text, text)
        self._alert(account_id, before)
        return self._spend(account_id, kind, -amount, at) if amount < 0 else Counter()

    def _spend(self, account_id: int, kind: str, amount: int, at: int) -> Counter[int]:
        """Take it from what runs out first."""
        at, dates = self.times.get((account_id, kind), at), Counter[int]()
        for lot in sorted(self.lots, key=lambda each: each.expires_at):
            if lot.account == account_id and lot.expires_at > at:
                taken = min(lot.left, amount)
                lot.left -= taken
                amount -= taken
                if taken:
                    dates[lot.expires_at] += taken
        return dates

    def _put(self, account_id: int, expires_at: int, amount: int) -> None:
        self.lots.append(Lot(account_id, expires_at, amount))
        self._fact("lot", account_id, expires_at, amount)

    def run_out(self, lots: Sequence[tuple[int, int, int]], at: int) -> tuple[int, Counter[Fact]]:
        """Let lots run out that are named by account, movement and date.

        Returns:
            How many movements that makes, and what changes.
        """
        self.facts, self.times, count = Counter(), {}, 0
        for account_id, movement, expires_at in lots:
            key = account_id, movement, expires_at
            lot = {(each.account, each.movement, each.expires_at): each for each in self.lots}[key]
            if lot.ran_out:
                continue
            lot.ran_out = True
            self._fact("ran out", account_id, movement, expires_at)
            if amount := min(lot.left, self.accounts[account_id].balance):
                self.accounts[account_id].balance -= amount
                self.moved["expiry"] -= amount
                self._fact("movement", account_id, "expiry", -amount, None, None, None, None)
                self._alert(account_id, self.accounts[account_id].balance + amount)
                count += 1
        return count, self.facts

    def _alert(self, account_id: int, before: int) -> None:
        account = self.accounts[account_id]
        if account.alert_below is not None and account.balance < account.alert_below <= before:
            self._fact("notice", account_id, "low", account.balance)

    def _enter(self, order: Order) -> int:
        order_id = len(self.orders) + 1
        self.orders[order_id] = order
        self._fact("order", order_id, order.account, "automatic" if order.automatic else "customer", order.credits)
        return order_id

    def _close(self, order_id: int, at: int) -> None:
        self.orders[order_id].cancelled_on = at // DAY_MS
        self._fact("cancelled", order_id)

    def _credit(self, order_id: int, at: int) -> None:
        order = self.orders[order_id]
        order.credited_on = self.times.get((order.account, "purchase"), at) // DAY_MS
        self._move(order.account, "purchase", order.credits, at)
        self._fact("credited", order_id)

    def _end(self, text: str, state: int, ptt: int) -> None:
        message = self.messages[text]
        message.state, message.due_at = state, None
        self._fact("ended", text, state, ptt)

    def _give_back(self, text: str, at: int) -> None:
        message = self.messages[text]
        message.refunded = True
        self._move(message.account, "refund", message.price, at, text=text)

    def _call_back(self, text: str, at: int) -> None:
        """Give back what it was paid with: first what has no date, then what runs out last."""
        self._give_back(text, at)
        message, charge = self.messages[text], self.messages[text].charge
        assert charge is not None
        undated = min(charge.undated, message.price)
        charge.undated -= undated
        rest = message.price - undated
        for expires_at in sorted(charge.dates, reverse=True):
            dated = min(charge.dates[expires_at], rest)
            charge.dates[expires_at] -= dated
            rest -= dated
            if dated:
                self._put(message.account, expires_at, dated)

    # --- what the days' totals must say

    def totals(self) -> dict[str, Any]:
        """What was sent, and what became of it, of all accounts together."""
        sent = [each for each in self.messages.values() if each.price]
        return {
            "sent": len(sent),
            "delivered": sum(each.state == DELIVERED for each in sent),
            "failed": sum(each.state not in (ENROUTE, DELIVERED) for each in sent),
            "price": sum(each.price for each in sent),
        }


def is_refusal(answer: Answer) -> bool:
    return isinstance(answer, dict) and "refused" in answer
