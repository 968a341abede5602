"""Every form under deploy/ trains: its containers' own commands, environment, user, mounts and modes, as user 49999."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from tests.deployment.conftest import MakeMachine
from tests.deployment.forms import Change, Machine, Trained, cluster, composed, demo

pytestmark = [pytest.mark.deployment, pytest.mark.slow]

Form = Callable[[Machine, Change], Trained]
FORMS: dict[str, Callable[..., Trained]] = {
    "demo": demo,
    "compose": composed,
    "chart": partial(cluster, form="single-cluster"),
    "kustomize": partial(cluster, form="kustomize/monad-testnet"),
}
ROUNDS = {"demo": 5}


@pytest.mark.parametrize("form", FORMS)
def test_a_run_through_the_containers_of_this_form_completes(form: str, make_machine: MakeMachine) -> None:
    trained = FORMS[form](make_machine())
    rounds = ROUNDS.get(form, 3)
    assert [entry["round"] for entry in trained.report["history"]] == list(range(1, rounds + 1))
    assert all(entry["arrived"] == 3 for entry in trained.report["history"])
    assert f"verified: {rounds} rounds" in trained.verified
    assert f"round   {rounds}/{rounds}" in trained.said
