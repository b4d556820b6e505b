"""An upstream in words: what it does, what is wrong with it, and what mends that."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flask import url_for

from portal.core import clock, i18n
from portal.core.i18n import N_, _, gettext, ngettext
from portal.services.accounts import session_records
from portal.services.upstreams import bind_refusals, binds, load, reasons, waiting
from portal.services.upstreams.binds import BindState, UpstreamState
from portal.services.upstreams.health import FAILING, TRYING
from portal.services.upstreams.load import DeliveryRates, UpstreamLoad
from portal.services.upstreams.setting_labels import get_setting_label
from portal.services.upstreams.upstreams import SIMULATOR, Upstream
from portal.services.upstreams.waiting import WaitingMessages
from portal.web.core import context

ILL, DOUBTFUL, WELL, OFF = "err", "warn", "ok", "mute"
"""The kinds of a state, worst first, as the stylesheet has them."""
_SIGNS = {ILL: "error", DOUBTFUL: "alert", WELL: "check", OFF: "ban"}
_WRONG_PASSWORD = 0x0E
_BIND_STATES = {
    binds.BOUND: N_("bound"),
    binds.REFUSED: N_("refused"),
    binds.UNBOUND: N_("not connected"),
    "connecting": N_("connecting"),
    "closed": N_("not connected"),
}
_COUNTER_LABELS = {
    "submitted": N_("submit_sm sent"),
    "accepted": N_("submit_sm accepted"),
    "throttled": N_("Refused as too many"),
    "retried": N_("Sent again after that"),
    "failed": N_("Refused for good"),
    "unsure": N_("Not answered"),
    "resent": N_("Sent again without an answer"),
    "receipts": N_("Receipts"),
    "delivered": N_("Receipts: delivered"),
    "undelivered": N_("Receipts: not delivered"),
    "unmatched": N_("Receipts of no message"),
    "unknown_answers": N_("Answers to nothing"),
    "answers_without_id": N_("Accepted without an id"),
    "malformed": N_("PDUs that aren’t SMPP"),
}
# So many percentage points less of the last hour than before arrive, where so many have ended.
_RATE_DROP, _MIN_ENDED = 10, 20


@dataclass(frozen=True, slots=True)
class Remedy:
    """A button: where it leads, and what it says. `asks`: it opens a question."""

    address: str
    label: str
    asks: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """Something measured. `note`: what is usual, or possible; `kind`: ILL or DOUBTFUL where it isn't well."""

    label: str
    value: str
    note: str = ""
    kind: str = ""


@dataclass(slots=True)
class UpstreamCard:
    """What operators see of an upstream. `kind`: ILL, DOUBTFUL, WELL or OFF; `words`: its state; `sentences`: what is
    wrong, and what it means; `since`: of the state (milliseconds, 0: not known).
    """

    state: UpstreamState
    waiting: WaitingMessages | None
    kind: str = WELL
    words: str = ""
    since: int = 0
    sentences: list[str] = field(default_factory=list)
    remedies: list[Remedy] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    last_error: str = ""
    last_error_at: int | None = None

    @property
    def upstream(self) -> Upstream:
        return self.state.upstream

    @property
    def sign(self) -> str:
        return _SIGNS[self.kind]

    @property
    def address(self) -> str:
        settings = self.upstream.settings
        return f"{settings.host}:{settings.port}" if self.upstream.kind != SIMULATOR else ""

    def judge(self, kind: str, words: str, since: int = 0) -> None:
        self.kind, self.words, self.since = kind, words, since

    def add_remedy(self, endpoint: str, label: str, *, asks: bool = False, field: str | None = None) -> None:
        address = url_for(f"upstreams.{endpoint}", upstream_id=self.upstream.id, _anchor=field)
        self.remedies.append(Remedy(address, label, asks))


def list_cards() -> list[UpstreamCard]:
    """All upstreams, those that send nothing first."""
    conn = context.get_conn()
    is_running = session_records.is_component_alive(conn, "smsc")
    loads, rates, waiting_messages = load.list_loads(conn), load.list_delivery_rates(conn), waiting.list_waiting(conn)
    cards = []
    for state in binds.list_upstream_states(conn):
        card = UpstreamCard(state, waiting_messages.get(state.upstream.id))
        known_load = loads.get(state.upstream.id, UpstreamLoad())
        known_rates = rates.get(state.upstream.id, DeliveryRates())
        _judge(card, known_load, known_rates, is_running=is_running)
        card.figures = _list_figures(card, known_load, known_rates)
        # Sentences say it of what is ill.
        if card.kind != ILL:
            card.last_error = reasons.translate_reason(known_load.last_error)
            card.last_error_at = known_load.last_error_at
        cards.append(card)
    kinds = list(_SIGNS)
    return sorted(cards, key=lambda each: (kinds.index(each.kind), each.upstream.name.lower()))


