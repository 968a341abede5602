"""The pip steps of the Dockerfiles, carried out in a fresh environment of the images' Python, and what they leave.

PyTorch's index of CPU builds is replaced by PyPI, whose torch brings CUDA along: the former need not be reachable.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.deployment.images import DOCKER, instructions
from tests.deployment.stack import REPOSITORY

pytestmark = [pytest.mark.deployment, pytest.mark.slow]

REPLACED = {"https://download.pytorch.org/whl/cpu": "https://pypi.org/simple"}
LIMIT_S = 1800.0
WITHOUT_RAY = "import importlib.util as u; assert not u.find_spec('ray')"
LEAVES = {
    "server": f"{WITHOUT_RAY}; import torch, hypergpu_fl.server.server_app, hypergpu_fl.cli, strategies",
    "node": f"{WITHOUT_RAY}; import torch, torchvision, hypergpu_fl.node.client_entry, hypergpu_fl.node.supernode",
}
STARTS = {"server": "hypergpu server superexec --help", "node": "hypergpu node start --help"}


@pytest.mark.parametrize("role", LEAVES)
def test_the_pip_steps_of_an_image_leave_what_it_starts(role: str, python: str, tmp_path: Path) -> None:
    root, venv = tmp_path / "root", tmp_path / "venv"
    subprocess.run([python, "-m", "venv", venv], check=True)
    environ = {"PATH": f"{venv}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(tmp_path)}
    environ |= {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name == "SSL_CERT_FILE"}
    workdir, steps = root, 0
    for word, rest in instructions(DOCKER / f"{role}.Dockerfile"):
        if word == "WORKDIR":
            workdir = root / rest.lstrip("/")
            workdir.mkdir(parents=True, exist_ok=True)
        elif word == "ARG":
            name, _, value = rest.partition("=")
            environ[name] = value
        elif word == "COPY":
            *sources, to = rest.split()
            for source in sources:
                place = workdir / (Path(source).name if to == "./" else to)
                subprocess.run(["cp", "-r", REPOSITORY / source, place], check=True)
        elif word == "RUN":
            step = re.sub(r"/var/lib/hypergpu", f"{root}/var", rest)
            for theirs, ours in REPLACED.items():
                step = step.replace(theirs, ours)
            steps += "pip install" in step
            done = subprocess.run(
                ["sh", "-ec", step],
                cwd=workdir,
                env=environ,
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
            assert done.returncode == 0, f"{step}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    assert steps == 3
    for command in (["python", "-c", LEAVES[role]], STARTS[role].split(), ["pip", "check"]):
        done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    frozen = subprocess.run(["pip", "freeze"], env=environ, capture_output=True, text=True, check=True).stdout
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (REPOSITORY / "constraints.txt").read_text(), re.M))
    found = dict(re.findall(r"^([\w.-]+)==(\S+)$", frozen, re.M))
    assert found["torch"] == pinned["torch"]
    assert {name: version for name, version in found.items() if pinned.get(name, version) != version} == {}
