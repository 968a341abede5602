"""What others' tools say of the files under deploy/: Helm, the schemas of Kubernetes, checkov, hadolint, yamllint.

Their releases are those of pyproject's dependency group `deploy`, installed into an environment of their own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from hypergpu_fl.cli import invoke
from tests.deployment.forms import DEPLOY, PROJECT
from tests.deployment.stack import REPOSITORY
from tests.manifests import kubernetes_faults, port_of, reaches

pytestmark = [pytest.mark.deployment, pytest.mark.slow]

FORMS = ["single-cluster", "gpu", "monad-testnet"]
CLUSTERS = ["1.30", "1.32", "1.34"]
# What checkov finds in the manifests, and why it stays.
ACCEPTED = {
    "CKV_K8S_43": "tags are fixed; a digest depends on the registry, and `images` of a kustomization takes one",
    "CKV_K8S_15": "IfNotPresent: tags are fixed, and a node that restarts needs no registry",
    "CKV_K8S_11": "no limit of processors: throttling slows training; memory is limited",
    "CKV_K8S_9": "readiness is of what accepts connections: proxy and SuperLink",
    "CKV_K8S_35": "Flower and web3 take the keystore's password from the environment",
}


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of an environment with the tools of the dependency group."""
    if (made := REPOSITORY / ".venv-deploy" / ".ready").exists():  # by `make deploy-check`
        return made.with_name("bin")
    folder = tmp_path_factory.mktemp("tools")
    group = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["dependency-groups"]["deploy"]
    assert len([one for one in group if "==" in one]) == len(group) - 1  # PyYAML, which checkov pins
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin" / "pip", "install", "-q", "--no-compile", *group], check=True)
    return folder / "bin"


def said(command: list[object]) -> str:
    """What a tool prints; it must find nothing."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    return done.stdout


def helm(tools: Path, program: str, *given: object) -> Any:
    """What a program that has Helm's engine and deploy/render.py at hand prints as JSON."""
    head = f"import json, sys; sys.path.insert(0, {str(DEPLOY)!r}); import render; given = json.loads(sys.argv[1])\n"
    return json.loads(said([tools / "python", "-c", f"{head}print(json.dumps({program}))", json.dumps(given)]))


def rendered(tools: Path, values: dict[str, Any], revision: int = 1) -> list[dict[str, Any]]:
    """Manifests of a release."""
    return [
        yaml.safe_load(text) for text in helm(tools, "render.render(given[0], revision=given[1])", values, revision)
    ]


@pytest.mark.parametrize("form", FORMS)
def test_helms_engine_makes_of_the_chart_what_is_in_the_repository(tools: Path, form: str) -> None:
    there = (DEPLOY / "kubernetes" / form / "hypergpu.yaml").read_text()
    assert helm(tools, "render.whole(given[0])", form) == there, "`make deploy-render`"


def test_another_run_is_another_job_and_the_same_run_is_none(tools: Path) -> None:
    values = helm(tools, "render.given('single-cluster.yaml')")

    def job(name: str, revision: int) -> dict[str, Any]:
        values["submit"]["name"] = name
        (found,) = (
            one
            for one in rendered(tools, values, revision)
            if one["kind"] == "Job" and one["metadata"]["name"].startswith("submit")
        )
        return found

    assert job("first", 1) == job("first", 2)
    assert job("second", 2)["metadata"]["name"] == "submit-second"
    assert [job("", revision)["metadata"]["name"] for revision in (1, 2)] == ["submit-1", "submit-2"]


@pytest.mark.parametrize(
    ("url", "given", "port"),
    [
        ("", 0, 443),
        ("https://rpc.example/key", 0, 443),
        ("http://rpc.example", 0, 80),
        ("http://10.0.0.7:8545", 0, 8545),
        ("https://[2001:db8::7]:8545/key", 0, 8545),
        ("https://rpc.example", 8545, 8545),
    ],
)
def test_superexec_may_reach_its_chain_and_no_other_port(tools: Path, url: str, given: int, port: int) -> None:
    values = helm(tools, "render.given('single-cluster.yaml', 'monad-testnet.yaml')")
    values["submit"]["config"]["blockchain"]["rpc_url"] = url
    values["coordinator"]["rpcPort"] = given
    made = rendered(tools, values)
    assert [one for one in (80, 443, 8545) if reaches(made, "superexec", one)] == [port]
    assert not url or given or port_of(url) == port


