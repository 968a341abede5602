"""What each node is asked to do, by the planner's name."""

from __future__ import annotations

from typing import Final

from strategies.planning.alike import plan_alike
from strategies.planning.plans import FEWEST_STEPS, MOST_STEPS, Compression, FleetPlan, Planner, Workload, thinned
from strategies.planning.progress import plan

__all__ = [
    "FEWEST_STEPS",
    "MOST_STEPS",
    "PLANNERS",
    "FleetPlan",
    "Compression",
    "Workload",
    "plan",
    "plan_alike",
    "thinned",
]

PLANNERS: Final[dict[str, Planner]] = {"progress": plan, "alike": plan_alike}
