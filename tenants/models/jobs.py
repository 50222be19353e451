from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, Self, TypeVar

from django.conf import settings
from django.db import models, transaction
from django.db.models.functions import Coalesce, Now

from tenants.models.audit import Actor, AuditEvent, record
from tenants.models.leases import JobStopped, Leased, LeasedQuerySet, LeaseLost


class JobCancelled(JobStopped):
    """Somebody cancelled the job."""


AnyJob = TypeVar("AnyJob", bound="Job")


class JobQuerySet(LeasedQuerySet[AnyJob]):
    def active(self) -> Self:
        return self.filter(status__in=Job.ACTIVE)

    def queue(self, **values: Any) -> AnyJob:
        """Hand a new job to the workers. Raises IntegrityError where the company has an active one, or is deleted."""
        with transaction.atomic():
            job = self.create(**values)
            job.hand_to_workers()
        return job


class Job(Leased):
    """What workers do for a company, from the wish to its outcome.

    One kind has a table, and one active row a company.
    """

    ACTIVE = (Leased.Status.QUEUED, Leased.Status.RUNNING)
    KIND = "job"  # in the words of messages, "a new {KIND} goes on"
    CANCELLATION: AuditEvent.Action  # what the audit says of a cancelled one

    company: models.ForeignKey[Any, Any]
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    queued_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    seconds_left = models.FloatField(null=True)

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

    def clear_up(self) -> None:
        """Remove the rows that only an active job needs, in the transaction that ends it."""

    def started(self) -> dict[str, Any]:
        return {"started_at": Coalesce("started_at", Now()), **self.taken_up()}

    def give_up(self) -> None:
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
                self.clear_up()
                self.queue_follow_up()

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
            self.clear_up()
            self.queue_follow_up()

    def hand_back(self, *, at_once: bool = True) -> None:
        """Queue the job again, for a worker that cannot go on with it; it does not count as an attempt.

        at_once: false leaves it to whoever looks after active jobs, some time later.
        """
        with transaction.atomic():
            self._write(status=self.Status.QUEUED, lease="", attempts=models.F("attempts") - 1)
            if at_once:
                self.hand_to_workers()

    def cancel(self, *, by: Actor | None = None) -> bool:
        """End the job and what was to follow it; False where it is over. The worker notices at its next beat."""
        active = self._rows().active().filter(pk=self.pk)
        with transaction.atomic():
            cancelled = active.update(status=self.Status.CANCELLED, finished_at=Now(), seconds_left=None)
            self.refresh_from_db()
            if cancelled:
                self.clear_up()
                self.cancel_follow_up()
                record(by, self.CANCELLATION, self.company, f"{self.KIND} {self.pk}")
        return bool(cancelled)

    def cancel_follow_up(self) -> None:
        """Say what was to follow a job that was just cancelled, in the same transaction."""

    def _refuse(self) -> NoReturn:
        status = self._rows().filter(pk=self.pk).values_list("status", flat=True).first()
        if status == self.Status.CANCELLED:
            raise JobCancelled(f"The {self.KIND} of {self.company} was cancelled")
        if status is None:
            raise JobCancelled(f"{self.company} was deleted, and its {self.KIND} with it")
        raise LeaseLost(f"The {self.KIND} of {self.company} is no longer this worker's: another has taken it over")

    def _rows(self) -> JobQuerySet[Self]:
        return JobQuerySet(type(self))
