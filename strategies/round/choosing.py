"""Decides who is sent which work, when a round begins and whenever a node has answered."""

from __future__ import annotations

import math

import numpy as np

from strategies.fleet import health
from strategies.planning import PLANNERS, FleetPlan, Workload, thinned
from strategies.round.commands import Command, Open, SendOrder
from strategies.round.rules import ORDERS_PER_NODE
from strategies.round.state import OpenOrder, OpenRound, State
from strategies.selection import Selection

LONGEST_TTL_S = 12 * 3600.0  # Flower's default
SHORTEST_TTL_S = 60.0
ASYNCHRONOUS = 4  # factor on the deadline: a round without a barrier cuts nobody off
HOPELESS = 4  # times the planned deadline: a node that says it takes longer is no part of a quota


def begin(state: State, open_: OpenRound, at_s: float) -> list[Command]:
    """Plan the round, choose who works, and set the terms on which it ends."""
    rules, fleet = state.rules, state.fleet
    settings = rules.settings
    fleet.learn_priors()
    fleet.believe(open_.round)
    plan = planned(state)
    open_.plan, open_.base_model = plan, state.versions.model
    asynchronous = settings.mode == "async"
    selection = _choose(state, open_, plan, rules.most_at_work if asynchronous else settings.cohort, at_s)
    quota = max(1, math.ceil(settings.quota * min(settings.cohort, _hopeful(state, plan)) - 1e-9))
    open_.quota = quota if asynchronous or selection.quota is None else selection.quota
    deadline_s = plan.deadline_s if selection.deadline_s is None else selection.deadline_s
    deadline_s *= ASYNCHRONOUS if asynchronous else 1
    return [
        Open(open_.round, deadline_s if math.isfinite(deadline_s) else None),
        *_orders(state, open_, plan, selection),
    ]


def refill(state: State, open_: OpenRound, at_s: float) -> list[Command]:
    """Where rounds have no barrier, give free nodes work at once while this round wants replies."""
    if state.rules.settings.mode != "async" or not open_.wanted or open_.plan is None:
        return []
    return _orders(state, open_, open_.plan, _choose(state, open_, open_.plan, state.rules.most_at_work, at_s))


def planned(state: State) -> FleetPlan:
    """Plan what each node would do now."""
    settings, fleet, levels = state.rules.settings, state.fleet, state.rules.levels
    as_claimed = settings.examples == "claimed"
    fleet.agree(most=settings.max_examples, as_claimed=as_claimed)
    ratios = {level.name: level.expected_ratio for level in levels}
    if settings.codec != "auto":
        levels = tuple(level for level in levels if level.name == settings.codec)
    model_bytes = round(4 * state.rules.model_values * settings.byte_scale)
    workload = Workload(
        settings.base_steps(fleet.to_pass(most=settings.max_examples, as_claimed=as_claimed)),
        settings.batch_size,
        model_bytes,
        state.common_bytes * settings.byte_scale,
        fixed=settings.asks_work,
        within=settings.steps_within,
    )
    return PLANNERS[state.rules.planner](
        fleet, workload, levels, deadline_s=settings.deadline_s, down_ratio=ratios.get(settings.downlink_codec)
    )


def _hopeful(state: State, plan: FleetPlan) -> int:
    """Number of nodes that a round's quota is a share of: all that may answer in time by what is known of them.

    A round that waits for nodes which claim to be far slower would last until its deadline, though all others are done.
    Where the deadline is the configuration's own, it says nothing of what nodes take, and all count.
    """
    if state.rules.settings.deadline_s:
        return len(state.fleet)
    return int((plan.predicted_s <= HOPELESS * plan.deadline_s).sum())


def _choose(state: State, open_: OpenRound, plan: FleetPlan, count: int, at_s: float) -> Selection:
    """Ask the policy for ``count`` nodes, and keep as many of its choice as may still be given work."""
    fleet = state.fleet
    room = state.rules.most_at_work - int(fleet.at_work.sum())
    if (count := min(count, room)) <= 0:
        return Selection(np.zeros(0, dtype=np.int64))
    rng = np.random.default_rng([state.rules.settings.seed, open_.round, open_.refills])
    open_.refills += 1
    health.rested(fleet, at_s=at_s)
    # A second update from the same node against the same model would repeat the first. A node that failed in this round
    # is tried again in a later one, so no node fails a round more than once.
    available = fleet.available(orders=ORDERS_PER_NODE)
    available = available[fleet.held[available] < state.versions.version]
    available = available[~np.isin(available, list(open_.failed))]
    selection = state.selection.select(fleet, available, plan, cohort=count, round=open_.round, rng=rng)
    return selection.first(room)


def _orders(state: State, open_: OpenRound, plan: FleetPlan, selection: Selection) -> list[Command]:
    return [_order(state, open_, plan, selection, index) for index in range(selection.rows.size)]


def _order(state: State, open_: OpenRound, plan: FleetPlan, selection: Selection, index: int) -> SendOrder:
    settings, fleet, row = state.rules.settings, state.fleet, int(selection.rows[index])
    work = plan.of(row)
    steps = work.local_steps
    if selection.local_steps is not None and not settings.asks_work:
        steps = int(selection.local_steps[index])
    codec = work.codec
    if selection.keep is not None and selection.keep[index] < 1:
        codec = thinned(state.rules.levels, codec, float(selection.keep[index]))
    down = settings.downlink_codec
    deadline_s = work.deadline_s if selection.deadline_s is None else selection.deadline_s
    number, state.next_order = state.next_order, state.next_order + 1
    order = SendOrder(
        order=number,
        row=row,
        round=open_.round,
        base=state.versions.version,
        local_steps=steps,
        batch_size=work.batch_size,
        codec=codec,
        downlink=work.codec if down == "auto" else down,
        held=int(fleet.held[row]),
        ack=int(fleet.acknowledged[row]),
        ttl_s=min(LONGEST_TTL_S, max(SHORTEST_TTL_S, settings.reply_patience * deadline_s)),
    )
    state.orders[number] = OpenOrder(row, open_.round, order.base, max(1, steps), state.versions.sketch)
    fleet.orders[row] += 1
    fleet.last_round[row] = open_.round
    fleet.selections[row] += 1
    open_.selected.append(row)
    return order
