"""Heartbeat of a running build: writes progress to its row about once a second and checks for a request to stop."""

import threading
import time
from collections.abc import Callable
from typing import Any

from django.db import InterfaceError, OperationalError

from search.engine.build.builder import BuildProgress
from search.outages import outage
from search.stopping import StopRequested
from tenants.models import IndexBuild

_BEAT_SECONDS = 1.0
_RATE_SECONDS = 30.0  # window over which pictures per second are averaged


def counts(progress: BuildProgress) -> dict[str, int]:
    return {
        "images_found": progress.found,
        "images_embedded": progress.embedded,
        "images_reused": progress.reused,
        "images_removed": progress.removed,
        "images_skipped": progress.skipped,
    }


class Heart:
    """Writes a build's progress to its row, about once a second; that write is its heartbeat as well."""

    def __init__(self, build: IndexBuild, stop: threading.Event, on_progress: Callable[[BuildProgress], None]) -> None:
        self._build, self._stop, self._on_progress = build, stop, on_progress
        self._beat_at = 0.0
        self._unwritten: dict[str, Any] = {}
        self._rate = _Rate()

    def report(self, progress: BuildProgress) -> None:
        """Raises StopRequested, BuildCancelled and LeaseLost."""
        if self._stop.is_set():
            raise StopRequested(f"The build of {self._build.company} was stopped; the work done so far is kept")
        self._on_progress(progress)
        self._rate.update(progress)
        if time.monotonic() - self._beat_at >= _BEAT_SECONDS:
            per_second = self._rate.per_second
            left = (progress.found - progress.done) / per_second if per_second else None
            self.beat(**counts(progress), images_per_second=per_second, seconds_left=left)

    def beat(self, **values: Any) -> None:
        """Write values to the row; while the database is locked or away the build goes on, and a later beat writes all.

        Raises BuildCancelled and LeaseLost.
        """
        self._unwritten |= values
        try:
            self._build.beat(**self._unwritten)
        except (OperationalError, InterfaceError) as error:
            outage.met(error)
        else:
            outage.over()
            self._unwritten = {}
        self._beat_at = time.monotonic()


class _Rate:
    """Recent pictures per second."""

    def __init__(self) -> None:
        self.per_second: float | None = None
        self._since = time.monotonic()
        self._done: int | None = None

    def update(self, progress: BuildProgress) -> None:
        done = progress.embedded + progress.skipped
        if self._done is None:  # what was there before this attempt does not count
            self._since, self._done = time.monotonic(), done
            return
        seconds = time.monotonic() - self._since
        if done > self._done and seconds > 0:
            self.per_second = (done - self._done) / seconds
            if seconds > _RATE_SECONDS:
                self._since, self._done = time.monotonic(), done
