"""Disks that fail."""

import os
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


class RefusingOs:
    """The module os, some of whose functions fail with an error number; to be put in its place in a module."""

    def __init__(self, number: int, *functions: str) -> None:
        self._number, self._functions = number, functions

    def __getattr__(self, name: str) -> Any:
        return self._refuse if name in self._functions else getattr(os, name)

    def _refuse(self, *args: Any, **options: Any) -> Any:
        raise OSError(self._number, os.strerror(self._number))
