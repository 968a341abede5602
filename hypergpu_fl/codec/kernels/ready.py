"""Compiles the kernels for this user of this machine, before the first run wants them: some seconds, once.

``python -m hypergpu_fl.codec.kernels.ready PARENT`` is a process of its own, since it takes threads and the GIL, and
has low priority. Whoever needs a kernel before it is done compiles it as well.
"""

from __future__ import annotations

import os
import subprocess
import sys

from hypergpu_fl.children import end_with
from hypergpu_fl.codec.kernels import import_kernels


def start() -> subprocess.Popen[bytes]:
    """Compile in a process that ends with this one."""
    command = [sys.executable, "-P", "-m", "hypergpu_fl.codec.kernels.ready", str(os.getpid())]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    os.nice(10)
    import_kernels()
