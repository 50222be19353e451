import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Self, TypeVar

from django.conf import settings
from django.db import models, transaction
from django.db.models.functions import Coalesce, Now

from tenants.models.audit import Actor, AuditEvent, record
from tenants.models.rows import SavedOnce


class JobStopped(Exception):
    """The job is no longer the caller's to carry out."""


class JobCancelled(JobStopped):
    """Somebody cancelled the job."""


class LeaseLost(JobStopped):
    """The job was without heartbeat for too long, and another worker has taken it over."""


AnyJob = TypeVar("AnyJob", bound="Job")


class JobQuerySet(models.QuerySet[AnyJob]):
    def active(self) -> Self:
        return self.filter(status__in=Job.ACTIVE)

    def claimable(self) -> Self:
        """The queued, and the running whose worker has not been heard of for the length of a lease."""
        # The database's clock, because the workers' may differ.
        expired = Now() - timedelta(seconds=settings.BUILD_LEASE_SECONDS)
        return self.filter(
            models.Q(status=Job.Status.QUEUED) | models.Q(status=Job.Status.RUNNING, heartbeat_at__lt=expired)
        )

    def queue(self, **values: Any) -> AnyJob:
        """Hand a new job to the workers. Raises IntegrityError where the company has an active one, or is deleted."""
        with transaction.atomic():
            job = self.create(**values)
            job.hand_to_workers()
        return job


class Job(SavedOnce):
    """What workers do for a company, from the wish to its outcome; one kind has a table and one active row a company.

    A worker owns a running job through its lease: every write of the worker names the lease, so that one which
    was only asleep, and whose job another has taken over, changes nothing any more.
    """

    class Status(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        CANCELLED = "cancelled"

    ACTIVE = (Status.QUEUED, Status.RUNNING)
    MAX_ATTEMPTS = 3
    KIND = "job"  # in the words of messages, "a new {KIND} goes on"
    CANCELLATION: AuditEvent.Action  # what the audit says of a cancelled one

    company: models.ForeignKey[Any, Any]
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.QUEUED)
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    queued_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    heartbeat_at = models.DateTimeField(null=True)
    lease = models.CharField(max_length=32, blank=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    seconds_left = models.FloatField(null=True)
    error = models.TextField(blank=True)

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.KIND.capitalize()} {self.pk} of {self.company}"

    @property
    def is_active(self) -> bool:
        return self.status in self.ACTIVE

    def hand_to_workers(self) -> None:
        """Have a worker look at the job once the transaction is committed."""
        raise NotImplementedError

    def taken_up(self) -> dict[str, Any]:
        """Return what a claim writes in addition: what was asked for while an attempt before it ran."""
        return {}

    def queue_follow_up(self) -> None:
        """Queue what was asked for while the job ran, in the transaction that ends it."""
        raise NotImplementedError

    def start(self) -> bool:
        """Claim the job for the caller, who holds its lease from now on; False where it is not to be had.

        A job whose workers were lost MAX_ATTEMPTS times fails here instead of being tried again.
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
                started_at=Coalesce("started_at", Now()),
                heartbeat_at=Now(),
                **self.taken_up(),
            )
        )
        if not claimed:
            self._give_up()
        self.refresh_from_db()
        return bool(claimed) and self.lease == lease

    def _give_up(self) -> None:
        """Fail a job whose workers were lost too often; what was asked for meanwhile follows."""
        with transaction.atomic():
            lost = self._rows().claimable().filter(pk=self.pk, attempts__gte=self.MAX_ATTEMPTS)
            given_up = lost.update(
                status=self.Status.FAILED,
                finished_at=Now(),
                error=f"Given up: the worker was lost {self.MAX_ATTEMPTS} times. Its log may tell why; "
                f"a new {self.KIND} goes on where this one stopped.",
            )
            if given_up:
                self.queue_follow_up()

    def beat(self, **values: Any) -> None:
        """Write values and say that the worker lives. Raises JobCancelled and LeaseLost."""
        self._write(heartbeat_at=Now(), **values)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep the job the caller's until the end of the block: nobody cancels or takes it over meanwhile.

        Raises JobCancelled and LeaseLost.
        """
        with transaction.atomic():
            self._write(heartbeat_at=Now())
            yield

    def succeed(self, **values: Any) -> None:
        self._end(status=self.Status.SUCCEEDED, **values)

    def fail(self, error: str) -> None:
        self._end(status=self.Status.FAILED, error=error)

    def abandon(self) -> None:
        """End a job whose process was asked to stop and leaves it to no worker."""
        self._end(status=self.Status.CANCELLED)

    def _end(self, **values: Any) -> None:
        """End the caller's job and queue what was asked for meanwhile: both happen, or neither."""
        with transaction.atomic():
            self._write(finished_at=Now(), seconds_left=None, **values)
            self.queue_follow_up()

    def hand_back(self) -> None:
        """Queue the job again, for a worker that was asked to stop; it does not count as an attempt."""
        with transaction.atomic():
            self._write(status=self.Status.QUEUED, lease="", attempts=models.F("attempts") - 1)
            self.hand_to_workers()

    def cancel(self, *, by: Actor | None = None) -> bool:
        """End the job and what was to follow it; False where it is over. The worker notices at its next beat."""
        active = self._rows().active().filter(pk=self.pk)
        with transaction.atomic():
            cancelled = active.update(status=self.Status.CANCELLED, finished_at=Now(), seconds_left=None)
            self.refresh_from_db()
            if cancelled:
                self.cancel_follow_up()
                record(by, self.CANCELLATION, self.company, f"{self.KIND} {self.pk}")
        return bool(cancelled)

    def cancel_follow_up(self) -> None:
        """Say what was to follow a job that was just cancelled, in the same transaction."""

    def _write(self, **values: Any) -> None:
        """Write values if the job is still the caller's: heartbeat, progress, fencing and cancel check in one."""
        written = self._rows().filter(pk=self.pk, lease=self.lease, status=self.Status.RUNNING).update(**values)
        if written:
            return
        status = self._rows().filter(pk=self.pk).values_list("status", flat=True).first()
        if status == self.Status.CANCELLED:
            raise JobCancelled(f"The {self.KIND} of {self.company} was cancelled")
        if status is None:
            raise JobCancelled(f"{self.company} was deleted, and its {self.KIND} with it")
        raise LeaseLost(f"The {self.KIND} of {self.company} is no longer this worker's: another has taken it over")

    def _rows(self) -> JobQuerySet[Self]:
        return JobQuerySet(type(self))
