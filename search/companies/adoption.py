"""Companies that come into being from what lies on disk."""

import logging
from pathlib import Path

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction

from search.engine import storage
from search.engine.errors import IndexCorrupt, IndexNotBuilt
from tenants import audit
from tenants.models import Company, IndexBuild

logger = logging.getLogger(__name__)


def adopt_companies() -> list[Company]:
    """Create the companies of the index directories that have none, and return them.

    A directory whose name no company can have, or whose index is damaged, is left alone and logged.
    """
    known = {name.lower() for name in Company.objects.values_list("name", flat=True)}
    adopted = []
    for directory in sorted(settings.EMBEDDINGS_DIR.iterdir()):
        if directory.name.startswith(".") or directory.name.lower() in known:
            continue
        company = Company(name=directory.name)
        try:
            storage.info(directory)
            company.full_clean()
        except IndexNotBuilt:
            continue
        except IndexCorrupt as error:
            logger.warning("%s is not adopted: %s", directory, error)
            continue
        except ValidationError as error:
            logger.warning("%s is not adopted: %s", directory, "; ".join(error.messages))
            continue
        _create(company)
        record_index(company)
        logger.info("Adopted %s as the index of a new company", directory)
        adopted.append(company)
    return adopted


def get_or_create_company(name: str, *, image_folder: Path | None) -> tuple[Company, bool, str]:
    """Return the company, whether it was created here, and a note where image_folder could not become its own.

    Raises ValidationError where no company can have the name.
    """
    found = Company.objects.filter(name=name).first()
    if found:
        return found, False, ""
    company = Company(name=name, image_folder=str(image_folder.resolve()) if image_folder else "")
    note = ""
    try:
        company.clean()
    except ValidationError as error:
        note = f"The company keeps its default image folder. {error.messages[0]}"
        company.image_folder = ""
    company.full_clean()
    _create(company)
    return company, True, note


def _create(company: Company) -> None:
    with transaction.atomic():
        company.save()
        audit.record(audit.on_command_line(), audit.Action.COMPANY_MADE, company)


def record_index(company: Company) -> None:
    """Note the company's index, which no build of ours made, as a finished build, so that the admin shows it."""
    info = storage.info(company.embeddings_directory)
    build = IndexBuild.objects.create(company=company, status=IndexBuild.Status.RUNNING)
    build.succeed(
        images_found=info.total_images,
        images_reused=info.total_images,
        total_images=info.total_images,
        weights=info.weights or "",
    )
