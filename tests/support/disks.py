"""Disks that fail."""

from pathlib import Path
from typing import Any

import pytest


def fill_up(patch: pytest.MonkeyPatch, name: str) -> None:
    """Let the disk be full for whoever writes a file of this name."""
    real = Path.open

    def open_on_full_disk(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        full = path.name == name and "w" in mode
        return real(Path("/dev/full") if full else path, mode, *arguments, **options)

    patch.setattr(Path, "open", open_on_full_disk)
