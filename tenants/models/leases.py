import secrets
from datetime import timedelta
from typing import Any, NoReturn, Self, TypeVar

from django.conf import settings
from django.db import models
from django.db.models.functions import Now

from tenants.models.rows import SavedOnce


class JobStopped(Exception):
    """The work is no longer the caller's to carry out."""


class LeaseLost(JobStopped):
    """The work was without heartbeat for too long, and another worker has taken it over."""


AnyLeased = TypeVar("AnyLeased", bound="Leased")


class LeasedQuerySet(models.QuerySet[AnyLeased]):
    def claimable(self) -> Self:
        """The queued, and the running whose worker has not been heard of for the length of a lease."""
        return self.filter(models.Q(status=Leased.Status.QUEUED) | _expired())

    def expired(self) -> Self:
        return self.filter(_expired())


def _expired() -> models.Q:
    # The database's clock, because the workers' may differ.
    return models.Q(
        status=Leased.Status.RUNNING, heartbeat_at__lt=Now() - timedelta(seconds=settings.BUILD_LEASE_SECONDS)
    )


class Leased(SavedOnce):
    """A piece of work that a worker owns through its lease while it runs.

    Every write of the worker names the lease, so that one which was only asleep, and whose work another has taken
    over, changes nothing any more.
    """

    class Status(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        CANCELLED = "cancelled"

    MAX_ATTEMPTS = 3
    KIND = "work"  # in the words of messages

    status = models.CharField(max_length=10, choices=Status.choices, default=Status.QUEUED)
    heartbeat_at = models.DateTimeField(null=True)
    lease = models.CharField(max_length=32, blank=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    error = models.TextField(blank=True)

    class Meta:
        abstract = True

    def start(self) -> bool:
        """Claim the work for the caller, who holds its lease from now on; False where it is not to be had.

        What lost its workers MAX_ATTEMPTS times fails here instead of being tried again.
        """
        lease = secrets.token_hex(16)
        claimed = (
            self._rows()
            .claimable()
            .filter(pk=self.pk, attempts__lt=self.MAX_ATTEMPTS)
            .update(
                status=self.Status.RUNNING,
                lease=lease,
                attempts=models.F("attempts") + 1,
                heartbeat_at=Now(),
                **self.started(),
            )
        )
        if not claimed:
            self.give_up()
        self.refresh_from_db()
        return bool(claimed) and self.lease == lease

    def started(self) -> dict[str, Any]:
        """Return what a claim writes in addition."""
        return {}

    def give_up(self) -> None:
        """Fail work whose workers were lost too often."""
        raise NotImplementedError

    def beat(self, **values: Any) -> None:
        """Write values and say that the worker lives. Raises JobStopped."""
        self._write(heartbeat_at=Now(), **values)

    def _write(self, **values: Any) -> None:
        """Write values if the work is still the caller's: heartbeat, progress, fencing and cancel check in one."""
        written = self._rows().filter(pk=self.pk, lease=self.lease, status=self.Status.RUNNING).update(**values)
        if not written:
            self._refuse()

    def _refuse(self) -> NoReturn:
        """Raise the JobStopped that tells why the work is no longer the caller's."""
        raise NotImplementedError

    def _rows(self) -> LeasedQuerySet[Self]:
        return LeasedQuerySet(type(self))