def summarize(cards: Sequence[UpstreamCard]) -> tuple[str, str]:
    """In bold, how many are ill; and what that means for messages."""
    ill_count, doubtful_count, off_count = (sum(each.kind == kind for each in cards) for kind in (ILL, DOUBTFUL, OFF))
    waiting_count = sum(each.waiting.count for each in cards if each.waiting)
    words = []
    if ill_count:
        words.append(ngettext("%(num)s upstream sends nothing.", "%(num)s upstreams send nothing.", ill_count))
    if doubtful_count:
        words.append(ngettext("%(num)s needs attention.", "%(num)s need attention.", doubtful_count))
    if off_count:
        words.append(ngettext("%(num)s is disabled.", "%(num)s are disabled.", off_count))
    if not words:
        words.append(_("All work."))
    meaning = ngettext("%(num)s message waits.", "%(num)s messages wait.", waiting_count) if waiting_count else ""
    return " ".join(words), meaning or _("Nothing waits.")


@dataclass(frozen=True, slots=True)
class BindRow:
    """A bind. `kind`: ok or err; `why`: why it isn't bound."""

    number: int
    name: str
    words: str
    kind: str
    why: str
    since: int


def describe_binds(state: UpstreamState) -> list[BindRow]:
    """The binds that an upstream has, or should have."""
    return [
        BindRow(
            each.number,
            each.kind,
            gettext(_BIND_STATES.get(each.state, each.state)),
            "ok" if each.state == binds.BOUND else "err" if each.error else "info",
            " ".join(_explain_bind(each)) if each.state != binds.BOUND and each.error else each.host,
            each.since,
        )
        for each in state.binds
    ]


def describe_counters(counted: Mapping[str, int]) -> list[tuple[str, int]]:
    """What is counted, with a label each."""
    return [(gettext(_COUNTER_LABELS[name]), value) for name, value in counted.items()]


def _judge(card: UpstreamCard, measured: UpstreamLoad, rates: DeliveryRates, *, is_running: bool) -> None:
    upstream, state = card.upstream, card.state
    if not upstream.enabled:
        card.judge(DOUBTFUL if card.waiting else OFF, _("disabled"))
        if card.waiting:
            card.sentences.append(_("What waits for it goes on waiting until it is enabled."))
        card.add_remedy("enable_upstream", _("Enable"), asks=True)
        return
    if not is_running:
        card.judge(ILL, _("not connected"))
        card.sentences.append(_("The SMPP server isn’t running."))
    elif state.state == binds.BOUND:
        _judge_bound(card, measured, rates)
    else:
        _judge_unbound(card)
    if rates.lacks_matches:
        if card.kind == WELL:
            card.judge(DOUBTFUL, _("bound, but receipts match nothing"), card.since)
        card.sentences.append(
            _("Many of its receipts of the last hour match no message: see by which setting they would.")
        )
        address = url_for("unclaimed.list_unmatched_receipts", upstream=upstream.id)
        card.remedies.append(Remedy(address, _("Receipts that match nothing")))
    if upstream.draining:
        card.kind = DOUBTFUL if card.kind == WELL else card.kind
        draining = _("draining")
        card.words = f"{draining}, {card.words}"
        card.sentences.append(_("It gets no new messages; receipts of those that it has still come."))
        card.add_remedy("enable_upstream", _("Enable"), asks=True)


def _judge_bound(card: UpstreamCard, measured: UpstreamLoad, rates: DeliveryRates) -> None:
    health = card.state.health
    since = max((each.since for each in card.state.binds), default=0)
    if card.upstream.kind == SIMULATOR:
        card.judge(WELL, _("ready: it sends nothing, and makes outcomes up"))
    elif health.state == FAILING:
        card.judge(ILL, _("takes nothing"), health.since)
        reason = reasons.translate_reason(health.reason)
        card.sentences += [_("It is bound, but %(reason)s.", reason=reason), _say_who_takes_over(card)]
        card.add_remedy("show_upstream", _("Test message"))
    elif health.state == TRYING:
        card.judge(DOUBTFUL, _("being tried"), health.since)
        card.sentences.append(_("It has failed, and gets a message to see whether it is well again."))
    elif measured.slowed_to is not None:
        card.judge(DOUBTFUL, _("throttled"))
        card.sentences += [
            _(
                "The carrier refuses some messages as too many at a time. It gets %(rate)s parts a second at most, and"
                " is tried faster again by itself.",
                rate=i18n.format_number(measured.slowed_to),
            ),
            _("If that goes on, ask the carrier how many it allows, and set that as the throughput."),
        ]
        card.add_remedy("change_upstream", _("Settings"), field="throughput")
    elif _is_rate_low(rates):
        card.judge(DOUBTFUL, _("bound, but fewer messages arrive"), since)
        card.sentences.append(_("Compare a number that doesn’t get them with the carrier, and send a test message."))
        card.add_remedy("show_upstream", _("Test message"))
    elif _waits_long(card):
        card.judge(DOUBTFUL, _("bound, but messages wait"), since)
        card.sentences.append(_("More comes than it takes: see its throughput and window."))
        card.add_remedy("change_upstream", _("Settings"))
    else:
        card.judge(WELL, _("bound"), since)


