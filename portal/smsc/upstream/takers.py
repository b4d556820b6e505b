"""The paths of messages in memory: which upstream takes each, and what happens where another one does.

An account's messages to one number stay in their order whichever upstream takes them: before another one takes a path,
what the one before has not answered is stored as something that holds up what comes behind it.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from portal.core.clock import MINUTE_MS, now_ms
from portal.services.messages.sending import Flow
from portal.services.messages.validation import SubmittedMessage
from portal.services.routing.route_table import RouteTable
from portal.services.routing.route_usage import NO_ROUTE, RouteUse
from portal.services.upstreams.health import FAILING, GOOD, TRYING
from portal.services.upstreams.paths import (
    DEFAULT_PATH,
    UpstreamPath,
    choose_taker,
    get_path_upstreams,
    get_quiet_route,
    is_held_path,
)
from portal.smsc.storage.sqlite_outbound import OutboundStorage
from portal.smsc.upstream.channel import UpstreamChannel

log = logging.getLogger(__name__)

# Of an account that waits: those of more than a moment wait for a claim.
_MAX_DESTINATIONS = 1_000


def decrement(counter: Counter[Any], key: object) -> None:
    """Count one less, and keep no zeros."""
    counter[key] -= 1
    if not counter[key]:
        del counter[key]


class OutboundPath:
    """One path.

    order: the upstreams that it names, the default one's own for DEFAULT_PATH. quiet_route_id: of a route with quiet
    hours, whose path it is; None: it is of none. taker: the one that takes what waits on it. direct: the same, where a
    message may be stored as that upstream's at once; None: it waits first. is_changing: nobody takes it for a moment,
    as another one will.
    waiting_account_ids: the accounts of which something may wait here: what they submit must not overtake it.
    most_waiting: how many messages a claim may find here at most; None: it is not known.
    """

    def __init__(self, upstream_ids: UpstreamPath, put_backs: Counter[int]) -> None:
        """Args: `put_backs`: how many messages of each account are being stored to wait again, on whichever path."""
        self.upstream_ids = upstream_ids
        self.order = () if is_held_path(upstream_ids) else get_path_upstreams(upstream_ids)
        self.quiet_route_id = get_quiet_route(upstream_ids)
        self.taker: UpstreamChannel | None = None
        self.direct: UpstreamChannel | None = None
        self.is_changing = False
        self.waiting_account_ids = {*put_backs}
        self._put_backs = put_backs
        # How many messages of each account are being stored to wait here, by destination.
        self._pending: dict[int, Counter[str]] = {}
        # The destinations of all that waits here, of those accounts of which these are known.
        self._destinations: dict[int, set[str]] = {}
        self.most_waiting: int | None = None

    def release(self) -> None:
        """Nobody takes it for a moment; who has taken it may have something of it still."""
        if self.taker is not None:
            self.taker.has_lost_path = True
        self.taker = self.direct = None

    def may_pass(self, message: SubmittedMessage) -> bool:
        """Whether a message overtakes nothing, though others of its account wait here.

        What waits is claimed already, and has room, or is held, and none of it is to the same destination. An account
        that submits without a pause would wait for ever else, since something of it is always being stored; and one
        with a message to a handset that is switched off, for days.
        """
        destinations = self._destinations.get(message.account_id)
        return destinations is not None and self.most_waiting == 0 and message.destination not in destinations

    def begin_enqueue(self, message: SubmittedMessage) -> None:
        """A message is being stored to wait."""
        account_id, destination = message.account_id, message.destination
        if account_id not in self.waiting_account_ids:
            self.waiting_account_ids.add(account_id)
            self._destinations[account_id] = {destination}
        elif account_id in self._destinations:
            self._destinations[account_id].add(destination)
            if len(self._destinations[account_id]) > _MAX_DESTINATIONS:
                del self._destinations[account_id]
        self._pending.setdefault(account_id, Counter())[destination] += 1

    def finish_enqueue(self, message: SubmittedMessage) -> None:
        pending = self._pending[message.account_id]
        decrement(pending, message.destination)
        if not pending:
            del self._pending[message.account_id]
        self.expect_waiting(1)

    def expect_waiting(self, count: int | None = None) -> None:
        """Something more waits: so many messages, None: it is not known how many, nor whether any."""
        self.most_waiting = None if count is None or self.most_waiting is None else self.most_waiting + count

    def take_left(self, count: int | None) -> None:
        """So many messages were left behind a claim, None: it is not known how many; what has come since is counted."""
        if self.most_waiting is not None:
            self.most_waiting = count

    def forget_waiting(self, account_ids: Iterable[int]) -> None:
        """Nothing of these accounts is stored here any more."""
        for each in account_ids:
            if each in self._put_backs:
                continue
            if each in self._pending:
                self._destinations[each] = {*self._pending[each]}
            else:
                self.waiting_account_ids.discard(each)
                self._destinations.pop(each, None)

    def note_held(self, account_id: int, destinations: Collection[str]) -> None:
        """Of an account only what is to these destinations is stored here, and is held."""
        if account_id in self.waiting_account_ids and account_id not in self._put_backs:
            self._destinations[account_id] = {*destinations, *self._pending.get(account_id, ())}

    def add_waiting(self, account_ids: Iterable[int]) -> None:
        """Something of these accounts may be stored here; nothing is known of it."""
        for each in account_ids:
            self.waiting_account_ids.add(each)
            self._destinations.pop(each, None)

    def set_waiting(self, account_ids: Iterable[int]) -> None:
        """Something of these accounts, and of no others, is stored here; nothing is known of it."""
        self.waiting_account_ids = {*account_ids, *self._pending, *self._put_backs}
        self._destinations.clear()


class PathTakers:
    """All paths that messages take, until `stop`.

    Args:
        channels: of all upstreams, by their ids; the dispatcher's own.
        claim: is called where more may be claimed than before.

    default: the path of the default upstream. is_choosing: whether `choose_path` can find another one than that.
    put_backs: how many messages of each account and destination are being stored to wait again. held_account_ids: the
    accounts on hold. routes: those that messages take. is_recovered: whether it is known what waits; before that
    nothing goes out.
    """

    def __init__(
        self, storage: OutboundStorage, channels: Mapping[int, UpstreamChannel], claim: Callable[[], None]
    ) -> None:
        self._storage = storage
        self._channels = channels
        self._claim = claim
        self.put_backs: Counter[Flow] = Counter()
        self.held_account_ids: frozenset[int] = frozenset()
        self._put_back_accounts: Counter[int] = Counter()
        self.default = OutboundPath(DEFAULT_PATH, self._put_back_accounts)
        # All that messages have taken since the start: of each it has to be known who took it last.
        self._paths: dict[UpstreamPath, OutboundPath] = {DEFAULT_PATH: self.default}
        self.routes = RouteTable([], {}, None)
        self.is_choosing = False
        self.is_recovered = False
        # Until what waits is on the paths that it takes now, nothing of it is claimed; and before it is stored what
        # holds up others, nothing goes out at all.
        self._reroutings = self._holdings = 0
        self._is_stopped = False
        # The routes whose paths nobody takes, as their quiet hours are; those found last, for which table and minute.
        self._quiet_route_ids: set[int] = set()
        self._found_route_ids: set[int] = set()
        self._quiet_moment: tuple[RouteTable, int] | None = None

    def stop(self) -> None:
        """Let nothing more go out."""
        self._is_stopped = True
        for path in self._paths.values():
            path.release()

    # --- which path a message takes

    def choose_path(self, message: SubmittedMessage) -> OutboundPath | None:
        """Return a message's path; None where nothing takes it."""
        decision = self.routes.choose(message.account_id, message.destination, message.country, message.source)
        if decision.route_id is not None:
            # Looked up here as well: this is done once a message.
            return self._paths.get(decision.path) or self._get_path(decision.path)
        # Without any upstream messages wait for the first.
        return self.default if decision.upstream_ids or not self._channels else None

    def choose_route_use(self, message: SubmittedMessage, upstream_id: int) -> RouteUse:
        """Return how a message takes the route that fits it now, which it did when it came or was claimed.

        Args:
            upstream_id: what it goes out by: where operators have moved it there, the route's buying price isn't its.
        """
        values = message.country, message.parts, message.price
        if not self.routes.has_routes:
            return RouteUse(NO_ROUTE, *values, None, None)
        decision = self.routes.choose(message.account_id, message.destination, message.country, message.source)
        if decision.route_id is None:
            return RouteUse(NO_ROUTE, *values, None, None)
        route = self.routes.with_options.get(decision.route_id)
        if route is None:
            return RouteUse(decision.route_id, *values, None, None)
        buying_price = route.buying_price if upstream_id in decision.upstream_ids else None
        return RouteUse(decision.route_id, *values, buying_price, route.replace_sender)

    def _get_path(self, upstream_ids: UpstreamPath) -> OutboundPath:
        path = self._paths.get(upstream_ids)
        if path is None:
            path = self._paths[upstream_ids] = OutboundPath(upstream_ids, self._put_back_accounts)
            # What waits on another path may hold up what takes this one.
            path.set_waiting(self._list_waiting_accounts())
            self.update()
        return path

    # --- what waits

    def begin_put_back(self, flow: Flow) -> None:
        """A message is being stored to wait again, on whichever path."""
        account_id = flow[0]
        if not self._put_back_accounts[account_id]:
            for path in self._paths.values():
                path.add_waiting([account_id])
        self.put_backs[flow] += 1
        self._put_back_accounts[account_id] += 1

    def finish_put_back(self, flow: Flow) -> None:
        """It is stored, and `expect_waiting` follows."""
        decrement(self.put_backs, flow)
        decrement(self._put_back_accounts, flow[0])

    def change_holds(self, account_ids: frozenset[int]) -> None:
        """All of these accounts waits, and of no others for that."""
        before, self.held_account_ids = self.held_account_ids, account_ids
        # As if something of them were being stored to wait again all the time: so nothing is sent at once.
        for each in account_ids - before:
            self._put_back_accounts[each] += 1
        for each in before - account_ids:
            decrement(self._put_back_accounts, each)
        for path in self._paths.values():
            path.add_waiting(before ^ account_ids)
            path.expect_waiting()

    def finish_enqueue(self, message: SubmittedMessage) -> None:
        """A message is stored to wait, or is not."""
        self._paths[message.path].finish_enqueue(message)

    def expect_waiting(self) -> None:
        """Something may be claimed that was held up, on whichever path."""
        for path in self._paths.values():
            path.expect_waiting()

    def add_waiting(self, waiting: Collection[tuple[UpstreamPath, int]]) -> None:
        """On these paths, which no message may have taken yet, something of these accounts waits from now on."""
        for upstream_ids, account_id in waiting:
            path = self._get_path(upstream_ids)
            path.add_waiting([account_id])
            path.expect_waiting()

    def forget_waiting(
        self, account_ids: Collection[int], emptied_paths: Iterable[tuple[UpstreamPath, int]] = ()
    ) -> None:
        """Nothing of these accounts waits any more, and on these paths nothing of each one's account."""
        if account_ids:
            for path in self._paths.values():
                path.forget_waiting(account_ids)
        for upstream_ids, account_id in emptied_paths:
            if upstream_ids in self._paths:
                self._paths[upstream_ids].forget_waiting([account_id])

    def note_held(self, held: Mapping[tuple[UpstreamPath, int], Collection[str]]) -> None:
        """On these paths nothing of each one's account waits that is to another destination."""
        for (upstream_ids, account_id), destinations in held.items():
            if upstream_ids in self._paths:
                self._paths[upstream_ids].note_held(account_id, destinations)

    def _list_waiting_accounts(self) -> set[int]:
        return set().union(*(path.waiting_account_ids for path in self._paths.values()))

    def list_claimable_paths(self, channel: UpstreamChannel, *, is_trial: bool = False) -> list[OutboundPath]:
        """Return the paths from which an upstream may claim something now; or one message, as a trial, to see whether
        it is well again.
        """
        if self._reroutings:
            return []
        return [
            path
            for path in self._paths.values()
            if path.most_waiting != 0 and (self._is_ahead(channel, path) if is_trial else path.taker is channel)
        ]

    def _is_ahead(self, channel: UpstreamChannel, path: OutboundPath) -> bool:
        """Whether an upstream would take a path, were it well."""
        taker = path.taker
        if taker is None or taker is channel or channel.id not in path.order:
            return False
        return path.order.index(channel.id) < path.order.index(taker.id)

    def expect_held(self, message: SubmittedMessage) -> None:
        """What comes behind a message to the same destination waits for it from now on."""
        for path in self._paths.values():
            path.add_waiting([message.account_id])

    # --- which upstream takes a path

    def set_default_upstream(self, upstream_id: int | None) -> None:
        """Let this one take what no route does."""
        self.default.order = () if upstream_id is None else (upstream_id,)
        for each in self._channels:
            # What it has begun may wait for it alone (`paths.choose_begun_path`).
            self._get_path((each,))
        self._update_choosing()
        self.update()

    def update(self) -> None:
        """Look anew which upstream takes each path."""
        if self._is_stopped or self._holdings:
            return
        self._update_quiet_routes()
        health = {each.id: each.health.state for each in self._channels.values() if each.may_send}
        changing: dict[int, list[OutboundPath]] = {}
        # Where the next one doesn't do well either, what was refused for the moment keeps its pause.
        well_taken: set[UpstreamPath] = set()
        for path in self._paths.values():
            if path.is_changing:
                continue
            upstream_id = None if path.quiet_route_id in self._quiet_route_ids else choose_taker(path.order, health)
            taker = None if upstream_id is None else self._channels[upstream_id]
            before = path.taker
            if taker is before or before is None:
                self._set_taker(path, taker)
            else:
                path.release()
                path.is_changing = True
                changing.setdefault(before.id, []).append(path)
                if taker is not None and taker.health.state == GOOD:
                    well_taken.add(path.upstream_ids)
        for upstream_id, paths in changing.items():
            retried_paths = [path.upstream_ids for path in paths if path.upstream_ids in well_taken]
            self._storage.hold_followers([upstream_id], retried_paths, partial(self._finish_change, paths))

    def _update_quiet_routes(self) -> None:
        before, self._quiet_route_ids = self._quiet_route_ids, self._find_quiet_routes()
        for each in before ^ self._quiet_route_ids:
            log.info("quiet hours of route %d %s", each, "begin" if each in self._quiet_route_ids else "end")

    def _find_quiet_routes(self) -> set[int]:
        """Return the ids of the routes whose paths nobody takes at this time."""
        now = now_ms()
        moment = self.routes, now // MINUTE_MS
        if moment != self._quiet_moment:
            self._quiet_moment = moment
            self._found_route_ids = {each for each, hours in self.routes.quiet_hours.items() if hours.includes(now)}
        return self._found_route_ids

    def _set_taker(self, path: OutboundPath, taker: UpstreamChannel | None) -> None:
        if path.taker is not taker:
            path.taker = taker
            path.expect_waiting()
        # To try another one there has to be something that waits.
        wants_trial = any(each.wants_trial and self._is_ahead(each, path) for each in self._channels.values())
        path.direct = taker if self.is_recovered and not wants_trial else None

    def _finish_change(self, paths: Sequence[OutboundPath], waiting: Collection[tuple[UpstreamPath, int]]) -> None:
        self._add_waiting(waiting)
        for path in paths:
            path.is_changing = False
        self.update()
        self._claim()

    def _add_waiting(self, waiting: Collection[tuple[UpstreamPath, int]]) -> None:
        self.add_waiting(waiting)
        # What is held on one path holds up what its account sends on any.
        account_ids = self._list_waiting_accounts()
        for path in self._paths.values():
            path.add_waiting(account_ids)

    # --- routes that change

    def change_routes(self, routes: RouteTable, *, moves_waiting: bool) -> None:
        """Let messages take these routes; where that `moves_waiting`, what waits takes other paths, too."""
        self.routes = routes
        self._update_choosing()
        if moves_waiting and self.is_recovered:
            self._begin_rerouting()

    def _update_choosing(self) -> None:
        """Look whether there is anything to choose: routes, or that nothing takes a message."""
        self.is_choosing = self.routes.has_routes or (bool(self._channels) and not self.routes.default.upstream_ids)

    def handle_recovered(self, waiting: Collection[tuple[UpstreamPath, int]]) -> None:
        """What waits is known, and nothing of what was under way is."""
        self.is_recovered = True
        self._add_waiting(waiting)
        if waiting and (self.routes.has_routes or any(upstream_ids for upstream_ids, _ in waiting)):
            # Routes may have changed meanwhile.
            self._begin_rerouting()
        self.update()

    def _begin_rerouting(self) -> None:
        self._reroutings += 1
        self._holdings += 1
        for path in self._paths.values():
            path.release()
        upstream_ids = [each.id for each in self._channels.values() if each.has_unanswered]
        self._storage.hold_followers(upstream_ids, (), self._continue_rerouting)
        self._storage.reroute_messages(self._finish_rerouting)

    def _continue_rerouting(self, waiting: Collection[tuple[UpstreamPath, int]]) -> None:
        """What has been under way holds up what comes behind it, so what others submit may go out."""
        self._add_waiting(waiting)
        self._holdings -= 1
        self.update()

    def _finish_rerouting(self, waiting: Collection[tuple[UpstreamPath, int]]) -> None:
        self._reroutings -= 1
        if self._reroutings:
            return
        for path in self._paths.values():
            path.set_waiting(())
        self._add_waiting(waiting)
        self.expect_waiting()
        self.update()
        self._claim()

    # --- how upstreams are

    def check_health(self, now: float) -> None:
        """Look at all upstreams, and let others take over from those that fail; and whether quiet hours begin or end.
        `now`: on the event loop's clock.
        """
        changed = [each for each in self._channels.values() if each.check_health(now)]
        for channel in changed:
            health = channel.health
            level = logging.WARNING if health.state == FAILING else logging.INFO
            log.log(level, "upstream %s is %s%s", channel.name, health.state, health.reason and f": {health.reason}")
            channel.record_health()
            if channel.trial_id is not None:
                channel.has_lost_path = True
        is_quiet_changed = self._find_quiet_routes() != self._quiet_route_ids
        may_change = changed or is_quiet_changed or any(each.health.state == TRYING for each in self._channels.values())
        if may_change:
            self.update()
        for channel in self._channels.values():
            if channel.has_lost_path:
                channel.take_back_messages()
        if may_change:
            self._claim()
