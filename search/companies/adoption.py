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
from django.db.models import Value
from django.db.models.functions import Greatest
from django.utils import timezone

from search import belongings, publication, stores
from search.companies import kept_changes
from search.engine import storage
from search.engine.build.republish import take_over
from search.engine.errors import EngineError, IndexCorrupt, IndexNotBuilt, IndexUnusable
from search.engine.model.passport import ModelPassport
from search.engine.storage import remote
from tenants import audit
from tenants.models import NAME_PATTERN, Company, IndexBuild
from tenants.signals import fold_wanted

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
    for name in _names_of_indexes():
        if name.startswith(".") or (names and name not in names):
            continue
        if name in names and name in known.values():
            adopted += _take_over(Company.objects.get(name=name), by)
        elif name.lower() not in known:
            adopted += _adopt(name, by)
    return adopted


def _names_of_indexes() -> list[str]:
    """Return the names of what lies where indexes do, in order. Raises StoreUnavailable."""
    if store := stores.root():
        return sorted(store.children()[0])
    return sorted(entry.name for entry in settings.INDEX_DIR.glob("*"))


def _adopt(name: str, by: audit.Actor | None) -> list[Company]:
    """Return the new company of an index; none where it is left alone."""
    company = Company(name=name)
    directory = company.embeddings_directory
    try:
        _begin_with_index(company)
        company.full_clean()
    except IndexNotBuilt:
        return []
    except EngineError as error:
        logger.warning("%s is not adopted: %s", directory, error)
        return []
    except ValidationError as error:
        logger.warning("%s is not adopted: %s", directory, "; ".join(error.messages))
        return []
    add_company(company, by=by)
    record_index(company)
    logger.info("Adopted %s as the index of a new company%s", directory, "" if company.active else ", inactive")
    return [company]


def add_company(company: Company, *, by: audit.Actor | None, detail: str = "") -> None:
    """Save a new company, with the live changes kept beside the index that it begins with."""
    with transaction.atomic():
        company.add(by=by, detail=detail)
        if kept_changes.give_back(company):
            transaction.on_commit(partial(fold_wanted.send_robust, Company, company=company))


def _begin_with_index(company: Company) -> None:
    """Let a company that is not saved yet begin with the index that lies there. What was closed stays closed.

    Raises IndexNotBuilt, IndexCorrupt and StoreUnavailable.
    """
    directory, store = company.embeddings_directory, stores.of(company)
    company.generation = remote.served_last(store) if store else storage.linked_generation(directory)
    info = publication.info(company) if store else storage.info(directory)
    company.live_sequence = company.live_floor = info.holds_changes_to
    kept = [change.sequence for change in kept_changes.kept_with(company)]
    company.live_sequence = max([company.live_sequence, *kept])
    _protect_as_before(company)


def _protect_as_before(company: Company) -> None:
    """Close what was closed beside the company's index; nothing that is closed now is opened."""
    try:
        card = belongings.read_company_card(company)
    except IndexCorrupt as error:
        logger.warning("The access settings of %s cannot be read, so it is inactive: %s", company, error)
        company.active = False
        return
    if card is None:
        if settings.STORE or storage.is_ours(company.embeddings_directory):
            logger.warning("%s is inactive until it is activated: its index has no access settings beside it", company)
            company.active = False
    else:
        quotas = [quota for quota in (company.daily_quota, card["daily_quota"]) if quota is not None]
        company.active = company.active and card["active"]
        company.requires_api_key = company.requires_api_key or card["requires_api_key"]
        company.daily_quota = min(quotas, default=None)


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
    company.clean_fields()
    add_company(company, by=by)
    return company, True, note


def has_earlier_index(name: str) -> bool:
    """Return whether an index lies where that of a new company of this name will."""
    return bool(NAME_PATTERN.fullmatch(name)) and belongings.holds_any_index(Company(name=name))


def settle_earlier_index(company: Company, choice: EarlierIndex | None) -> None:
    """Use, or remove, the index that lies where that of a company will which is not saved yet.

    What protected an index that is used protects the company. Raises EarlierIndexFound where there is one and nobody
    has chosen, IndexCorrupt where it cannot be used, PublishRefused and OSError where it cannot be removed.
    """
    if not has_earlier_index(company.name):
        return
    if choice is None:
        raise EarlierIndexFound(f"{company.embeddings_directory} holds an index from before {company} was added")
    if choice == EarlierIndex.REMOVE:
        belongings.erase(company)
        return
    try:
        _begin_with_index(company)
    except IndexUnusable as error:
        raise IndexCorrupt(f"The earlier index of {company} cannot be used: {error}") from error


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
    in_place = directory.exists() and directory.samefile(source)
    held = 0 if in_place else storage.info(source).holds_changes_to
    confirm = partial(import_noted, company, source, held=held, by=by)
    publish = partial(publication.publish, company, made_from=company.generation, confirm=confirm)
    copy = settings.WRITE_EMBEDDINGS_NPY
    images = take_over(source, directory, passport=passport, move=move, publish=publish, embeddings_npy=copy)
    record_index(company)
    return Imported(company, created, note, images)


def _require_free(company: Company, source: Path) -> None:
    directory = company.embeddings_directory
    taken = company.generation is not None if settings.STORE else storage.has_index(directory)
    if taken and not (directory.exists() and directory.samefile(source)):
        raise ImportRefused(f"Company {company} already has an index: import under another name, or rebuild it")
    if build := company.builds.active().first():
        raise ImportRefused(f"A build of {company} is {build.status}: import when it has finished")


@contextmanager
def import_noted(company: Company, source: Path, *, held: int = 0, by: audit.Actor | None) -> Iterator[None]:
    """Note who has an index from source serve the company, in the transaction of the block that does it.

    held: the last live change that the index, which is another company's, holds: the company's own are counted on from
    there. Raises ImportRefused where it has some already that would pass for those.
    """
    with transaction.atomic():
        counted = {name: Greatest(name, Value(held)) for name in ("live_sequence", "live_floor")}
        Company.objects.filter(pk=company.pk).update(**counted)  # first: nobody puts a picture until the end
        if company.live_changes.filter(sequence__lte=held).exists():
            raise ImportRefused(f"Pictures of {company} were added or deleted one at a time: build its index instead")
        yield
        audit.record(by, audit.Action.INDEX_IMPORTED, company, f"from {source}")


def record_index(company: Company) -> None:
    """Note the company's index, which no build of ours made, as a finished build, so that the admin shows it."""
    info = publication.info(company)
    IndexBuild.objects.create(
        company=company,
        status=IndexBuild.Status.SUCCEEDED,
        finished_at=timezone.now(),
        images_found=info.total_images,
        images_reused=info.total_images,
        total_images=info.total_images,
        weights=(info.weights or "")[:200],
    )
