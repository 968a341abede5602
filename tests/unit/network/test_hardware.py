from __future__ import annotations

import os

from hypergpu_fl.network.hardware import describe_hardware


def test_this_machine_is_described_without_torch() -> None:
    found = describe_hardware()
    assert found["cpus"] == os.cpu_count()
    assert int(found["memory-bytes"]) == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert ("gpu" in found) == os.path.exists("/proc/driver/nvidia/version")
