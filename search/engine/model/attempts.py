"""What the machine does once for all its processes: a download, an export. A process of its own does it.

Beside the lock, the cache folder holds a note of each attempt that failed for want of weights, so that not every
process makes it again.
"""

import hashlib
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from search.engine import durable
from search.engine.errors import StillUnavailable, WeightsUnavailable
from search.engine.model.child import watch_for_end

logger = logging.getLogger(__name__)

WEIGHTS_UNAVAILABLE = 3  # exit status of a step; its standard output is the message

_SECONDS = 1800  # an export takes a few, a download what the network takes

T = TypeVar("T")


class StepFailed(Exception):
    """A step that ended otherwise than by its own judgement; says how."""


def once(
    module: str,
    *arguments: str,
    cache: Path,
    says: str,
    needs: str,
    done: Callable[[], T | None],
    believed_seconds: float,
) -> T:
    """Return what done() returns, after `python -m module arguments` if that is None; one process does it at a time.

    says: what the log says where it is done. needs: what a failure depends on; one noted in cache within the last
    believed_seconds is not tried again.
    Raises WeightsUnavailable, StillUnavailable for one noted, LoadingStopped, StepFailed, and OSError where the
    folder cannot be used.
    """
    cache.mkdir(parents=True, exist_ok=True)
    note = cache / f".refused-{hashlib.sha256(f'{module} {needs}'.encode()).hexdigest()[:16]}"
    with watch_for_end() as ending, ending.lock(cache / "export.lock"):
        if (result := done()) is not None:  # somebody did it while we waited
            return result
        if reason := _noted(note, believed_seconds):
            raise StillUnavailable(reason)
        logger.info("%s", says)
        try:
            status, said = ending.run([sys.executable, "-m", module, *arguments], seconds=_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise StepFailed(f"took longer than {_SECONDS} s") from error
        if status == WEIGHTS_UNAVAILABLE:
            durable.replace(note, said.encode())
            raise WeightsUnavailable(said)
        note.unlink(missing_ok=True)
        result = done()
    if status or result is None:
        raise StepFailed(f"ended with status {status} {said}".rstrip())
    return result


def _noted(note: Path, believed_seconds: float) -> str:
    try:
        age = time.time() - note.stat().st_mtime
        return note.read_text() if 0 <= age < believed_seconds else ""
    except OSError:
        return ""
