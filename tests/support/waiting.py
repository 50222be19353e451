import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 90  # seconds, until a test that waits in vain fails


def eventually(condition: Callable[[], T], what: str, *, seconds: float = PATIENCE) -> T:
    """Return what condition gives as soon as that is true; fail when it is not within so many seconds."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"Not within {seconds} s: {what}"
        time.sleep(0.01)
    return value
