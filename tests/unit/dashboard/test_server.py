"""Who gets at the page and what is answered: read-only, this machine or a token, hostile paths and names."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from seen_runs import SeenRun

from hypergpu_fl.dashboard.access import COOKIE, POLICY, Access
from hypergpu_fl.dashboard.server import create_app

TOKEN = "a-token-that-nobody-guesses"


class Client:
    """Asks the application in this process; it keeps cookies and follows no link."""

    def __init__(self, app: Access, base_url: str) -> None:
        self._app, self._base_url, self._cookies = app, base_url, httpx.Cookies()

    def get(self, path: str, **given: Any) -> httpx.Response:
        return self.request("GET", path, **given)

    def request(self, method: str, path: str, **given: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url=self._base_url, cookies=self._cookies) as client:
                answer = await client.request(method, self._base_url + path, **given)
                self._cookies = client.cookies
                return answer

        return asyncio.run(ask())


@pytest.fixture
def client(going_on: SeenRun) -> Client:
    return Client(create_app(going_on.folder.parent), "http://127.0.0.1:8090")


@pytest.fixture
def guarded(going_on: SeenRun) -> Client:
    return Client(create_app(going_on.folder.parent, token=TOKEN), "http://gpu.example")


@pytest.mark.parametrize("path", ["/", "/api/runs", "/metrics", "/nothing", "/api/runs/nope"])
def test_every_answer_carries_the_strict_policy(client: Client, path: str) -> None:
    headers = client.get(path).headers
    assert headers["content-security-policy"] == POLICY and "unsafe" not in POLICY
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/api/runs", "/api/runs/demo/nodes.json", "/metrics"])
def test_nothing_can_be_changed(client: Client, method: str, path: str) -> None:
    assert client.request(method, path).status_code == 405


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8090", "", "10.0.0.7:8090"])
def test_a_page_elsewhere_whose_name_points_here_is_refused(client: Client, host: str) -> None:
    assert client.get("/api/runs", headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost:8090", "127.0.0.1", "[::1]:8090"])
def test_this_machine_is_let_in_by_any_of_its_names(client: Client, host: str) -> None:
    assert client.get("/api/runs", headers={"Host": host}).status_code == 200


def test_another_host_needs_the_token(guarded: Client) -> None:
    assert guarded.get("/api/runs").status_code == 401
    assert guarded.get("/?token=wrong").status_code == 401
    assert guarded.get("/metrics", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert guarded.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_the_token_leaves_the_link_for_a_cookie_that_no_script_reads(guarded: Client) -> None:
    entered = guarded.get(f"/api/runs?token={TOKEN}&x=1")
    assert entered.status_code == 303 and entered.headers["location"] == "/api/runs?x=1"
    cookie = entered.headers["set-cookie"].lower()
    assert COOKIE in cookie and "httponly" in cookie and "samesite=strict" in cookie
    assert guarded.get("/api/runs").status_code == 200
    assert guarded.get(f"//evil.example/?token={TOKEN}").headers["location"].startswith("/evil.example")


def test_one_torn_run_is_named_as_such_and_hides_no_other(client: Client, going_on: SeenRun, tmp_path: Path) -> None:
    torn = tmp_path / "runs" / "torn"
    torn.mkdir()
    (torn / "run.db").write_bytes(b"no database" * 1000)
    shown = {row["run"]: row for row in client.get("/api/runs").json()}
    assert shown["demo"]["rounds"] == 3 and shown["torn"]["state"] == "unreadable"
    assert "file is not a database" in shown["torn"]["failure"]
    assert 'run="demo"' in client.get("/metrics").text
    answer = client.get("/api/runs/torn")
    assert answer.status_code == 409 and "back from a copy" in answer.json()["remedy"]


@pytest.mark.parametrize("name", ["..", "%2e%2e", "..%2f..%2fetc", ".nodes", "demo%00", "a" * 5000])
def test_no_path_leads_out_of_the_runs(client: Client, name: str) -> None:
    for rest in ("", "/nodes.json", "/sealed/1", "/stream"):
        assert client.get(f"/api/runs/{name}{rest}").status_code in (404, 409)


@pytest.mark.parametrize("round", ["0", "-1", "99", "9" * 30, "x"])
def test_a_round_that_is_not_there_is_told_as_such(client: Client, round: str) -> None:
    for path in (f"/api/runs/demo/rounds/{round}", f"/api/runs/demo/sealed/{round}"):
        answer = client.get(path)
        assert answer.status_code in (404, 409, 422), path
        assert "Traceback" not in answer.text


def test_a_spreadsheet_takes_nothing_for_a_formula(client: Client, going_on: SeenRun) -> None:
    answer = client.get("/api/runs/demo/events.csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="demo-events.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert {"at_s", "round", "kind", "node", "text"} <= rows[0].keys() and len(rows) == 9
    assert not [cell for row in rows for cell in row.values() if cell[:1] in ("=", "@", "+", "-")]
    assert any("\\u202e" in row["node"] for row in rows), "control characters are shown, not sent"


def test_a_run_that_is_removed_while_the_list_is_made_hides_no_other(
    going_on: SeenRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hypergpu_fl.dashboard.run_views import RunViews

    views = RunViews(going_on.folder.parent)
    # the moment between listing a run and reading it is too short to remove it in
    monkeypatch.setattr(views, "names", lambda: ["demo", "removed"])
    found, faults = views.readable()
    assert [view.folder.name for view in found] == ["demo"] and not faults
    views.close()


def test_a_stream_begins_with_every_round_and_the_runs_summary(going_on: SeenRun) -> None:
    from hypergpu_fl.dashboard.run_views import RunViews
    from hypergpu_fl.dashboard.stream import of_run

    views = RunViews(going_on.folder.parent)

    async def first(count: int) -> list[str]:
        events: list[str] = []
        async for event in of_run(views, "demo"):
            events.append(event)
            if len(events) == 3:
                going_on.round(loss=0.1, accuracy=0.9)
            if len(events) == count:
                break
        return events

    events = asyncio.run(first(5))
    views.close()
    whole = json.loads(events[1].partition("data: ")[2])
    assert whole["all"] and [row["round"] for row in whole["rows"]] == [1, 2, 3]
    assert json.loads(events[2].partition("data: ")[2])["rounds"] == 3
    added = json.loads(events[3].partition("data: ")[2])
    assert not added["all"] and [row["round"] for row in added["rows"]] == [4]


def test_what_is_vendored_names_its_licence(client: Client) -> None:
    assert "MIT" in client.get("/vendor/uPlot.LICENSE").text
    assert client.get("/vendor/uPlot.js").headers["content-type"].startswith("text/javascript")


def test_the_files_name_no_other_host() -> None:
    from hypergpu_fl.dashboard.server import STATIC

    for file in STATIC.rglob("*"):
        if file.suffix in (".js", ".css", ".html") and file.parent.name != "vendor":
            text = file.read_text().replace("http://www.w3.org/2000/svg", "")
            assert "http:" not in text and "https:" not in text and "//cdn" not in text, file.name
            assert "innerHTML" not in text and "style=" not in text, file.name
