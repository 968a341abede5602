"""Render deploy/kubernetes from the Helm chart, for those without Helm: ``python deploy/render.py``, with helm on PATH.

Each file tells of which sources it was made, so that a test finds one that was not rendered again.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path

DEPLOY = Path(__file__).resolve().parent
CHART, VALUES = DEPLOY / "helm" / "hypergpu", DEPLOY / "helm" / "values"
# folder of deploy/kubernetes -> files of values, later ones win
FORMS = {
    "single-cluster": ["single-cluster.yaml"],
    "gpu": ["single-cluster.yaml", "gpu.yaml"],
    "monad-testnet": ["single-cluster.yaml", "monad-testnet.yaml"],
}


def sources(form: str) -> str:
    """Digest of all that a form is rendered from."""
    digest = hashlib.sha256()
    for file in [*sorted(path for path in CHART.rglob("*") if path.is_file()), *(VALUES / n for n in FORMS[form])]:
        digest.update(f"{file.relative_to(DEPLOY)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()


def main() -> None:
    """Write every form's ``hypergpu.yaml``."""
    for form, files in FORMS.items():
        command = ["helm", "template", "hypergpu", str(CHART)]
        for name in files:
            command += ["-f", str(VALUES / name)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        text = re.sub(r"[ \t]+$", "", done.stdout, flags=re.M).strip()
        made = f"# Made by deploy/render.py; change deploy/helm instead. Sources: {sources(form)}\n"
        (DEPLOY / "kubernetes" / form / "hypergpu.yaml").write_text(f"{made}{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
