"""The code without what surrounds a checkout, and processes started in it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.processes import ROOT


def copy_code(target: Path) -> Path:
    """Copy the code to target, with empty data directories and no .env."""
    for package in ("imagesearch", "search", "tenants"):
        shutil.copytree(ROOT / package, target / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "manage.py", target)
    for directory in ("embeddings", "media"):
        (target / directory).mkdir()
    return target


def start(checkout: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run python with nothing in its environment but environment."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=checkout,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
