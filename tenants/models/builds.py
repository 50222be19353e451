import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import models, transaction
from django.db.models.functions import Coalesce, Now

from tenants.signals import build_queued


class BuildStopped(Exception):
    """The build is no longer the caller's to carry out."""


class BuildCancelled(BuildStopped):
    """Somebody cancelled the build."""


class LeaseLost(BuildStopped):
    """The build was without heartbeat for too long, and another worker has taken it over."""


class IndexBuildQuerySet(models.QuerySet["IndexBuild"]):
    def active(self) -> "IndexBuildQuerySet":
        return self.filter(status__in=IndexBuild.ACTIVE)

    def claimable(self) -> "IndexBuildQuerySet":
        """The queued, and the running whose worker has not been heard of for the length of a lease."""
        # The database's clock, because the workers' may differ.
        expired = Now() - timedelta(seconds=settings.BUILD_LEASE_SECONDS)
        return self.filter(
            models.Q(status=IndexBuild.Status.QUEUED)
            | models.Q(status=IndexBuild.Status.RUNNING, heartbeat_at__lt=expired)
        )


class IndexBuild(models.Model):
    """The making of a company's index, from the wish to its outcome.

    A worker owns a running build through its lease: every write of the worker names the lease, so that one which
    was only asleep, and whose build another has taken over, changes nothing any more.
    """

    class Status(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        CANCELLED = "cancelled"

    class Repeat(models.TextChoices):
        CHANGED = "changed"
        FULL = "full"

    ACTIVE = (Status.QUEUED, Status.RUNNING)
    MAX_ATTEMPTS = 3

    company = models.ForeignKey("tenants.Company", on_delete=models.CASCADE, related_name="builds")
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.QUEUED)
    full = models.BooleanField(default=False, help_text="Every picture is embedded anew.")
    checksum = models.BooleanField(default=False, help_text="Contents are compared, not only sizes and times.")
    allow_empty = models.BooleanField(default=False, help_text="An empty folder empties the index.")
    fold = models.BooleanField(default=False, help_text="Only live changes become part of the index.")
    image_folder = models.TextField(blank=True, help_text="Instead of the company's own.")
    repeat = models.CharField(
        max_length=7, choices=Repeat.choices, blank=True, help_text="What was asked for while it ran: it follows."
    )
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    queued_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    heartbeat_at = models.DateTimeField(null=True)
    lease = models.CharField(max_length=32, blank=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    images_found = models.PositiveIntegerField(default=0)
    images_embedded = models.PositiveIntegerField(default=0)
    images_reused = models.PositiveIntegerField(default=0)
    images_removed = models.PositiveIntegerField(default=0)
    images_skipped = models.PositiveIntegerField(default=0)
    images_per_second = models.FloatField(null=True)
    seconds_left = models.FloatField(null=True)
    total_images = models.PositiveIntegerField(null=True, help_text="Pictures in the index that the build made.")
    weights = models.CharField(max_length=200, blank=True, help_text="Weights of the model that made the vectors.")
    full_reason = models.TextField(blank=True, help_text="Why every picture was embedded anew.")
    error = models.TextField(blank=True)

    objects = IndexBuildQuerySet.as_manager()

    class Meta:
        ordering = ["-queued_at", "-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["company"],
                condition=models.Q(status__in=["queued", "running"]),
                name="one_active_build_per_company",
            )
        ]

    def __str__(self) -> str:
        return f"{self.company} {self.queued_at:%Y-%m-%d %H:%M} {self.get_status_display()}"

    @property
    def is_active(self) -> bool:
        return self.status in self.ACTIVE

    @property
    def images_done(self) -> int:
        return self.images_embedded + self.images_reused + self.images_skipped

    @property
    def percent(self) -> int:
        return 100 * self.images_done // self.images_found if self.images_found else 0

    def start(self) -> bool:
        """Claim the build for the caller, who holds its lease from now on; False where it is not to be had.

        A build whose workers were lost MAX_ATTEMPTS times fails here instead of being tried again.
        """
        lease = secrets.token_hex(16)
        claimed = (
            IndexBuild.objects.claimable()
            .filter(pk=self.pk, attempts__lt=self.MAX_ATTEMPTS)
            .update(
                status=self.Status.RUNNING,
                lease=lease,
                attempts=models.F("attempts") + 1,
                started_at=Coalesce("started_at", Now()),
                heartbeat_at=Now(),
                # This attempt looks at the folder anew, so it does what was asked for during the one before.
                full=models.Case(
                    models.When(repeat=self.Repeat.FULL, then=models.Value(True)), default=models.F("full")
                ),
                repeat="",
            )
        )
        if not claimed:
            IndexBuild.objects.claimable().filter(pk=self.pk, attempts__gte=self.MAX_ATTEMPTS).update(
                status=self.Status.FAILED,
                finished_at=Now(),
                error=f"Given up: the worker was lost {self.MAX_ATTEMPTS} times. Its log may tell why; "
                "a new build goes on where this one stopped.",
            )
        self.refresh_from_db()
        return bool(claimed) and self.lease == lease

    def ask_for_more(self, **wishes: bool) -> bool:
        """Have a queued build do more than it was queued for, and a running one followed by another.

        False where it is over meanwhile.
        """
        mine = IndexBuild.objects.filter(pk=self.pk)
        wished = {name: True for name, wish in wishes.items() if wish}
        queued = mine.filter(status=self.Status.QUEUED).update(fold=False, **wished)
        overdue = Now() - timedelta(seconds=settings.BUILD_LEASE_SECONDS)
        if mine.filter(status=self.Status.QUEUED, queued_at__lt=overdue).exists():
            build_queued.send(IndexBuild, build=self)  # its task may have been lost with a worker
        repeat = self.Repeat.FULL if wished else self.Repeat.CHANGED
        running = mine.filter(status=self.Status.RUNNING).exclude(repeat=self.Repeat.FULL).update(repeat=repeat)
        self.refresh_from_db()
        return bool(queued or running) or self.is_active

    def beat(self, **values: Any) -> None:
        """Write values and say that the worker lives. Raises BuildCancelled and LeaseLost."""
        self._write(heartbeat_at=Now(), **values)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep the build the caller's until the end of the block: nobody cancels or takes it over meanwhile.

        Raises BuildCancelled and LeaseLost.
        """
        with transaction.atomic():
            self._write(heartbeat_at=Now())
            yield

    def succeed(self, **values: Any) -> None:
        self._write(status=self.Status.SUCCEEDED, finished_at=Now(), seconds_left=None, **values)
        self._follow_up()

    def fail(self, error: str) -> None:
        self._write(status=self.Status.FAILED, finished_at=Now(), seconds_left=None, error=error)
        self._follow_up()

    def _follow_up(self) -> None:
        repeat = IndexBuild.objects.values_list("repeat", flat=True).get(pk=self.pk)
        if repeat:
            self.company.queue_build(full=repeat == self.Repeat.FULL, requested_by=self.requested_by)

    def hand_back(self) -> None:
        """Queue the build again, for a worker that was asked to stop; it does not count as an attempt."""
        self._write(status=self.Status.QUEUED, lease="", attempts=models.F("attempts") - 1)
        build_queued.send(IndexBuild, build=self)

    def cancel(self) -> bool:
        """End the build, also a running one, whose worker notices at its next beat; False where it is over."""
        cancelled = (
            IndexBuild.objects.active()
            .filter(pk=self.pk)
            .update(status=self.Status.CANCELLED, finished_at=Now(), seconds_left=None)
        )
        self.refresh_from_db()
        return bool(cancelled)

    def _write(self, **values: Any) -> None:
        """Write values if the build is still the caller's: heartbeat, progress, fencing and cancel check in one."""
        written = IndexBuild.objects.filter(pk=self.pk, lease=self.lease, status=self.Status.RUNNING).update(**values)
        if written:
            return
        status = IndexBuild.objects.filter(pk=self.pk).values_list("status", flat=True).first()
        if status == self.Status.CANCELLED:
            raise BuildCancelled(f"The build of {self.company} was cancelled")
        if status is None:
            raise BuildCancelled(f"{self.company} was deleted, and its build with it")
        raise LeaseLost(f"The build of {self.company} is no longer this worker's: another has taken it over")


class SkippedImage(models.Model):
    """A file that a build could not index, and why."""

    build = models.ForeignKey(IndexBuild, on_delete=models.CASCADE, related_name="skipped_files")
    path = models.TextField()
    reason = models.TextField()

    class Meta:
        ordering = ["path"]

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"
