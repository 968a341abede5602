"""`hypergpu bench time-to-accuracy`: who reaches the target first, over the same links, data and chance.

Protocol. A scenario's data, links and first model depend on the seed alone, so that contenders are paired. For every
seed the target is fixed before the race: one point below the accuracy that unbiased FedAvg (uniform sampling, waiting
for all, ``UPDATES`` updates, no horizon) reaches on that seed's data. A contender reaches it at the first of ``HELD``
rounds in a row that are all at or above it. Final accuracies are means over the last tenth of a run's rounds; a run has
at least as many updates as FedAvg's and processes at least as many samples. Local optimiser, learning rate, batch size,
epochs and server optimiser are the same for all and were chosen for FedAvg. Messages are priced as if the model had
``payload_mb``: each message's real, encoded bytes are scaled by ``payload_mb`` over the small model's size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from hypergpu_fl.bench.contenders import ABLATIONS, CONTENDERS, REFERENCE, Contender
from hypergpu_fl.bench.race import Course, Limits, Race, Setting
from hypergpu_fl.bench.scenarios import CORRELATED_TASK, Labels, Links
from hypergpu_fl.bench.shipped import changed_rounds
from hypergpu_fl.bench.standings import Row, Standings
from hypergpu_fl.codec.payload import COMPRESSIONS
from hypergpu_fl.config import DATASETS, Training
from hypergpu_fl.errors import UsageError
from hypergpu_fl.files import exclusive, path_meant
from hypergpu_fl.network.wan import PROFILES
from strategies.prose import amount

UPDATES = 2000
HELD = 3
MARGIN = 0.01
# FedAvg's own local work (McMahan et al., arXiv 1602.05629: E = 5, B = 10), at the rate that serves it best here.
EPOCHS, BATCH_SIZE, LEARNING_RATE = 5, 10, 0.1
LABELS: tuple[Labels, ...] = get_args(Labels)

Progress = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What to race, and over what.

    ``links`` is the CSV of a device trace or the name of a profile, ``rtt`` the CSV of round-trip times for a trace.
    ``target`` None means that it is measured, see the module. ``out`` gets the rows as JSON. Beside it
    ``*.curves.json`` keeps what an interrupted race needs to continue, ``*.md`` has the table, and ``*.png`` the
    curves.
    """

    out: Path
    dataset: str = "mnist"
    data_root: str = ""
    links: str = "silo"
    rtt: Path | None = None
    scenarios: Sequence[str] = LABELS
    nodes: int = 100
    cohort: int = 10
    alpha: float = 0.3
    payload_mb: float = 45.0
    target: float | None = None
    seeds: Sequence[int] = (0, 1, 2)
    policies: Sequence[str] = tuple(CONTENDERS)
    horizon_s: float = 20_000.0
    ablation: bool = False

    def check(self) -> None:
        """Raise ``UsageError`` for what cannot be raced."""
        for kind, wanted, known in (
            ("scenario", self.scenarios, LABELS),
            ("policy", self.policies, tuple(CONTENDERS)),
        ):
            if unknown := [name for name in wanted if name not in known]:
                raise UsageError(f"there is no {kind} {unknown[0]!r}", f"choose from {', '.join(known)}")
            if not wanted:
                raise UsageError(f"no {kind} to race", f"choose from {', '.join(known)}")
        if self.dataset not in DATASETS:
            raise UsageError(f"there is no data set {self.dataset!r}", f"choose from {', '.join(DATASETS)}")
        if self.links not in PROFILES and not Path(self.links).is_file():
            remedy = path_meant(Path(self.links)) or f"name a CSV or one of {', '.join(PROFILES)}"
            raise UsageError(f"links {self.links!r} are neither a file nor a profile", remedy)
        if not self.seeds:
            raise UsageError("no seed to race", "give at least one, better three")
        if not 1 <= self.cohort <= self.nodes:
            raise UsageError(f"a cohort of {self.cohort} out of {amount(self.nodes, 'node')}", "take 1 to --nodes")
        if not (self.payload_mb > 0 and self.horizon_s > 0 and self.alpha > 0):
            raise UsageError("payload, horizon and alpha must be positive", "see --help for the defaults")
        if self.target is not None and not 0 < self.target < 1:
            raise UsageError(f"a target accuracy of {self.target}", "give a share below 1, as 0.9")

    @property
    def over(self) -> Links:
        """Source of the links."""
        if self.links in PROFILES:
            return Links(self.links)
        return Links(Path(self.links).stem, Path(self.links), self.rtt)

    def contenders(self) -> list[Contender]:
        """Who races, the reference first."""
        named = [CONTENDERS[name] for name in self.policies if name != REFERENCE]
        return [CONTENDERS[REFERENCE], *named, *(ABLATIONS.values() if self.ablation else ())]

    def setting(self, scenario: str, seed: int) -> Setting:
        """What the contenders of one race share."""
        training = Training(
            task=CORRELATED_TASK if scenario == "correlated" else "",
            dataset=self.dataset,
            data_root=self.data_root,
            alpha=self.alpha,
            num_nodes=self.nodes,
            epochs=EPOCHS,
            batch_size=BATCH_SIZE,
            learning_rate=LEARNING_RATE,
            seed=seed,
        )
        return Setting(training, self.over, self.cohort, self.payload_mb)

    def fingerprint(self) -> dict[str, Any]:
        """Options that results depend on, besides scenario, seed and policy."""
        free = ("out", "scenarios", "seeds", "policies", "ablation")
        settings = {key: value for key, value in asdict(self).items() if key not in free}
        return {**settings, "rtt": str(self.rtt or ""), "updates": UPDATES}


