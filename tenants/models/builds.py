import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import models, transaction
from django.db.models.functions import Coalesce, Now

from tenants.models.audit import Actor, AuditEvent, record
from tenants.models.rows import SavedOnce
from tenants.signals import build_queued


class BuildStopped(Exception):
    """The build is no longer the caller's to carry out."""


class BuildCancelled(BuildStopped):
    """Somebody cancelled the build."""


class LeaseLost(BuildStopped):
    """The build was without heartbeat for too long, and another worker has taken it over."""


class BuildRunning(Exception):
    """Another process carries out a build of the company; the message says since when."""


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

    def queue(self, **values: Any) -> "IndexBuild":
        """Hand a new build to the workers. Raises IntegrityError where the company has an active one, or is deleted."""
        with transaction.atomic():
            build = self.create(**values)
            build_queued.send(IndexBuild, build=build)
        return build


class IndexBuild(SavedOnce):
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

    ACTIVE = (Status.QUEUED, Status.RUNNING)
    MAX_ATTEMPTS = 3

    company = models.ForeignKey("tenants.Company", on_delete=models.CASCADE, related_name="builds")
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.QUEUED)
    full = models.BooleanField(default=False, help_text="Process all pictures.")
    checksum = models.BooleanField(default=False, help_text="Compare contents, not only sizes and times.")
    allow_empty = models.BooleanField(default=False, help_text="Allow an empty folder to empty the index.")
    fold = models.BooleanField(default=False, help_text="Only merge live changes into the index.")
    image_folder = models.TextField(blank=True, help_text="Instead of the company's own.")
    # What was asked for while it ran. Columns that came later have a database default, see Company.
    follow_up = models.BooleanField(default=False, db_default=False, help_text="Another build follows it.")
    follow_up_full = models.BooleanField(default=False, db_default=False)
    follow_up_checksum = models.BooleanField(default=False, db_default=False)
    follow_up_allow_empty = models.BooleanField(default=False, db_default=False)
    follow_up_requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
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
    total_images = models.PositiveIntegerField(null=True, help_text="Pictures in the new index.")
    weights = models.CharField(max_length=200, blank=True, help_text="Weights of the model that made the vectors.")
    neighbours_tried = models.PositiveIntegerField(
        null=True, default=None, db_default=None, help_text="Pictures whose nearest neighbour was looked at."
    )
    neighbours_own = models.PositiveIntegerField(
        null=True, default=None, db_default=None, help_text="Those of them whose nearest neighbour is in their folder."
    )
    full_reason = models.TextField(blank=True, help_text="Why all pictures were processed.")
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
        return f"Build {self.pk} of {self.company}"

    @property
    def is_active(self) -> bool:
        return self.status in self.ACTIVE

    @property
    def images_done(self) -> int:
        return self.images_embedded + self.images_reused + self.images_skipped

    @property
    def neighbours_percent(self) -> float | None:
        """How often a picture's nearest neighbour lies in its own folder; None where that was not measured."""
        return 100 * (self.neighbours_own or 0) / self.neighbours_tried if self.neighbours_tried else None

    @property
    def percent(self) -> int:
        return 100 * self.images_done // self.images_found if self.images_found else 0

    @property
    def description(self) -> str:
        """What it does, in the words of every page, message and audit."""
        if self.fold:
            return "live changes only"
        return _description(full=self.full, checksum=self.checksum, allow_empty=self.allow_empty)

    @property
    def follow_up_description(self) -> str:
        """What the build does that follows it."""
        return _description(
            full=self.follow_up_full, checksum=self.follow_up_checksum, allow_empty=self.follow_up_allow_empty
        )

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
                **_with_what_was_to_follow(),
            )
        )
        if not claimed:
            self._give_up()
        self.refresh_from_db()
        return bool(claimed) and self.lease == lease

    def _give_up(self) -> None:
        """Fail a build whose workers were lost too often; what was asked for meanwhile follows."""
        with transaction.atomic():
            lost = IndexBuild.objects.claimable().filter(pk=self.pk, attempts__gte=self.MAX_ATTEMPTS)
            given_up = lost.update(
                status=self.Status.FAILED,
                finished_at=Now(),
                error=f"Given up: the worker was lost {self.MAX_ATTEMPTS} times. Its log may tell why; "
                "a new build goes on where this one stopped.",
            )
            if given_up:
                self._queue_follow_up()

    @transaction.atomic
    def ask_for_more(self, *, by: Actor | None, **wishes: bool) -> bool:
        """Have a queued build do more than it was queued for, and a running one followed by another.

        False where it has become something else meanwhile: ask again.
        """
        user = by.user if by else None
        mine = IndexBuild.objects.filter(pk=self.pk)
        wished = [name for name, wish in wishes.items() if wish]
        queued = mine.filter(status=self.Status.QUEUED).update(fold=False, **dict.fromkeys(wished, True))
        overdue = Now() - timedelta(seconds=settings.BUILD_LEASE_SECONDS)
        if mine.filter(status=self.Status.QUEUED, queued_at__lt=overdue).exists():
            build_queued.send(IndexBuild, build=self)  # its task may have been lost with a worker
        running = mine.filter(status=self.Status.RUNNING).update(
            follow_up=True,
            follow_up_requested_by=Coalesce("follow_up_requested_by", models.Value(user and user.pk)),
            **{f"follow_up_{name}": True for name in wished},
        )
        self.refresh_from_db()
        if queued:
            record(by, AuditEvent.Action.BUILD_ASKED, self.company, f"build {self.pk}: {self.description}")
        if running:
            detail = f"after build {self.pk}: {self.follow_up_description}"
            record(by, AuditEvent.Action.BUILD_ASKED, self.company, detail)
        return bool(queued or running)

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
        self._end(status=self.Status.SUCCEEDED, **values)

    def fail(self, error: str) -> None:
        self._end(status=self.Status.FAILED, error=error)

    def abandon(self) -> None:
        """End a build whose process was asked to stop and leaves it to no worker."""
        self._end(status=self.Status.CANCELLED)

    def _end(self, **values: Any) -> None:
        """End the caller's build and queue what was asked for meanwhile: both happen, or neither."""
        with transaction.atomic():
            self._write(finished_at=Now(), seconds_left=None, **values)
            self._queue_follow_up()

    def _queue_follow_up(self) -> None:
        ended = IndexBuild.objects.select_related("follow_up_requested_by").get(pk=self.pk)
        if ended.follow_up:
            IndexBuild.objects.queue(
                company=self.company,
                full=ended.follow_up_full,
                checksum=ended.follow_up_checksum,
                allow_empty=ended.follow_up_allow_empty,
                requested_by=ended.follow_up_requested_by,
            )

    def hand_back(self) -> None:
        """Queue the build again, for a worker that was asked to stop; it does not count as an attempt."""
        with transaction.atomic():
            self._write(status=self.Status.QUEUED, lease="", attempts=models.F("attempts") - 1)
            build_queued.send(IndexBuild, build=self)

    def cancel(self, *, by: Actor | None = None) -> bool:
        """End the build and what was to follow it; False where it is over. The worker notices at its next beat."""
        active = IndexBuild.objects.active().filter(pk=self.pk)
        with transaction.atomic():
            cancelled = active.update(status=self.Status.CANCELLED, finished_at=Now(), seconds_left=None)
            self.refresh_from_db()
            if cancelled and self.follow_up:
                self.error = f"Cancelled together with the build that was to follow: {self.follow_up_description}"
                IndexBuild.objects.filter(pk=self.pk).update(error=self.error)
            if cancelled:
                record(by, AuditEvent.Action.BUILD_CANCELLED, self.company, f"build {self.pk}")
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


