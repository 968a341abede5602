from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hypergpu_fl.bench import time_to_accuracy
from hypergpu_fl.bench.time_to_accuracy import Options, run_time_to_accuracy
from hypergpu_fl.errors import UsageError
from hypergpu_fl.files import exclusive

COLUMNS = [
    *("policy", "scenario", "links", "seed", "target", "time_to_target_s", "final_accuracy", "slow_accuracy"),
    *("rounds", "bytes_up", "bytes_down", "max_abs_drift", "changed"),
]


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Options:
    monkeypatch.setattr(time_to_accuracy, "UPDATES", 24)
    return Options(
        out=tmp_path / "tta.json",
        dataset="digits",
        scenarios=("correlated",),
        nodes=10,
        cohort=4,
        seeds=(5,),
        policies=("network_aware", "oort", "fedbuff"),
    )


def test_a_race_is_run_resumed_and_repeated_with_one_result(small: Options, tmp_path: Path) -> None:
    heard: list[float] = []
    rows = run_time_to_accuracy(small, progress=lambda share, label: heard.append(share))
    assert [row["policy"] for row in rows] == ["random", "network_aware", "oort", "fedbuff"]
    assert all(list(row) == COLUMNS for row in rows)
    assert all("examples=claimed" in row["changed"] for row in rows) and "quota=0.5" in rows[1]["changed"]
    assert heard == sorted(heard) and heard[-1] == 1.0
    target = rows[0]["final_accuracy"] - time_to_accuracy.MARGIN
    assert all(row["target"] == pytest.approx(target, abs=1e-4) for row in rows)

    more = run_time_to_accuracy(replace(small, policies=(*small.policies, "latency")))
    assert more[:4] == rows and more[4]["policy"] == "latency"
    assert json.loads(small.out.read_text()) == more

    fresh = replace(small, out=tmp_path / "again.json", policies=("oort",))
    assert run_time_to_accuracy(fresh)[1] == rows[2]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"policies": ("oracle",)}, "no policy 'oracle'"),
        ({"scenarios": ("adverse",)}, "no scenario 'adverse'"),
        ({"policies": ()}, "no policy to race"),
        ({"seeds": ()}, "no seed"),
        ({"cohort": 11}, "cohort of 11"),
        ({"links": "nowhere.csv"}, "neither a file nor a profile"),
        ({"dataset": "imagenet"}, "no data set"),
        ({"payload_mb": 0.0}, "must be positive"),
        ({"target": 90.0}, "target accuracy of 90"),
    ],
)
def test_what_cannot_be_raced_is_refused_before_anything_runs(
    small: Options, change: dict[str, object], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        run_time_to_accuracy(replace(small, **change))


def test_two_races_do_not_write_one_file(small: Options) -> None:
    refusal = UsageError("busy", "wait")
    with exclusive(small.out.with_suffix(".lock"), refusal), pytest.raises(UsageError, match="another process writes"):
        run_time_to_accuracy(small)
