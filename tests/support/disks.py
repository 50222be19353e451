"""Disks that refuse."""

import os
from typing import Any


class RefusingOs:
    """The module os, some of whose functions fail with an error number; to be put in its place in a module."""

    def __init__(self, number: int, *functions: str) -> None:
        self._number, self._functions = number, functions

    def __getattr__(self, name: str) -> Any:
        return self._refuse if name in self._functions else getattr(os, name)

    def _refuse(self, *args: Any, **options: Any) -> Any:
        raise OSError(self._number, os.strerror(self._number))
