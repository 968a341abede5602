from pathlib import Path

import pytest

from hypergpu_fl.errors import UsageError
from hypergpu_fl.network.traces import links_from_traces

DEVICES = "client,compute_ms_per_sample,bandwidth_kbps\n0,153,2000\n1,39,18000\n2,22,23000\n"
ROUND_TRIPS = "src,dst,rtt_avg_ms,rtt_stddev_ms\n0,1,300,16\n1,0,150,4\n"


@pytest.fixture
def devices(tmp_path: Path) -> Path:
    return write(tmp_path / "devices.csv", DEVICES)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_every_device_is_drawn_once_and_keeps_its_own_numbers(devices, tmp_path):
    links = links_from_traces(devices, write(tmp_path / "rtt.csv", ROUND_TRIPS), 3, seed=1)
    assert sorted((link.sample_s, link.uplink_bps) for link in links) == [(0.022, 23e6), (0.039, 18e6), (0.153, 2e6)]
    assert {(link.rtt_s, link.jitter_s) for link in links} <= {(0.3, 0.016), (0.15, 0.004)}


def test_one_seed_gives_one_draw(devices):
    assert links_from_traces(devices, None, 2, seed=1) == links_from_traces(devices, None, 2, seed=1)
    draws = {tuple(links_from_traces(devices, None, 2, seed=seed)) for seed in range(9)}
    assert len(draws) > 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b,c\n", "columns"),
        ("", "columns"),
        (DEVICES + "3,x,1\n", "line 5"),
        (DEVICES + "3,-1,1\n", "line 5"),
        (DEVICES + "3,nan,1\n", "line 5"),
        (DEVICES + "3,1\n", "line 5"),
        (DEVICES, "3 devices, 4 are needed"),
    ],
)
def test_a_bad_trace_is_refused_with_its_line(tmp_path, text, said):
    with pytest.raises(UsageError, match=said):
        links_from_traces(write(tmp_path / "d.csv", text), None, 4, seed=0)


def test_a_missing_or_binary_trace_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot read"):
        links_from_traces(tmp_path / "none.csv", None, 1, seed=0)
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot read"):
        links_from_traces(tmp_path / "b.csv", None, 1, seed=0)
