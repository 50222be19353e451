import re
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import IntegrityError, models, transaction
from django.db.models.functions import Lower
from django.utils import timezone

from tenants.signals import build_queued

# A folder's name and a URL's segment on every system: no separator, no leading dot, nothing to escape.
NAME_PATTERN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?")


class CompanyQuerySet(models.QuerySet["Company"]):
    def active(self) -> "CompanyQuerySet":
        return self.filter(active=True)


class Company(models.Model):
    """One customer: its pictures in image_folder, its index in embeddings/<name>."""

    name = models.CharField(
        max_length=64,
        validators=[
            RegexValidator(
                re.compile(rf"\A{NAME_PATTERN.pattern}\Z"),
                "A company's name has 1 to 64 letters, digits, '-', '_' and '.', "
                "begins with a letter or a digit and does not end in a dot.",
            )
        ],
        help_text="Names its folder and its URLs, so it cannot be changed later.",
    )
    active = models.BooleanField(default=True, help_text="A company that is switched off is unknown to the API.")
    image_folder = models.CharField(
        max_length=1000,
        blank=True,
        help_text="Where its pictures lie; empty for the folder of its own name in the media directory.",
    )
    notes = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = CompanyQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        verbose_name_plural = "companies"
        constraints = [
            # Not told apart by case, because some file systems do not either.
            models.UniqueConstraint(
                Lower("name"), name="company_name_unique", violation_error_message="This name is taken."
            )
        ]
        permissions = [("reindex_company", "Can start and cancel index builds")]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        super().clean()
        roots = [settings.MEDIA_ROOT, *settings.IMAGE_ROOTS]
        folder = self.image_directory.resolve()
        if not any(folder.is_relative_to(root.resolve()) for root in roots):
            allowed = ", ".join(str(root) for root in roots)
            raise ValidationError(
                {"image_folder": f"{folder} lies outside the allowed folders ({allowed}): see IMAGESEARCH_IMAGE_ROOTS."}
            )

    @property
    def image_directory(self) -> Path:
        """Where its pictures lie; a relative image_folder is one below the media directory."""
        return Path(settings.MEDIA_ROOT) / (self.image_folder or self.name)

    @property
    def embeddings_directory(self) -> Path:
        return Path(settings.EMBEDDINGS_DIR) / self.name

    def queue_build(self) -> "IndexBuild":
        """Return the company's queued build, a new one or the one that is active already."""
        try:
            with transaction.atomic():
                build = IndexBuild.objects.create(company=self)
                build_queued.send(IndexBuild, build=build)
                return build
        except IntegrityError:  # the constraint: there is one
            return self.builds.active().first() or self.queue_build()  # none: it has just finished


class IndexBuildQuerySet(models.QuerySet["IndexBuild"]):
    def active(self) -> "IndexBuildQuerySet":
        return self.filter(status__in=IndexBuild.ACTIVE)


class IndexBuild(models.Model):
    """One attempt to make a company's index, from the wish to its outcome; written by search.builds alone."""

    class Status(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        SUCCEEDED = "succeeded"
        FAILED = "failed"

    ACTIVE = (Status.QUEUED, Status.RUNNING)

    company = models.ForeignKey(Company, on_delete=models.CASCADE, related_name="builds")
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.QUEUED)
    queued_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    images_found = models.PositiveIntegerField(default=0)
    images_embedded = models.PositiveIntegerField(default=0)
    images_skipped = models.PositiveIntegerField(default=0)
    total_images = models.PositiveIntegerField(null=True, help_text="Pictures in the index that the build made.")
    weights = models.CharField(max_length=200, blank=True, help_text="Weights of the model that made the vectors.")
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

    def start(self) -> bool:
        """Claim the build for the caller; False where somebody else has it already or it is over."""
        claimed = IndexBuild.objects.filter(pk=self.pk, status=self.Status.QUEUED).update(
            status=self.Status.RUNNING, started_at=timezone.now()
        )
        self.refresh_from_db()
        return claimed == 1

    def report(self, *, found: int, embedded: int, skipped: int) -> None:
        self.images_found, self.images_embedded, self.images_skipped = found, embedded, skipped
        self.save(update_fields=["images_found", "images_embedded", "images_skipped"])

    def succeed(self, *, total_images: int, weights: str) -> None:
        self._finish(self.Status.SUCCEEDED, total_images=total_images, weights=weights)

    def fail(self, error: str) -> None:
        self._finish(self.Status.FAILED, error=error)

    def _finish(self, status: Status, **values: Any) -> None:
        for name, value in {"status": status, "finished_at": timezone.now(), **values}.items():
            setattr(self, name, value)
        self.save(update_fields=["status", "finished_at", *values])


class SkippedImage(models.Model):
    """A file that a build could not index, and why."""

    build = models.ForeignKey(IndexBuild, on_delete=models.CASCADE, related_name="skipped_files")
    path = models.TextField()
    reason = models.TextField()

    class Meta:
        ordering = ["path"]

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"
