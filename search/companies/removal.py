"""What becomes of a company's files when it is deleted: they are kept unless somebody says otherwise."""

import secrets
import shutil
from pathlib import Path

from django.conf import settings

from search.engine import storage
from tenants import audit
from tenants.models import NAME_PATTERN, Company


class RemovalRefused(Exception):
    """Files that are not the company's alone; the message says why."""


def index_directory(company: Company) -> Path:
    """Return the directory of the company's index, to be removed. Raises RemovalRefused."""
    if not NAME_PATTERN.fullmatch(company.name):
        raise RemovalRefused(f"{company.name!r} is no name of a directory in {settings.EMBEDDINGS_DIR}.")
    return company.embeddings_directory


def pictures_directory(company: Company) -> Path:
    """Return the company's own folder below the media directory, to be removed. Raises RemovalRefused.

    It is the company's own where no link leads to it and no other company's pictures lie in, below or above it.
    """
    media = Path(settings.MEDIA_ROOT).resolve()
    folder = company.image_directory
    lexical = media / folder.relative_to(settings.MEDIA_ROOT) if folder.is_relative_to(settings.MEDIA_ROOT) else folder
    if folder.resolve() != lexical:
        raise RemovalRefused(f"{folder} is reached through a link.")
    if lexical == media or not lexical.is_relative_to(media):
        raise RemovalRefused(f"{folder} is not a folder of its own below {settings.MEDIA_ROOT}.")
    for root in settings.IMAGE_ROOTS:
        if root.resolve().is_relative_to(lexical):
            raise RemovalRefused(f"{folder} holds {root}, which IMAGESEARCH_IMAGE_ROOTS shares out.")
    if _overlap(lexical, Path(settings.EMBEDDINGS_DIR).resolve()):
        raise RemovalRefused(f"{folder} and {settings.EMBEDDINGS_DIR} overlap.")
    for other in Company.objects.exclude(pk=company.pk):
        if _overlap(lexical, other.image_directory.resolve()):
            raise RemovalRefused(f"{folder} holds pictures of {other}, or lies among them.")
    return lexical


def remove_index(company: Company, *, by: audit.Actor) -> None:
    """Remove the company's index, its generations and unfinished builds. Raises RemovalRefused and OSError."""
    storage.erase(index_directory(company))
    audit.record(by, audit.Action.COMPANY_DELETED, company, "index removed from disk")


def remove_pictures(company: Company, *, by: audit.Actor) -> None:
    """Remove the company's own folder with all that lies in it. Raises RemovalRefused and OSError."""
    folder = pictures_directory(company)
    if folder.exists():
        # Gone at once for everybody, also where removing millions of files takes its time or is interrupted.
        removed = folder.with_name(f".removed-{secrets.token_hex(8)}")
        folder.rename(removed)
        shutil.rmtree(removed)
    audit.record(by, audit.Action.COMPANY_DELETED, company, "pictures removed from disk")


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)
