"""Companies that come into being from what lies on disk."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction

from search import publication
from search.engine import storage
from search.engine.build.republish import take_over
from search.engine.errors import EngineError, IndexCorrupt, IndexNotBuilt
from search.engine.model.passport import ModelPassport
from tenants import audit
from tenants.models import Company, IndexBuild

logger = logging.getLogger(__name__)


class EarlierIndex(StrEnum):
    """What becomes of an index that lies where a new company's will."""

    USE = "use"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Imported:
    company: Company
    created: bool  # here, because there was none of this name
    note: str  # why its image folder is not the one that was wished for
    images: int  # in the index


class ImportRefused(Exception):
    """An index that does not become the company's as things are; the message tells the way out."""


class EarlierIndexFound(Exception):
    """An index of earlier lies where a new company's will, and nobody has said what becomes of it."""


def adopt_companies(names: Sequence[str] = (), *, by: audit.Actor | None = None) -> list[Company]:
    """Create the companies of the index directories that have none, and return them.

    names: only these; of one that exists, the directory that lies where its link should takes the place of its index.
    A directory whose name no company can have, or whose index is damaged, is left alone and logged.
    """
    known = {name.lower(): name for name in Company.objects.values_list("name", flat=True)}
    adopted = []
    for directory in sorted(settings.EMBEDDINGS_DIR.iterdir()):
        if directory.name.startswith(".") or (names and directory.name not in names):
            continue
        if directory.name in names and directory.name in known.values():
            adopted += _take_over(Company.objects.get(name=directory.name), by)
        elif directory.name.lower() not in known:
            adopted += _adopt(directory, by)
    return adopted


def _adopt(directory: Path, by: audit.Actor | None) -> list[Company]:
    """Return the directory's new company; none where it is left alone."""
    try:
        company = _adopted(directory)
        company.full_clean()
    except IndexNotBuilt:
        return []
    except EngineError as error:
        logger.warning("%s is not adopted: %s", directory, error)
        return []
    except ValidationError as error:
        logger.warning("%s is not adopted: %s", directory, "; ".join(error.messages))
        return []
    company.add(by=by)
    record_index(company)
    logger.info("Adopted %s as the index of a new company%s", directory, "" if company.active else ", inactive")
    return [company]


def _adopted(directory: Path) -> Company:
    """Return the company of an index without a row, not saved yet. What was closed stays closed.

    Raises IndexNotBuilt and IndexCorrupt.
    """
    info = storage.info(directory)
    company = Company(
        name=directory.name,
        generation=storage.linked_generation(directory),
        live_sequence=info.holds_changes_to,
        live_floor=info.holds_changes_to,
    )
    try:
        card = storage.read_company_card(directory)
    except IndexCorrupt as error:
        logger.warning("What protected %s is unknown: %s", directory.name, error)
        card = None
    if card is not None:
        for name in Company.PROTECTION:
            setattr(company, name, card.get(name, getattr(company, name)))
    elif storage.is_ours(directory):
        logger.warning("Nothing tells what protected %s: it is inactive until somebody activates it", directory.name)
        company.active = False
    return company


def _take_over(company: Company, by: audit.Actor | None) -> list[Company]:
    """Let the directory that lies where the company's link should be its index; none where that is so already."""
    directory = company.embeddings_directory
    if company.generation is None or not storage.is_plain(directory):
        return []
    try:
        storage.load(directory)
    except EngineError as error:
        logger.warning("%s does not become the index of %s: %s", directory, company, error)
        return []
    with import_noted(company, directory, by=by):
        publication.go_by_directory(company)
    record_index(company)
    logger.info("%s is the index of %s from now on, instead of the published one", directory, company)
    return [company]


def get_or_create_company(
    name: str, *, image_folder: Path | None, earlier_index: EarlierIndex | None = None, by: audit.Actor
) -> tuple[Company, bool, str]:
    """Return the company, whether it was created here, and a note where image_folder could not become its own.

    Raises ValidationError where no company can have the name, and EarlierIndexFound.
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
    settle_earlier_index(company, earlier_index)
    company.add(by=by)
    return company, True, note


def settle_earlier_index(company: Company, choice: EarlierIndex | None) -> None:
    """Take over, or remove, the index that lies where that of a company will which is not saved yet.

    Raises EarlierIndexFound where there is one and nobody has chosen, IndexCorrupt where it cannot be taken over.
    """
    directory = company.embeddings_directory
    if not storage.holds_any_index(directory):
        return
    if choice is None:
        raise EarlierIndexFound(f"{directory} holds an index from before {company} was added")
    if choice is EarlierIndex.REMOVE:
        storage.erase(directory)
        return
    try:
        earlier = _adopted(directory)
    except IndexNotBuilt:
        return
    for name in (*publication.STATE, *Company.PROTECTION):
        setattr(company, name, getattr(earlier, name))


def import_directory(
    source: Path,
    name: str,
    *,
    image_folder: Path | None,
    passport: ModelPassport | None,
    move: bool,
    by: audit.Actor,
) -> Imported:
    """Make the index in a directory that of a company, which is created where it does not exist yet.

    passport: what made the index; None: as it says itself. move: the directory is removed once it is taken over.
    Raises ImportRefused, EarlierIndexFound, ValidationError and EngineError.
    """
    directory = Company(name=name).embeddings_directory
    # An index that lies where the company's will is used where it is the one to import.
    earlier_index = EarlierIndex.USE if directory.exists() and directory.samefile(source) else None
    with transaction.atomic():  # a company that is refused here is not created either
        company, created, note = get_or_create_company(
            name, image_folder=image_folder, earlier_index=earlier_index, by=by
        )
        _require_free(company, source)
    confirm = partial(import_noted, company, source, by=by)
    publish = partial(publication.publish, company, made_from=company.generation, confirm=confirm)
    images = take_over(source, directory, passport=passport, move=move, publish=publish)
    record_index(company)
    return Imported(company, created, note, images)


def _require_free(company: Company, source: Path) -> None:
    directory = company.embeddings_directory
    if storage.has_index(directory) and not directory.samefile(source):
        raise ImportRefused(f"Company {company} has an index already: import under another name, or rebuild it")
    if build := company.builds.active().first():
        raise ImportRefused(f"A build of {company} is {build.status}: import when it is over")


@contextmanager
def import_noted(company: Company, source: Path, *, by: audit.Actor | None) -> Iterator[None]:
    """Note who has an index from source serve the company, in the transaction of the block that does it."""
    with transaction.atomic():
        yield
        audit.record(by, audit.Action.INDEX_IMPORTED, company, f"from {source}")


def record_index(company: Company) -> None:
    """Note the company's index, which no build of ours made, as a finished build, so that the admin shows it."""
    info = publication.info(company)
    build = IndexBuild.objects.create(company=company, status=IndexBuild.Status.RUNNING)
    build.succeed(
        images_found=info.total_images,
        images_reused=info.total_images,
        total_images=info.total_images,
        weights=info.weights or "",
    )
