"""Pictures and zips that somebody uploads for a company: stored in its folder, then built."""

from collections.abc import Sequence

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction

from search.engine.errors import PathRefused
from search.engine.pictures.intake import Intake, IntakeLimits, Upload, take_in
from search.engine.pictures.paths import require_location
from search.folders import folder_of
from tenants import audit
from tenants.models import Company, IndexBuild


def store_uploads(
    company: Company, uploads: Sequence[Upload], *, location: str, replace: bool, by: audit.Actor
) -> tuple[Intake, IndexBuild | None]:
    """Store what can be stored of the uploads in the company's folder; return that and the build that takes it up.

    location: the folder below the company's own. replace: also pictures that are there.
    Raises ValidationError where the company's folder, or the location, may not be written to, and OSError.
    """
    _require_location(location)
    company.clean()  # the folder may have become a link that leads out of the allowed roots
    intake = take_in(
        uploads,
        folder_of(company),
        limits=IntakeLimits(file_bytes=settings.MAX_UPLOAD_BYTES, max_pixels=settings.MAX_PIXELS),
        location=location,
        replace=replace,
    )
    if not intake.stored:
        return intake, None
    Company.objects.filter(pk=company.pk).forget_stored()
    with transaction.atomic():
        audit.record(by, audit.Action.PICTURES_UPLOADED, company, summary(intake))
        return intake, company.queue_build(by=by)


def _require_location(location: str) -> None:
    """Raise ValidationError where no picture may lie in the folder: said once, and not of every file."""
    try:
        require_location(location)
    except PathRefused as error:
        raise ValidationError(f"the subfolder {location[:100]!r} cannot be used. {error.reason}.") from error


def summary(intake: Intake) -> str:
    """Return what became of the uploads, in a sentence."""
    text = f"Uploaded {len(intake.stored)} picture{'' if len(intake.stored) == 1 else 's'}"
    text += f", {len(intake.replaced)} of them replaced" if intake.replaced else ""
    return f"{text}; {len(intake.refused)} refused." if intake.refused else f"{text}."
