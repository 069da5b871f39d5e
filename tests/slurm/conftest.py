"""A real Slurm on this machine, started for the tests and ended after them. Only `make test-slurm` comes here."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="session", autouse=True)
def slurm() -> Iterator[None]:
    """Slurm's commands and our own python work, here and in the jobs."""
    folder = tempfile.mkdtemp(prefix="gigabag-slurm-")
    try:
        up = subprocess.run([HERE / "up.sh", folder], capture_output=True, text=True, check=False)
        if up.returncode != 0:
            pytest.exit(up.stderr.strip() or "Slurm does not start", returncode=2)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", up.stdout.strip())
            patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
            patch.setenv("PYTHONPATH", str(ROOT))
            yield
    finally:
        subprocess.run([HERE / "down.sh", folder], check=False)
