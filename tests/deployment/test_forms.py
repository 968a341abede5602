"""Every form under deploy/ trains: its containers' own commands, environment, user, mounts and modes, as user 49999."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.deployment.conftest import MakeMachine
from tests.deployment.forms import Trained, cluster, composed, demo
from tests.deployment.kubelet import Document
from tests.manifests import pod_of

pytestmark = [pytest.mark.deployment, pytest.mark.slow]

FORMS: dict[str, Callable[..., Trained]] = {
    "demo": demo,
    "compose": composed,
    "chart": partial(cluster, form="single-cluster"),
    "kustomize": partial(cluster, form="kustomize/monad-testnet"),
}
ROUNDS = {"demo": 5}


@pytest.mark.parametrize("form", FORMS)
def test_a_run_through_the_containers_of_this_form_completes(
    form: str, make_machine: MakeMachine, request: pytest.FixtureRequest
) -> None:
    if form == "kustomize":
        request.getfixturevalue("kubectl")
    trained = FORMS[form](make_machine())
    rounds = ROUNDS.get(form, 3)
    assert [entry["round"] for entry in trained.report["history"]] == list(range(1, rounds + 1))
    assert all(entry["arrived"] == 3 for entry in trained.report["history"])
    assert f"verified: {rounds} rounds" in trained.verified
    assert f"round   {rounds}/{rounds}" in trained.said


def words(command: list[str], old: str, new: str) -> None:
    """Replace within a command; it must be there."""
    assert any(old in word for word in command)
    command[:] = [word.replace(old, new) for word in command]


def of(documents: list[Document], name: str) -> Document:
    """The pod of a workload."""
    (found,) = (pod for one in documents if one["metadata"]["name"] == name and (pod := pod_of(one)))
    return found


def only_roots(folder: Path) -> None:
    """As an archive that was unpacked by root without its owners."""
    for file in (folder / "keys").iterdir():
        os.chown(file, 0, 0)


# what is put in: the form, what it changes, and what the failure must tell
FAULTS: dict[str, tuple[str, str, Callable[[Any], object], str]] = {
    "a wrong argument": (
        "compose",
        "node",
        lambda f: words(f["services"]["node"]["command"], "/run/keys/node", "/run/keys/nodes"),
        "/run/keys/nodes",
    ),
    "a missing mount": (
        "compose",
        "server",
        lambda f: f["services"]["superexec"]["volumes"].pop(3),
        "Read-only file system",
    ),
    "a path of the operator's machine": (
        "compose",
        "server",
        lambda f: f["services"]["superexec"]["environment"].update(HYPERGPU_RUNS="/home/operator/runs"),
        "/home/operator",
    ),
    "files that belong to root": ("compose", "archive", only_roots, "Permission denied"),
    "the name of another host": (
        "compose",
        "server",
        lambda f: words(f["services"]["superexec"]["command"], "superlink:8000", "link.example:8000"),
        "Connection attempt failed",
    ),
    "a file that lies in another volume": (
        "chart",
        "manifests",
        lambda d: words(
            of(d, "superlink")["containers"][0]["args"], "/run/keys/server.key", "/run/authority/server.key"
        ),
        "--ssl-keyfile. does not point to a file",
    ),
    "another node's Secret": (
        "chart",
        "manifests",
        lambda d: of(d, "node-node-1")["volumes"][1]["secret"].update(secretName="node-node-0"),
        r"\[code: 2004\]",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_is_put_into_a_form_fails_there(fault: str, make_machine: MakeMachine) -> None:
    form, place, put_in, told = FAULTS[fault]
    machine = make_machine()
    machine.ready_s, machine.run_s = 120.0, 60.0
    machine.most_ends = 2 if form == "compose" else 6  # in a cluster all start at once

    def change(name: str, document: Any) -> None:
        if name == place:
            put_in(document)

    with pytest.raises(AssertionError, match=told):
        FORMS[form](machine, change=change)
