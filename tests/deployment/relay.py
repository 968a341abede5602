"""A TCP relay in user space that makes loopback behave like a link: rate, delay, loss and cuts.

It ends the connections on both sides, so the kernel's figures of either side are not the link's; what crosses it is
late and slow as it would be. Where packets can be relayed (see ``packets.py``) that is the better instrument.
"""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from dataclasses import dataclass

CHUNK_BYTES = 4096
SOCKET_BUFFER_BYTES = 8192  # what a sender can be ahead of the link, besides the kernel's least
RETRANSMISSION_S = 0.2  # Linux' least retransmission timeout


@dataclass(frozen=True, slots=True)
class Shape:
    """One link: ``delay_s`` is the round trip, half of it each way; a lost chunk stalls for a timeout."""

    uplink_bps: float = 1e9
    downlink_bps: float = 1e9
    delay_s: float = 0.0
    loss: float = 0.0


class TcpRelay:
    """Relay from ``port`` on 127.0.0.1 to ``target``, in a thread of its own, until closed."""

    def __init__(self, target: tuple[str, int], shape: Shape, *, seed: int = 0) -> None:
        self.shape = shape
        self.bytes_up = self.bytes_down = 0
        self._target = target
        self._random = random.Random(seed)
        self._free_s = {"up": 0.0, "down": 0.0}  # when the link's direction is next free
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
        self.port: int = listener.getsockname()[1]
        started = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._run(listener, started),))
        self._thread.start()
        started.wait()

    def cut(self) -> None:
        """Let nothing through any more; connections stay open, as on a dead line."""
        self._loop.call_soon_threadsafe(self._whole.clear)

    def mend(self) -> None:
        """Let everything through again."""
        self._loop.call_soon_threadsafe(self._whole.set)

    def close(self) -> None:
        """Close all connections and end the thread."""
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()

    def __enter__(self) -> TcpRelay:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _run(self, listener: socket.socket, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._closing, self._whole = asyncio.Event(), asyncio.Event()
        self._whole.set()
        server = await asyncio.start_server(self._serve, sock=listener, limit=SOCKET_BUFFER_BYTES)
        started.set()
        await self._closing.wait()
        server.close()  # asyncio.run cancels the connections

    async def _serve(self, near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        writers = [near_out]
        try:
            await asyncio.sleep(self.shape.delay_s)  # the handshake's round trip
            far_in, far_out = await asyncio.open_connection(*self._target, limit=SOCKET_BUFFER_BYTES)
            writers.append(far_out)
            await asyncio.gather(self._pump(near_in, far_out, "up"), self._pump(far_in, near_out, "down"))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for writer in writers:
                writer.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, way: str) -> None:
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        deliver = asyncio.ensure_future(self._deliver(line, sink))
        try:
            while chunk := await source.read(CHUNK_BYTES):
                now_s = self._loop.time()
                bps = self.shape.uplink_bps if way == "up" else self.shape.downlink_bps
                lost_s = RETRANSMISSION_S if self._random.random() < self.shape.loss else 0.0
                self._free_s[way] = max(now_s, self._free_s[way]) + 8 * len(chunk) / bps
                line.put_nowait((self._free_s[way] + self.shape.delay_s / 2 + lost_s, chunk))
                setattr(self, f"bytes_{way}", getattr(self, f"bytes_{way}") + len(chunk))
                await asyncio.sleep(self._free_s[way] - now_s)
            line.put_nowait((self._loop.time() + self.shape.delay_s / 2, b""))
            await deliver
        finally:
            deliver.cancel()

    async def _deliver(self, line: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter) -> None:
        while True:
            due_s, chunk = await line.get()
            await asyncio.sleep(due_s - self._loop.time())
            await self._whole.wait()
            if not chunk:
                sink.write_eof() if sink.can_write_eof() else sink.close()
                return
            sink.write(chunk)
            await sink.drain()
