"""The replay bench plays the machine that runs are made of; nothing here asserts how long it took."""

from __future__ import annotations

from hypergpu_fl.bench.replay import play, run_replay


def test_a_row_a_fleet_size_whose_log_folds_to_the_run() -> None:
    rows = run_replay(nodes=(10, 40), cohort=4, rounds=5)
    assert [row["nodes"] for row in rows] == [10, 40]
    assert all(row["events"] > 50 and 0 < row["bytes_per_event"] < 1000 and row["event_ms_p99"] > 0 for row in rows)


def test_one_seed_gives_one_log_twice_and_another_seed_another() -> None:
    first, again, other = (
        play(20, cohort=4, rounds=6, policy_name="network_aware", seed=seed).lines for seed in (3, 3, 4)
    )
    assert first == again and first != other
