"""Deleting a company, and what becomes of its files: they are kept unless somebody says otherwise."""

import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from django.conf import settings
from django.db import transaction

from search import belongings, collections, overlay, publication, thumbnails, units
from search.companies import kept_changes
from search.engine import storage
from search.engine.errors import EngineError, StoreError, StoreUnavailable
from search.engine.index.index import ImageIndex
from search.engine.pictures.folders import PictureFolder
from search.engine.pictures.shelf import remove_tree
from search.folders import folder_of
from tenants import audit
from tenants.models import NAME_PATTERN, Company

logger = logging.getLogger(__name__)

_LOOKED_FOR = 500  # of the index's pictures, in the folder
_REMOVED = ".removed-"  # what is being removed begins with


class RemovalRefused(Exception):
    """Files that are not the company's alone; the message says why."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a deleted company's files."""

    what: str  # "index" or "pictures"
    removed: bool
    problem: str = ""  # why it is not as it was asked for


Tell = Callable[[Fate], None]


def delete_company(
    company: Company,
    *,
    by: audit.Actor,
    remove_index: bool = False,
    remove_pictures: bool = False,
    tell: Tell = lambda fate: None,
) -> None:
    """Delete the company with its history, keys and live changes; an active build is cancelled.

    Deleting is closing: an index that stays on the disk comes back inactive. Files go after the commit; tell is called
    then, for the index where there is one and for the pictures. Raises Company.DoesNotExist.
    """
    with transaction.atomic():
        for build in company.builds.active():  # before the company's row, as builds that publish lock the two
            build.cancel()
        company.candidate = (
            Company.objects.select_for_update().get(pk=company.pk).candidate
        )  # no picture is put meanwhile
        audit.record(by, audit.Action.COMPANY_DELETED, company)
        kept_changes.keep(company)
        Company.objects.filter(pk=company.pk).delete()  # which leaves the instance its key
        publication.keep_protection(company)  # before the commit: whoever is killed after it leaves nothing open
        transaction.on_commit(partial(_drop_units, company))
        transaction.on_commit(partial(_look_after_index, company, by, remove=remove_index, tell=tell))
        transaction.on_commit(partial(thumbnails.forget_company, company))
        transaction.on_commit(partial(_look_after_pictures, company, by, remove=remove_pictures, tell=tell))


def _look_after_index(company: Company, by: audit.Actor, *, remove: bool, tell: Tell) -> None:
    collections.drop_all(company)
    try:
        directory = index_directory(company)
        if Company.objects.filter(name=company.name).exists():  # what lies there by now is the new one's
            raise RemovalRefused(f"A company {company} has been added again.")
        if remove:
            belongings.erase(company)
            audit.record(by, audit.Action.COMPANY_DELETED, company, "index removed from disk")
        elif belongings.holds_any_index(company):
            _close(company)
            storage.drop_workspaces(directory)
            if company.candidate:  # without the row nobody would know that it must not serve
                publication.discard(company, company.candidate)
        else:
            belongings.erase_leftovers(company)
            return
        tell(Fate("index", removed=remove))
    except (RemovalRefused, EngineError, OSError) as error:
        tell(Fate("index", removed=False, problem=str(error)))


def _drop_units(company: Company) -> None:
    try:
        units.drop_places(company)
    except EngineError as error:
        logger.warning("What workers have embedded for builds of %s stays in the store: %s", company, error)


def _close(company: Company) -> None:
    try:
        publication.write_protection(company)
    except (OSError, StoreUnavailable) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RemovalRefused(
            f"It could not be marked as inactive ({reason}): move it away, or the next start may activate it."
        ) from error


def _look_after_pictures(company: Company, by: audit.Actor, *, remove: bool, tell: Tell) -> None:
    try:
        if remove:
            _remove_pictures(company)
            audit.record(by, audit.Action.COMPANY_DELETED, company, "pictures removed from disk")
        tell(Fate("pictures", removed=remove))
    except (RemovalRefused, OSError) as error:
        tell(Fate("pictures", removed=False, problem=str(error)))


def _remove_pictures(company: Company) -> None:
    folder = pictures_directory(company)
    if not folder.exists():
        return
    # Gone at once for everybody, also where removing millions of files takes its time or is interrupted.
    removed = folder.with_name(f"{_REMOVED}{secrets.token_hex(8)}")
    folder.rename(removed)
    _remove(removed)


