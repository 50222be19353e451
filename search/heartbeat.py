"""Heartbeats: of a running job, whose row is told its progress about once a second, and of a worker."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.db import Error, InterfaceError, OperationalError, connection

from search.engine.build.builder import BuildProgress
from search.outages import outage
from search.stopping import StopRequested
from tenants.models import BuildUnit, IndexBuild, Job, Watch

logger = logging.getLogger(__name__)

_BEAT_SECONDS = 1.0
_RATE_SECONDS = 30.0  # window over which pictures per second are averaged
_BEATS_A_LEASE = 4  # of a worker


def counts(progress: BuildProgress) -> dict[str, int]:
    return {
        "images_found": progress.found,
        "images_embedded": progress.embedded,
        "images_reused": progress.reused,
        "images_removed": progress.removed,
        "images_skipped": progress.skipped,
    }


@contextmanager
def beating() -> Iterator[None]:
    """Tell the database that a worker is alive, whatever it does in the block; a thread of its own does that."""
    over = threading.Event()
    threading.Thread(target=_beat_until, args=(over,), name="worker-beat", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _beat_until(over: threading.Event) -> None:
    while not over.is_set():
        try:
            Watch.objects.beat()
        except Error as error:
            logger.debug("The database does not take the worker's heartbeat: %s", error)
        finally:
            connection.close()
        over.wait(settings.BUILD_LEASE_SECONDS / _BEATS_A_LEASE)


class Heart:
    """Writes to a job's row how far it is, about once a second; that write is its heartbeat as well."""

    def __init__(self, job: Job | BuildUnit, stop: threading.Event) -> None:
        self._job, self._stop = job, stop
        self._beat_at = 0.0
        self._unwritten: dict[str, Any] = {}

    @property
    def is_due(self) -> bool:
        return time.monotonic() - self._beat_at >= _BEAT_SECONDS

    def require_going_on(self) -> None:
        """Raise StopRequested where the process was asked to stop."""
        if self._stop.is_set():
            raise StopRequested(
                f"The {self._job.KIND} of {self._job.company} was stopped; the work done so far is kept"
            )

    def pause(self, seconds: float) -> None:
        """Wait so long, or until the process is asked to stop."""
        self._stop.wait(seconds)

    def beat_if_due(self) -> None:
        """Raises StopRequested, JobCancelled and LeaseLost."""
        self.require_going_on()
        if self.is_due:
            self.beat()

    def beat(self, **values: Any) -> None:
        """Write values to the row; while the database is locked or away the job goes on, and a later beat writes all.

        Raises JobCancelled and LeaseLost.
        """
        self._unwritten |= values
        try:
            self._job.beat(**self._unwritten)
        except (OperationalError, InterfaceError) as error:
            outage.met(error)
        else:
            outage.over()
            self._unwritten = {}
        self._beat_at = time.monotonic()


class BuildHeart(Heart):
    """That of a build, which tells others of its progress as well."""

    def __init__(self, build: IndexBuild, stop: threading.Event, on_progress: Callable[[BuildProgress], None]) -> None:
        super().__init__(build, stop)
        self._on_progress = on_progress
        self._rate = Rate()

    def report(self, progress: BuildProgress, **values: Any) -> None:
        """values: of the row, beside the progress. Raises StopRequested, JobCancelled and LeaseLost."""
        self.require_going_on()
        self._on_progress(progress)
        self._rate.update(progress.embedded + progress.skipped)
        if self.is_due:
            per_second = self._rate.per_second
            left = (progress.found - progress.done) / per_second if per_second else None
            self.beat(**counts(progress), images_per_second=per_second, seconds_left=left, **values)


class Rate:
    """How many pictures, or whatever is counted, were done a second lately."""

    def __init__(self) -> None:
        self.per_second: float | None = None
        self._since = time.monotonic()
        self._done: int | None = None

    def update(self, done: int) -> None:
        if self._done is None:  # what was there before this attempt does not count
            self._since, self._done = time.monotonic(), done
            return
        seconds = time.monotonic() - self._since
        if done > self._done and seconds > 0:
            self.per_second = (done - self._done) / seconds
            if seconds > _RATE_SECONDS:
                self._since, self._done = time.monotonic(), done
