"""Links from published measurements, in two small CSV formats.

Devices: ``client,compute_ms_per_sample,bandwidth_kbps``, one row a device. Round-trip times:
``src,dst,rtt_avg_ms,rtt_stddev_ms``, one row a pair of places.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hypergpu_fl.config import Network
from hypergpu_fl.errors import UsageError
from hypergpu_fl.files import path_meant
from hypergpu_fl.network.wan import SimulatedLink

DEVICES = ("client", "compute_ms_per_sample", "bandwidth_kbps")
ROUND_TRIPS = ("src", "dst", "rtt_avg_ms", "rtt_stddev_ms")
LARGEST_FILE_BYTES = 256 * 2**20
DOWNLINK_RATIO = 2.5  # the device trace has one bandwidth, which is used as the uplink
DEFAULT_RTT_MS = (80.0, 8.0)


def configured_links(network: Network, nodes: int, *, seed: int) -> list[SimulatedLink] | None:
    """Links from the files that the configuration names, see `links_from_traces`; None if it names none."""
    if not network.links_file:
        return None
    round_trips = Path(network.rtt_file) if network.rtt_file else None
    return links_from_traces(Path(network.links_file), round_trips, nodes, seed=seed)


def links_from_traces(devices: Path, round_trips: Path | None, nodes: int, *, seed: int) -> list[SimulatedLink]:
    """``nodes`` links: devices drawn without replacement, round trips from places to one server's place.

    Raises
    ------
    UsageError
        If a file is missing, too large, has other columns, or holds a value that is not a positive number.
    """
    device_rows = _numbers(devices, DEVICES)
    if len(device_rows) < nodes:
        raise UsageError(f"{devices} has {len(device_rows)} devices, {nodes} are needed", "lower training.num_nodes")
    rng = np.random.default_rng([seed, 0x33])
    chosen = device_rows[rng.choice(len(device_rows), size=nodes, replace=False)]
    if round_trips is None:
        rtt_N2 = np.tile(DEFAULT_RTT_MS, (nodes, 1))
    else:
        pairs = _numbers(round_trips, ROUND_TRIPS)
        server = rng.choice(np.unique(pairs[:, 0]))
        from_server = pairs[pairs[:, 0] == server]
        rtt_N2 = from_server[rng.choice(len(from_server), size=nodes, replace=len(from_server) < nodes)][:, 2:]
    return [
        SimulatedLink(
            rtt_s=rtt_ms / 1e3,
            jitter_s=jitter_ms / 1e3,
            loss=0.0,
            uplink_bps=kbps * 1e3,
            downlink_bps=kbps * 1e3 * DOWNLINK_RATIO,
            sample_s=compute_ms / 1e3,
        )
        for (_, compute_ms, kbps), (rtt_ms, jitter_ms) in zip(chosen, rtt_N2, strict=True)
    ]


def _numbers(path: Path, columns: tuple[str, ...]) -> NDArray[np.float64]:
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise UsageError(f"{path} is larger than {LARGEST_FILE_BYTES} bytes", "pass a smaller extract of the trace")
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets begin a file with a byte order mark
            reader = csv.reader(file)
            header = tuple(column.strip() for column in next(reader, ()))
            if header != columns:
                raise UsageError(
                    f"{path} has columns {','.join(header)[:80]!r}", f"columns must be {','.join(columns)}"
                )
            return np.array(list(_parsed(path, reader, columns)), dtype=np.float64).reshape(-1, len(columns))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"cannot read {path}: {error}",
            path_meant(path) or "check the path in network.links_file or network.rtt_file",
        ) from error


def _parsed(path: Path, rows: Iterator[list[str]], columns: tuple[str, ...]) -> Iterator[list[float]]:
    width = len(columns)
    for line, row in enumerate(rows, start=2):
        if not any(value.strip() for value in row):
            continue  # an empty line, as many editors leave at the end
        try:
            values = [float(value) for value in row]
        except ValueError:
            values = []
        if len(values) != width or not all(math.isfinite(v) and v >= 0 for v in values):
            raise UsageError(
                f"{path}, line {line}: {','.join(row)[:80]!r}", f"give {width} numbers that are not negative"
            )
        if columns == DEVICES and values[2] == 0:
            raise UsageError(
                f"{path}, line {line}: a device of 0 kbps would never answer", "leave it out, or give its bandwidth"
            )
        yield values
