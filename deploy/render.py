"""Render deploy/kubernetes from the Helm chart, for those without Helm: ``make deploy-render``.

Helm's own engine does it, as a library of Python's (`pip install --group deploy`).

Each file tells of which sources it was made, so that a test finds one that was not rendered again.
"""

from __future__ import annotations

import hashlib
import re
from operator import itemgetter
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).resolve().parent
CHART, VALUES = DEPLOY / "helm" / "hypergpu", DEPLOY / "helm" / "values"
# folder of deploy/kubernetes -> files of values, later ones win
FORMS = {
    "single-cluster": ["single-cluster.yaml"],
    "gpu": ["single-cluster.yaml", "gpu.yaml"],
    "monad-testnet": ["single-cluster.yaml", "monad-testnet.yaml"],
}
# as Helm installs kinds, of those that are there
ORDER = ["NetworkPolicy", "PodDisruptionBudget", "ConfigMap", "PersistentVolumeClaim", "Service"]
ORDER += ["Deployment", "StatefulSet", "Job"]


def sources(form: str) -> str:
    """Digest of all that a form is rendered from."""
    digest = hashlib.sha256()
    for file in [*sorted(path for path in CHART.rglob("*") if path.is_file()), *(VALUES / n for n in FORMS[form])]:
        digest.update(f"{file.relative_to(DEPLOY)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()


def render(values: dict[str, Any], *, revision: int = 1) -> list[str]:
    """Manifests of a release with these values, in the order in which Helm installs them."""
    from helm_python.chart import Chart

    with Chart.load(CHART) as chart:
        made = chart.render(values=values, name="hypergpu", revision=revision)
    found = []
    for file, text in sorted(made.items()):
        for one in re.split(r"^---$", re.sub(r"[ \t]+$", "", text, flags=re.M), flags=re.M):
            if kind := re.search(r"^kind: (\w+)$", one, re.M):
                found.append((ORDER.index(kind[1]), f"# Source: {file}\n{one.strip()}"))
    return [text for _, text in sorted(found, key=itemgetter(0))]


def given(*names: str, folder: Path = VALUES) -> dict[str, Any]:
    """Values of these files, later ones win."""
    values: dict[str, Any] = {}
    for name in names:
        values = _merged(values, yaml.safe_load((folder / name).read_text(encoding="utf-8")))
    return values


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = {key: _merged(under[key], over[key]) for key in under.keys() & over if isinstance(over[key], dict)}
    return under | over | both


def whole(form: str) -> str:
    """What a form's ``hypergpu.yaml`` holds."""
    made = f"# Made by deploy/render.py; change deploy/helm instead. Sources: {sources(form)}\n---\n"
    return made + "\n---\n".join(render(given(*FORMS[form]))) + "\n"


def main() -> None:
    """Write every form's ``hypergpu.yaml``."""
    for form in FORMS:
        (DEPLOY / "kubernetes" / form / "hypergpu.yaml").write_text(whole(form), encoding="utf-8")


if __name__ == "__main__":
    main()