def finish_removals() -> None:
    """Remove what a killed process, or one on another machine, left of deleted companies, or log why not."""
    thumbnails.forget_unknown()
    try:
        storage.empty_graves(Path(settings.INDEX_DIR))
        for left in Path(settings.MEDIA_ROOT).glob(f"{_REMOVED}*"):
            _remove(left)
    except OSError:
        logger.exception("What is left of deleted companies could not be removed")


def _remove(pictures: Path) -> None:
    with suppress(FileNotFoundError):  # somebody else does it
        remove_tree(pictures)


# What can be removed, and what is lost then -------------------------------------------------------------------------


def index_directory(company: Company) -> Path:
    """Return the directory of the company's index, to be removed. Raises RemovalRefused."""
    if not NAME_PATTERN.fullmatch(company.name):
        raise RemovalRefused(f"{company.name!r} is not a valid directory name in {settings.INDEX_DIR}.")
    return company.embeddings_directory


def pictures_directory(company: Company) -> Path:
    """Return the company's own folder below the media directory, to be removed. Raises RemovalRefused.

    It is the company's own where no link leads to it and no other company's pictures lie in, below or above it.
    """
    if company.has_stored_pictures:
        raise RemovalRefused(f"{company.image_place} is not a folder of its own below {settings.MEDIA_ROOT}.")
    media = Path(settings.MEDIA_ROOT).resolve()
    folder = company.image_directory
    lexical = media / folder.relative_to(settings.MEDIA_ROOT) if folder.is_relative_to(settings.MEDIA_ROOT) else folder
    if folder.resolve() != lexical:
        raise RemovalRefused(f"{folder} is reached through a link.")
    if lexical == media or not lexical.is_relative_to(media):
        raise RemovalRefused(f"{folder} is not a folder of its own below {settings.MEDIA_ROOT}.")
    for root in settings.IMAGE_ROOTS:
        if root.resolve().is_relative_to(lexical):
            raise RemovalRefused(f"{folder} contains {root}, one of IMAGESEARCH_IMAGE_ROOTS.")
    if _overlap(lexical, Path(settings.INDEX_DIR).resolve()):
        raise RemovalRefused(f"{folder} and {settings.INDEX_DIR} overlap.")
    for other in Company.objects.exclude(pk=company.pk):
        if not other.has_stored_pictures and _overlap(lexical, other.image_directory.resolve()):
            raise RemovalRefused(f"{folder} overlaps with the image folder of another company.")
    return lexical


def has_index(company: Company) -> bool:
    """Return whether anything is left of an index of the company, whole or damaged.

    Raises RemovalRefused where nobody can tell.
    """
    try:
        return belongings.holds_any_index(company)
    except StoreError as error:
        raise RemovalRefused(str(error)) from error


def lost_with_index(company: Company) -> list[str]:
    """Return in words what no build can make again once the company's index is removed; nothing where one makes it all.

    Builds make ids from paths, and vectors from the pictures in the company's folder.
    """
    try:
        index = overlay.live_index_or_empty(company)
        directory = publication.index_directory(company)
        given = storage.given_ids(company.embeddings_directory, company.name, directory)
        tried, missing = _looked_for(index, folder_of(company))
    except (EngineError, OSError) as error:
        return [f"unknown: {error}"]
    lost = []
    if given:
        lost.append(f"{len(given)} ids from another program: clients that stored them can no longer use them")
    if missing:
        lost.append(f"vectors of pictures that are not in {company.image_place} ({missing} of {tried} checked)")
    return lost


def _looked_for(index: ImageIndex, folder: PictureFolder) -> tuple[int, int]:
    """Return how many of the index's pictures were looked for in folder, and how many of them are not there."""
    hidden = set(index.hidden.tolist())
    rows = np.unique(np.linspace(0, len(index.records) - 1, num=min(_LOOKED_FOR, len(index.records)), dtype=int))
    looked_for = index.records.of_rows([row for row in rows.tolist() if row not in hidden])
    paths = [record.path for record in looked_for]
    return len(paths), folder.missing(paths)


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)
