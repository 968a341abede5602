import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypergpu_fl.network.wan import MSS_BYTES, PROFILES, SimulatedLink, SimulatedWan, draw_links, tcp_bps

CLEAN = SimulatedLink(rtt_s=0.1, jitter_s=0.0, loss=0.0, uplink_bps=8e6, downlink_bps=16e6, sample_s=0.01)


def passage(link: SimulatedLink, **changes: float):
    wan = SimulatedWan([link], {7: 0}.get, seed=0)
    message = {"sent_s": 0.0, "bytes_down": 1_000_000, "bytes_up": 1_000_000, "samples": 50.0} | changes
    return wan.passage(7, **message)


def test_a_clean_link_takes_its_bytes_over_its_bandwidth():
    taken = passage(CLEAN)
    assert (taken.download_s, taken.compute_s, taken.upload_s, taken.rtt_s) == (0.5, 0.5, 1.0, 0.1)
    assert taken.total_s == pytest.approx(2.1)


@given(st.floats(1e5, 1e9), st.floats(1e-3, 1.0), st.floats(1e-6, 0.5))
def test_goodput_never_exceeds_the_bandwidth_nor_what_mathis_allows(bandwidth_bps, rtt_s, loss):
    rate = tcp_bps(bandwidth_bps, rtt_s, loss)
    assert rate <= bandwidth_bps
    assert rate * rtt_s * math.sqrt(loss) <= 1.22 * 8 * MSS_BYTES * (1 + 1e-9)
    assert tcp_bps(bandwidth_bps, rtt_s, loss * 2) <= rate


@given(st.permutations(list(range(12))))
def test_a_message_takes_as_long_whatever_order_nodes_are_asked_in(order):
    links = draw_links(PROFILES["flaky"], 3, seed=5)

    def run(nodes):
        wan = SimulatedWan(links, lambda node: node, seed=1)
        taken: dict[int, list[object]] = {}
        for node in nodes:
            taken.setdefault(node, []).append(wan.passage(node, sent_s=0, bytes_down=9, bytes_up=9, samples=1))
        return taken

    assert run([i % 3 for i in order]) == run([i % 3 for i in range(12)])


@pytest.mark.parametrize("name", PROFILES)
def test_links_of_a_profile_have_its_medians(name):
    profile, links = PROFILES[name], draw_links(PROFILES[name], 2001, seed=3)
    for wanted, field in ((profile.uplink_bps, "uplink_bps"), (profile.rtt_s, "rtt_s"), (profile.sample_s, "sample_s")):
        median = sorted(getattr(link, field) for link in links)[1000]
        assert median == pytest.approx(wanted, rel=0.12)
    assert links == draw_links(profile, 2001, seed=3) != draw_links(profile, 2001, seed=4)


def test_a_reply_is_lost_as_often_as_the_drop_rate_says():
    link = SimulatedLink(0.1, 0.0, 0.0, 8e6, 8e6, 0.0, drop_rate=0.3)
    wan = SimulatedWan([link], {7: 0}.get, seed=2)
    lost = sum(not wan.passage(7, sent_s=0, bytes_down=0, bytes_up=0, samples=0).delivered for _ in range(2000))
    assert 500 < lost < 700


def test_a_node_that_is_not_enrolled_takes_no_time():
    assert SimulatedWan([CLEAN], {}.get, seed=0).passage(1, sent_s=0, bytes_down=9, bytes_up=9, samples=9).total_s == 0


def test_a_scaled_payload_takes_proportionally_longer():
    wan = SimulatedWan([CLEAN], {7: 0}.get, seed=0, byte_scale=45.0)
    taken = wan.passage(7, sent_s=0, bytes_down=1_000_000, bytes_up=1_000_000, samples=0)
    assert (taken.download_s, taken.upload_s) == (22.5, 45.0)
