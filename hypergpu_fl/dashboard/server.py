"""The page's server: files, a read-only interface in JSON and CSV, a stream of events, metrics."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import FastAPI, Query, Request
from fastapi import Path as InPath
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles

from hypergpu_fl.dashboard import stream
from hypergpu_fl.dashboard.access import Access
from hypergpu_fl.dashboard.metrics import exposition
from hypergpu_fl.dashboard.run_views import RunViews
from hypergpu_fl.dashboard.sealed import sealed_round
from hypergpu_fl.errors import HyperGPUError, RunNotFound
from hypergpu_fl.output import printable, to_json

STATIC: Final = Path(__file__).with_name("static")
MOST_EVENT_ROUNDS: Final = 500  # rounds whose events one request may ask for

Number = Annotated[int, InPath(ge=0, le=2**31 - 1)]


def create_app(root: Path, *, token: str = "") -> Access:
    """The application for all runs under ``root``; without a token only for loopback, see ``access``."""
    views = RunViews(root)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        views.close()

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan)

    @app.exception_handler(HyperGPUError)
    async def told(_: Request, error: HyperGPUError) -> Response:
        status = 404 if isinstance(error, RunNotFound) else 409
        return _json({"cause": error.cause, "remedy": error.remedy}, status)

    @app.get("/api/runs")
    def runs() -> Response:
        found, faults = views.readable()
        torn = [{"run": name, "state": "unreadable", "failure": error.cause} for name, error in faults]
        return _json([view.summary() for view in found] + torn)

    @app.get("/api/runs/{run}")
    def run_(run: str) -> Response:
        view = views.view(run)
        return _json(view.summary() | {"settings": view.settings()})

    @app.get("/api/runs/{run}/rounds.{form}")
    def rounds(run: str, form: str) -> Response:
        rows = [{**row, "metrics": None, **_flat(row["metrics"])} for row in views.view(run).rounds]
        return _table([{k: v for k, v in row.items() if k != "metrics"} for row in rows], form, f"{run}-rounds")

    @app.get("/api/runs/{run}/nodes.{form}")
    def nodes(run: str, form: str) -> Response:
        return _table(views.view(run).nodes(), form, f"{run}-nodes")

    @app.get("/api/runs/{run}/rounds/{round}")
    def a_round(run: str, round: Number) -> Response:
        view = views.view(run)
        seen = view.round(round)
        if seen is None:
            raise RunNotFound(f"round {round} of {run} has not begun", "choose an earlier one")
        row = next((row for row in view.rounds if row["round"] == round), None)
        pay = {name: view.paid(wei) for name, wei in view.pay_upto(round).items()}
        return _json({**asdict(seen), "row": row, "pay": pay})

    @app.get("/api/runs/{run}/node")
    def node(run: str, name: str) -> Response:
        view = views.view(run)
        return _json({"name": name, "history": view.history_of(name)})

    @app.get("/api/runs/{run}/events.{form}")
    def events(
        run: str, form: str, before: int | None = None, rounds: int = Query(50, ge=1, le=MOST_EVENT_ROUNDS)
    ) -> Response:
        found = views.view(run).happenings(before=before, rounds=rounds)
        return _table([asdict(happening) for happening in found], form, f"{run}-events")

    @app.get("/api/runs/{run}/sealed/{round}")
    def sealed(run: str, round: Number) -> Response:
        return _json(sealed_round(views.view(run).folder, round))

    @app.get("/api/runs/{run}/stream")
    def run_stream(run: str) -> Response:
        views.view(run)
        return StreamingResponse(stream.of_run(views, run), media_type="text/event-stream")

    @app.get("/metrics")
    def metrics() -> Response:
        text, kind = exposition(views.readable()[0])
        return Response(text, media_type=kind)

    app.mount("/", StaticFiles(directory=STATIC, html=True))
    return Access(app, token)


def _json(content: Any, status: int = 200) -> Response:
    return Response(to_json(content), status, media_type="application/json")


def _table(rows: Sequence[dict[str, Any]], form: str, name: str) -> Response:
    """Rows as JSON, or as CSV to keep."""
    if form == "json":
        return _json(rows)
    if form != "csv":
        return PlainTextResponse("there is .json and .csv\n", 404)
    safe = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-_.") else "_" for letter in name)
    headers = {"Content-Disposition": f'attachment; filename="{safe}.csv"'}
    return Response(_csv(rows), media_type="text/csv; charset=utf-8", headers=headers)


def _csv(rows: Iterable[dict[str, Any]]) -> str:
    rows = list(rows)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    """A value for a spreadsheet: text that it would read as a formula gets an apostrophe in front."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def _flat(metrics: dict[str, float]) -> dict[str, float]:
    return {f"metrics.{name}": value for name, value in metrics.items()}
