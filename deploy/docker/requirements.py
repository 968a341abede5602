"""Dependencies of pyproject.toml for an image: without Ray, which only simulations need, and torch, which is there."""

import re
import sys
import tomllib
from pathlib import Path

for line in tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]["dependencies"]:
    if re.match(r"[\w-]+", line)[0] not in ("torch", "torchvision"):
        print(line.replace("[simulation]", ""))
