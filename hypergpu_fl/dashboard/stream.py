"""What a page is sent while a run goes on: server-sent events.

A page that connects, for the first time or again, gets every round once, and then rounds that are new or have changed.
It keeps rounds by number, so no round is lost or doubled, whether page or server was restarted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from hypergpu_fl.dashboard.run_view import RunView
from hypergpu_fl.dashboard.run_views import RunViews
from hypergpu_fl.errors import LedgerError, RunNotFound
from hypergpu_fl.output import to_json

LOOK_S: Final = 0.25
_ALIVE_S: Final = 10.0  # longest silence: proxies and browsers drop a connection on which nothing is sent


async def of_run(views: RunViews, name: str) -> AsyncIterator[str]:
    """Events of one run: ``rounds``, which with ``all`` replace all known ones, and ``run`` with its summary."""
    told: dict[int, tuple[Any, ...]] = {}
    epoch, summary, silent_s, first = -1, "", 0.0, True
    yield "retry: 500\n\n"
    while True:
        try:
            view = await asyncio.to_thread(views.view, name)
            now, rows, text = await asyncio.to_thread(_state, view)
        except (RunNotFound, OSError):
            yield _event("gone", "{}")
            return
        except LedgerError as error:
            yield _event("gone", to_json({"cause": error.cause}))
            return
        if now != epoch:
            told, epoch, first = {}, now, True
        fresh = [row for row in rows if told.get(row["round"]) != _mark(row)]
        if fresh or first:
            yield _event("rounds", to_json({"all": first, "rows": fresh}))
            told.update((row["round"], _mark(row)) for row in fresh)
        if text != summary:
            yield _event("run", text)
        silent_s = 0.0 if fresh or text != summary else silent_s + LOOK_S
        if silent_s >= _ALIVE_S:
            yield ": still here\n\n"
            silent_s = 0.0
        summary, first = text, False
        await asyncio.sleep(LOOK_S)


def _state(view: RunView) -> tuple[int, list[dict[str, Any]], str]:
    return view.epoch, list(view.rounds), to_json(view.summary())


def _mark(row: dict[str, Any]) -> tuple[Any, ...]:
    """The figures of a closed round that may still change."""
    return row["loss"], row["status"], row["tx"], row["refused"], bool(row["metrics"])


def _event(name: str, data: str) -> str:
    return f"event: {name}\ndata: {data}\n\n"
