from __future__ import annotations

from hypergpu_fl.bench.train import run_train


def test_every_model_is_measured_beside_the_plain_loop() -> None:
    rows = run_train(models=["mlp", "simple_cnn"], device="cpu", examples=64, steps=3, batch_size=24, repeats=1)
    assert [row["model"] for row in rows] == ["mlp", "simple_cnn"]
    for row in rows:
        assert set(row) == {"model", "device", "samples_per_s", "peer_samples_per_s"}
        assert row["device"] == "cpu"


def test_throughput_is_samples_over_the_median_time_after_the_first_call() -> None:
    # Ours takes 1, 1, 2, 3 s (the first does not count), the plain loop 4 s each; `train` reads its own clock.
    times = iter([0, 1, 5, 5, 6, 10, 10, 12, 16, 16, 19, 23])
    (row,) = run_train(
        models=["mlp"], device="cpu", examples=16, steps=2, batch_size=8, repeats=3, clock=lambda: float(next(times))
    )
    assert (row["samples_per_s"], row["peer_samples_per_s"]) == (16 / 2, 16 / 4)