def _judge_unbound(card: UpstreamCard) -> None:
    wrong = [each for each in card.state.binds if each.state != binds.BOUND]
    # What was refused says most.
    worst = next((each for each in wrong if each.state == binds.REFUSED), wrong[0])
    worst = next((each for each in [worst, *wrong] if each.error), worst)
    if card.state.state == binds.PARTLY:
        bound_count = len(card.state.binds) - len(wrong)
        words = _("%(bound)s of %(all)s binds are bound", bound=bound_count, all=len(card.state.binds))
        card.judge(DOUBTFUL, words, worst.since)
    elif card.state.state == binds.REFUSED:
        card.judge(ILL, _("refused"), worst.since)
    else:
        card.judge(ILL if worst.error else DOUBTFUL, _("not connected"), worst.since)
    card.sentences += _explain_bind(worst)
    if card.state.health.state == FAILING and card.state.state != binds.PARTLY:
        card.sentences.append(_say_who_takes_over(card))
    if worst.status == _WRONG_PASSWORD or reasons.is_sealed(worst.error):
        card.add_remedy("change_upstream", _("Enter a new password"), field="password")
    else:
        card.add_remedy("change_upstream", _("Test the connection"))


def _say_who_takes_over(card: UpstreamCard) -> str:
    # What another upstream takes doesn't wait for this one.
    if card.waiting:
        return _("No other upstream takes what waits for it.")
    return _("Where a route names another upstream, that one takes over.")


def _explain_bind(bind: BindState) -> list[str]:
    """Why it isn't bound, what that means, and when it is tried again."""
    if not bind.error:
        return [_("It is being connected.")]
    reason = reasons.translate_reason(bind.error)
    sentences = [f"{reason[0].upper()}{reason[1:].removesuffix('.')}."]
    if bind.status:
        meaning = bind_refusals.explain_bind_refusal(bind.status, lambda name: f"“{get_setting_label(name)}”")
        sentences = [f"{sentences[0].removesuffix('.')}: {meaning}."]
    seconds = (bind.next_attempt_at - clock.now_ms()) // 1000
    if bind.next_attempt_at and seconds > 0:
        sentences.append(_("Next try in %(seconds)s s.", seconds=i18n.format_number(seconds)))
    return sentences


def _is_rate_low(rates: DeliveryRates) -> bool:
    return rates.has_fallen(_RATE_DROP, _MIN_ENDED, _MIN_ENDED)


def _waits_long(card: UpstreamCard) -> bool:
    oldest_at = card.waiting.oldest_at if card.waiting else None
    return oldest_at is not None and clock.now_ms() - oldest_at > waiting.LONG_WAIT_MS


def _list_figures(card: UpstreamCard, measured: UpstreamLoad, rates: DeliveryRates) -> list[Figure]:
    is_simulator = card.upstream.kind == SIMULATOR
    return [
        *((_build_ended_figure(rates),) if is_simulator else _list_load_figures(card.upstream, measured)),
        _build_waiting_figure(card),
        _build_rate_figure(rates),
    ]


def _list_load_figures(upstream: Upstream, measured: UpstreamLoad) -> list[Figure]:
    limit = upstream.settings.throughput
    note = _("of %(limit)s", limit=i18n.format_number(limit)) if limit else ""
    if measured.slowed_to is not None:
        note = _("slowed to %(rate)s", rate=i18n.format_number(measured.slowed_to))
    latency = "–"
    if measured.latency_p50 is not None and measured.latency_p99 is not None:
        latency = f"{_format_ms(measured.latency_p50)} · {_format_ms(measured.latency_p99)} ms"
    is_off = not measured.window
    return [
        Figure(
            _("Parts a second"),
            "–" if is_off else i18n.format_number(measured.parts_per_second),
            note,
            DOUBTFUL if measured.slowed_to is not None else "",
        ),
        Figure(
            _("Window in use"),
            "–" if is_off else f"{i18n.format_number(measured.window_in_use)}/{i18n.format_number(measured.window)}",
        ),
        Figure(_("Answer time p50 · p99"), latency),
    ]


def _format_ms(value: float) -> str:
    return i18n.format_number(round(value, 1) if value < 10 else round(value))


def _build_waiting_figure(card: UpstreamCard) -> Figure:
    if card.waiting is None:
        return Figure(_("Waiting"), "0")
    note = ""
    if card.waiting.oldest_at is not None:
        note = _("the oldest: %(when)s", when=i18n.format_relative_time(card.waiting.oldest_at, clock.now_ms()))
    kind = DOUBTFUL if _waits_long(card) else ""
    return Figure(gettext("Waiting"), i18n.format_number(card.waiting.count), note, ILL if card.kind == ILL else kind)


def _build_ended_figure(rates: DeliveryRates) -> Figure:
    return Figure(_("Messages, last hour"), i18n.format_number(rates.hour.total))


def _build_rate_figure(rates: DeliveryRates) -> Figure:
    usual = "–" if rates.before.rate is None else i18n.format_percent(rates.before.rate)
    hour = "–" if rates.hour.rate is None else i18n.format_percent(rates.hour.rate)
    return Figure(
        _("Delivered, last hour"),
        hour,
        _("%(days)s days: %(rate)s", days=load.RATE_DAYS, rate=usual),
        DOUBTFUL if _is_rate_low(rates) else "",
    )