def test_the_chart_makes_sound_manifests_of_the_values_of_the_archives(tools: Path, tmp_path: Path) -> None:
    (tmp_path / "project.toml").write_text(PROJECT)
    assert invoke(["node", "provision", str(tmp_path / "project.toml")]) == 0
    for name in ("server", "first", "second"):
        with tarfile.open(tmp_path / "provisioned" / "archives" / f"{name}.tar.gz") as archive:
            archive.extractall(tmp_path, filter="data")
        values = json.loads((tmp_path / name / "values.json").read_text())
        held = json.loads((tmp_path / name / "secrets.json").read_text())["items"]
        given = {one["metadata"]["name"]: list(one.get("stringData") or one["data"]) for one in held}
        faults = kubernetes_faults(rendered(tools, values), given)
        # a site's server is elsewhere
        assert [one for one in faults if "no Service answers at link.example:443" not in one] == []


def test_the_charts_schema_refuses_values_that_it_does_not_know(tools: Path) -> None:
    values = helm(tools, "render.given('single-cluster.yaml')")
    for wrong in ({"coordinater": {}}, {"submit": {"name": "A run"}}, {"coordinator": {"rpcPort": "http"}}):
        with pytest.raises(AssertionError, match=next(iter(wrong))):
            rendered(tools, values | wrong)


@pytest.mark.parametrize("version", CLUSTERS)
def test_the_manifests_are_of_the_schemas_of_kubernetes(tools: Path, version: str) -> None:
    files = [DEPLOY / "kubernetes" / form / "hypergpu.yaml" for form in FORMS]
    said([tools / "kubernetes-validate", "--strict", "-k", version, *files])
    wrong = files[0].read_text().replace("replicas: 1", "replica: 1", 1)
    done = subprocess.run(
        [tools / "kubernetes-validate", "--strict", "-k", version, "-"], input=wrong, text=True, capture_output=True
    )
    assert done.returncode and "replica" in done.stdout + done.stderr


def test_checkov_finds_nothing_but_what_is_explained(tools: Path, tmp_path: Path, kubectl: Path) -> None:
    for form in FORMS:
        (tmp_path / f"{form}.yaml").write_text(said([kubectl, "kustomize", DEPLOY / "kubernetes" / form]))
    found: Counter[str] = Counter()
    for folder, frameworks in (
        (tmp_path, ["kubernetes"]),
        (DEPLOY / "docker", ["dockerfile"]),
        (REPOSITORY / ".github", ["github_actions"]),
    ):
        done = subprocess.run(
            [tools / "checkov", "-d", folder, "--framework", *frameworks, "--skip-download", "--quiet", "-o", "json"],
            capture_output=True,
            text=True,
            check=False,
        )
        told = json.loads(done.stdout)
        assert told["summary"]["passed"] > 0 and told["summary"]["parsing_errors"] == 0
        print(folder.name, told["summary"])
        found.update(one["check_id"] for one in told["results"]["failed_checks"])
    print(found)
    assert found.keys() == ACCEPTED.keys()


def test_hadolint_and_yamllint_find_nothing(tools: Path) -> None:
    said([tools / "hadolint", *(DEPLOY / "docker").glob("*.Dockerfile")])
    rules = "{extends: relaxed, rules: {line-length: disable, braces: disable, commas: disable}}"
    chart = DEPLOY / "helm" / "hypergpu"
    places = [DEPLOY / name for name in ("kubernetes", "compose", "grafana", "helm/values")]
    said([tools / "yamllint", "--strict", "-d", rules, *places, chart / "values.yaml", REPOSITORY / ".github"])


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.compose-spec", [DEPLOY / "compose" / f"{name}.yaml" for name in ("demo", "server", "node", "gpu")]),
        ("vendor.github-workflows", sorted((REPOSITORY / ".github" / "workflows").iterdir())),
    ],
)
def test_compose_files_and_workflows_are_of_their_schemas(
    tools: Path, schema: str, files: list[Path], tmp_path: Path
) -> None:
    check = [tools / "check-jsonschema", "--builtin-schema", schema]
    said([*check, *files])
    (tmp_path / "wrong.yaml").write_text("services: []\njobs: []\n")
    with pytest.raises(AssertionError):
        said([*check, tmp_path / "wrong.yaml"])