def run_time_to_accuracy(options: Options, progress: Progress = lambda share, label: None) -> list[Row]:
    """Race every contender in every scenario on every seed; rows that ``options.out`` already holds are kept.

    Parameters
    ----------
    options : Options
        What to race.
    progress : callable
        Called with the share that is done, in [0, 1], and what is being run.

    Returns
    -------
    list of dict
        One row a contender, scenario and seed: ``policy, scenario, links, seed, target, time_to_target_s,
        final_accuracy, slow_accuracy, rounds, bytes_up, bytes_down, max_abs_drift, changed``; ``changed`` are the
        settings of a round that differ from those that `hypergpu run` has by default with the same policy.

    Raises
    ------
    UsageError
        If the options cannot be raced, or ``options.out`` was made with others or is being written.
    """
    options.check()
    busy = UsageError(f"another process writes {options.out}", "wait for it, or name another file")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(options.out.with_suffix(".lock"), busy):
        return _race(options, progress)


def _race(options: Options, progress: Progress) -> list[Row]:
    standings = Standings.open(options.out, options.fingerprint())
    contenders = options.contenders()
    courts = [(scenario, seed) for scenario in options.scenarios for seed in options.seeds]
    total = len(courts) * len(contenders)
    for number, (scenario, seed) in enumerate(courts):
        race: Race | None = None
        setting, target = options.setting(scenario, seed), options.target
        for place, contender in enumerate(contenders):
            done = number * len(contenders) + place
            label = f"{scenario}, seed {seed}: {contender.name}"
            course = standings.course(contender.name, scenario, seed)
            if course is None:
                race = race or Race(setting)
                horizon_s = math.inf if contender.name == REFERENCE else options.horizon_s

                def tell(share: float, done: int = done, label: str = label) -> None:
                    progress((done + share) / total, label)

                course = race.run(contender, Limits(horizon_s, UPDATES, UPDATES * race.update_samples), tell)
            if target is None:  # the reference is always first
                target = round(course.final_accuracy - MARGIN, 4)
            standings.enter(_row(contender, scenario, setting, target, course), course)
            progress((done + 1) / total, label)
    standings.publish()
    return standings.rows


def _row(contender: Contender, scenario: str, setting: Setting, target: float, course: Course) -> Row:
    last = course.points[-1]
    rules = contender.rules(setting.rounds(), model_values=1, levels=COMPRESSIONS)
    return {
        "policy": contender.name,
        "scenario": scenario,
        "links": setting.links.name,
        "seed": setting.training.seed,
        "target": target,
        "time_to_target_s": course.time_to(target, HELD),
        "final_accuracy": course.final_accuracy,
        "slow_accuracy": course.slow_accuracy,
        "rounds": course.rounds,
        "bytes_up": last.bytes_up,
        "bytes_down": last.bytes_down,
        "max_abs_drift": course.max_abs_drift,
        "changed": changed_rounds(rules.settings, contender.selection),
    }
