from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import models, transaction
from django.db.models.functions import Coalesce, Now

from tenants.models.audit import Actor, AuditEvent, record
from tenants.models.jobs import Job, JobQuerySet
from tenants.signals import build_queued


class BuildRunning(Exception):
    """Another process carries out a build of the company; the message says since when."""


class IndexBuildQuerySet(JobQuerySet["IndexBuild"]):
    pass


class IndexBuild(Job):
    """The making of a company's index, from the wish to its outcome."""

    KIND = "build"
    CANCELLATION = AuditEvent.Action.BUILD_CANCELLED

    company = models.ForeignKey("tenants.Company", on_delete=models.CASCADE, related_name="builds")
    full = models.BooleanField(default=False, help_text="Process all pictures.")
    checksum = models.BooleanField(default=False, help_text="Compare contents, not only sizes and times.")
    allow_empty = models.BooleanField(default=False, help_text="Allow an empty folder to empty the index.")
    fold = models.BooleanField(default=False, help_text="Only merge live changes into the index.")
    # Columns that came later have a database default, see Company.
    switch = models.BooleanField(
        default=False, db_default=False, help_text="Its model is used at once, also where a person would choose."
    )
    image_folder = models.TextField(blank=True, help_text="Instead of the company's own.")
    # What was asked for while it ran.
    follow_up = models.BooleanField(default=False, db_default=False, help_text="Another build follows it.")
    follow_up_full = models.BooleanField(default=False, db_default=False)
    follow_up_checksum = models.BooleanField(default=False, db_default=False)
    follow_up_allow_empty = models.BooleanField(default=False, db_default=False)
    follow_up_switch = models.BooleanField(default=False, db_default=False)
    follow_up_requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    images_found = models.PositiveIntegerField(default=0)
    images_embedded = models.PositiveIntegerField(default=0)
    images_reused = models.PositiveIntegerField(default=0)
    images_removed = models.PositiveIntegerField(default=0)
    images_skipped = models.PositiveIntegerField(default=0)
    images_per_second = models.FloatField(null=True)
    total_images = models.PositiveIntegerField(null=True, help_text="Pictures in the new index.")
    weights = models.CharField(max_length=200, blank=True, help_text="Weights of the model that made the vectors.")
    fingerprint = models.CharField(
        max_length=64, blank=True, default="", db_default="", help_text="That of this model."
    )
    neighbours_tried = models.PositiveIntegerField(
        null=True, default=None, db_default=None, help_text="Pictures whose nearest neighbour was looked at."
    )
    neighbours_own = models.PositiveIntegerField(
        null=True, default=None, db_default=None, help_text="Those of them whose nearest neighbour is in their folder."
    )
    # Where another model made the index that was used until then:
    candidate = models.CharField(
        max_length=64, blank=True, default="", db_default="", help_text="The generation that the new model made."
    )
    weights_before = models.CharField(
        max_length=200, blank=True, default="", db_default="", help_text="Weights of the model before."
    )
    overlap_tried = models.PositiveIntegerField(
        null=True, default=None, db_default=None, help_text="Pictures that were searched for with both models."
    )
    overlap = models.FloatField(
        null=True, default=None, db_default=None, help_text="Share of the first ten results that both have, 0 to 1."
    )
    neighbours_tried_before = models.PositiveIntegerField(null=True, default=None, db_default=None)
    neighbours_own_before = models.PositiveIntegerField(null=True, default=None, db_default=None)
    # Where workers share it:
    units_total = models.PositiveIntegerField(default=0, db_default=0, help_text="Parts that workers embed.")
    units_done = models.PositiveIntegerField(default=0, db_default=0)
    units_running = models.PositiveIntegerField(default=0, db_default=0, help_text="Parts that a worker has in hand.")
    full_reason = models.TextField(blank=True, help_text="Why all pictures were processed.")

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
    def units_description(self) -> str:
        """How much is done of what workers share, and by how many at present; "" where it is not shared."""
        if not self.units_total:
            return ""
        at_work = f", {self.units_running:,} in progress" if self.status == self.Status.RUNNING else ""
        return f"{self.units_done:,} of {self.units_total:,} units{at_work}"

    @property
    def description(self) -> str:
        """What it does, in the words of every page, message and audit."""
        if self.fold:
            return "live changes only"
        return _description(full=self.full, checksum=self.checksum, allow_empty=self.allow_empty, switch=self.switch)

    @property
    def follow_up_description(self) -> str:
        """What the build does that follows it."""
        return _description(
            full=self.follow_up_full,
            checksum=self.follow_up_checksum,
            allow_empty=self.follow_up_allow_empty,
            switch=self.follow_up_switch,
        )

    def hand_to_workers(self) -> None:
        build_queued.send(IndexBuild, build=self)

    def taken_up(self) -> dict[str, Any]:
        return _with_what_was_to_follow()

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
            self.hand_to_workers()  # its task may have been lost with a worker
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

    def clear_up(self) -> None:
        self.units.all().delete()

    def queue_follow_up(self) -> None:
        ended = IndexBuild.objects.select_related("follow_up_requested_by").get(pk=self.pk)
        if ended.follow_up:
            IndexBuild.objects.queue(
                company=self.company,
                full=ended.follow_up_full,
                checksum=ended.follow_up_checksum,
                allow_empty=ended.follow_up_allow_empty,
                switch=ended.follow_up_switch,
                requested_by=ended.follow_up_requested_by,
            )

    def cancel_follow_up(self) -> None:
        if self.follow_up:
            self.error = f"Cancelled together with the build that was to follow: {self.follow_up_description}"
            IndexBuild.objects.filter(pk=self.pk).update(error=self.error)


def _description(*, full: bool, checksum: bool, allow_empty: bool, switch: bool) -> str:
    text = "all pictures" if full else "changed pictures only"
    text += ", contents compared" if checksum else ""
    text += ", even if there are none" if allow_empty else ""
    return f"{text}, its model is used at once" if switch else text


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
        "switch": either("switch"),
        "fold": models.Case(models.When(followed, then=False), default=models.F("fold")),
        "image_folder": models.Case(
            models.When(followed, then=models.Value("", models.TextField())), default=models.F("image_folder")
        ),
        "follow_up": False,
        "follow_up_full": False,
        "follow_up_checksum": False,
        "follow_up_allow_empty": False,
        "follow_up_switch": False,
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