def _description(*, full: bool, checksum: bool, allow_empty: bool) -> str:
    text = "all pictures" if full else "changed pictures only"
    text += ", contents compared" if checksum else ""
    return f"{text}, even if there are none" if allow_empty else text


def _with_what_was_to_follow() -> dict[str, Any]:
    """Return the update by which an attempt does what was asked for during the one before: it looks at the folder anew.

    What was asked for concerns the company's own folder. That another one might have been empty says nothing of it.
    """
    followed, elsewhere = models.Q(follow_up=True), ~models.Q(image_folder="")

    def either(name: str) -> models.Case:
        return models.Case(models.When(**{f"follow_up_{name}": True}, then=True), default=models.F(name))

    return {
        "full": either("full"),
        "checksum": either("checksum"),
        "allow_empty": models.Case(
            models.When(followed & elsewhere, then=models.F("follow_up_allow_empty")), default=either("allow_empty")
        ),
        "fold": models.Case(models.When(followed, then=False), default=models.F("fold")),
        "image_folder": models.Case(
            models.When(followed, then=models.Value("", models.TextField())), default=models.F("image_folder")
        ),
        "follow_up": False,
        "follow_up_full": False,
        "follow_up_checksum": False,
        "follow_up_allow_empty": False,
        "follow_up_requested_by": None,
    }


class SkippedImage(models.Model):
    """A file that a build could not index, and why."""

    build = models.ForeignKey(IndexBuild, on_delete=models.CASCADE, related_name="skipped_files")
    path = models.TextField()
    reason = models.TextField()

    class Meta:
        ordering = ["path"]

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"
