"""Export and import of a company as one archive: to another installation, or as a backup."""

import json
import re
import secrets
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import IO, Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db import IntegrityError, transaction
from filelock import FileLock, Timeout

from search import belongings, publication
from search.builds import run_build
from search.companies.adoption import import_noted, record_index
from search.engine import durable, storage
from search.engine.errors import ArchiveRefused, NotEnoughSpace
from search.engine.pictures.folder import ImageFile, SkippedFile
from search.engine.pictures.folders import DiskFolder, PictureFolder
from search.engine.pictures.shelf import Shelf, remove_tree
from search.engine.storage.archive import IMAGES, Archive, ArchiveWriter, Member, new_archive, open_archive
from search.engine.storage.checkup import examine
from search.engine.storage.layout import import_lock
from search.folders import folder_of
from tenants import audit
from tenants.models import Company

_NOT_CARRIED = {"name", "image_folder"}  # of the fields that an operator edits: other places have other folders
_UPLOADS_AT_ONCE = 8


class TransferRefused(Exception):
    """A company that cannot be exported or imported as things are; the message tells the way out."""


@dataclass(frozen=True, slots=True)
class Transferred:
    company: Company
    images: int  # in the index
    pictures: int  # files of pictures
    left_out: int = 0  # pictures that could not be read


# Export -------------------------------------------------------------------------------------------------------------


def export_company(company: Company, target: Path, *, with_images: bool, replace: bool, by: audit.Actor) -> Transferred:
    """Write the company's settings, its index and, if wanted, its pictures to the archive target.

    Pictures put or deleted one at a time become part of the index first. API keys are not exported.
    Raises TransferRefused, IndexNotBuilt, IndexCorrupt, ArchiveRefused, StoreUnavailable, OSError, and what folding
    raises.
    """
    _fold(company)
    company.refresh_from_db(fields=publication.STATE)
    directory = publication.index_files(company)
    storage.require_undamaged(directory)
    pictures = left_out = 0
    with (
        storage.open_files(directory) as files,
        new_archive(target, {"company": company.name, "settings": _settings(company)}, replace=replace) as archive,
    ):
        if with_images:
            pictures, left_out = _add_pictures(folder_of(company), archive)
        for name, file in files:
            archive.add(f"index/{name}", file)
    audit.record(by, audit.Action.COMPANY_EXPORTED, company, f"to {target}")
    return Transferred(company, storage.info(directory).total_images, pictures, left_out)


def _fold(company: Company) -> None:
    """Make the company's live changes part of its index."""
    if not publication.missing_changes(company).exists():
        return
    with transaction.atomic():  # no worker sees the row before it is claimed here
        build = company.queue_build(fold=True)
        if not build.start():
            raise TransferRefused(f"A build of {company} is running: export when it has finished")
    run_build(build, requeue=False)


def _settings(company: Company) -> dict[str, Any]:
    """Return what an operator has set for the company, as JSON can hold it."""
    fields = [field for field in company._meta.concrete_fields if field.editable and field.name not in _NOT_CARRIED]
    values = {field.name: field.value_from_object(company) for field in fields if not field.primary_key}
    return dict(json.loads(json.dumps(values, cls=DjangoJSONEncoder)))


def _add_pictures(folder: PictureFolder, archive: ArchiveWriter) -> tuple[int, int]:
    """Add the pictures below folder; return how many, and how many could not be read."""
    added = left_out = 0
    for found in folder.find():
        try:
            if not isinstance(found, ImageFile):
                raise FileNotFoundError
            file = folder.open(found.path)
        except OSError:  # a link that leads out, or deleted meanwhile
            left_out += 1
            continue
        with file:
            archive.add(f"{IMAGES}/{found.path}", file, look=folder.look(file))
        added += 1
    return added, left_out


# Import -------------------------------------------------------------------------------------------------------------


def import_archive(path: Path, *, name: str = "", image_folder: Path | None = None, by: audit.Actor) -> Transferred:
    """Make the company in an archive one of this installation, under another name if one is given.

    All of the archive is verified before anything can be seen. The ids of the pictures stay.
    image_folder: where its pictures lie, for an archive without pictures.
    Raises ArchiveRefused, TransferRefused, ValidationError, NotEnoughSpace, PublishRefused, StoreUnavailable and
    OSError.
    """
    with open_archive(path) as archive, _only_import(_name(archive, name)) as name:
        company = _company(archive, name, image_folder)
        directory = company.embeddings_directory
        _require_space(path, directory)
        with storage.Draft(directory) as draft, _picture_draft(company) as pictures, Shelf(pictures) as shelf:
            archive.unpack(lambda member: _create(member, draft.path, shelf))
            if not storage.has_index(draft.path):
                raise ArchiveRefused(f"{path} is refused: it contains no index")
            if archive.about["company"] != company.name:
                storage.keep_ids(draft.path, company.name)
            checkup = examine(draft.path)
            if checkup.problems:
                raise ArchiveRefused(f"The index in {path} is damaged: {'; '.join(checkup.problems)}")
            _require_same_pictures(archive, company)
            if company.pk is None:
                _add(company, by)
            count = sum(1 for _ in archive.pictures())
            if count:
                _move_pictures(archive, pictures, company)
            confirm = partial(_unless_in_use, company, path, held=storage.info(draft.path).holds_changes_to, by=by)
            publication.publish(company, draft, made_from=company.generation, confirm=confirm)
    record_index(company)
    return Transferred(company, checkup.images, count)


def _name(archive: Archive, name: str) -> str:
    """Return the name that the company gets, which is one for a directory. Raises ValidationError."""
    if not isinstance(archive.about.get("company"), str):
        raise ArchiveRefused("The archive is refused: it names no company")
    return str(Company._meta.get_field("name").clean(name or archive.about["company"], None))


@contextmanager
def _only_import(name: str) -> Iterator[str]:
    """Yield name while no other process imports a company of that name, or raise TransferRefused."""
    place = import_lock(Company(name=name).embeddings_directory)
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise TransferRefused(f"An import of {name} is already running: wait until it has finished") from None
    try:
        yield name
    finally:
        lock.release()


def _company(archive: Archive, name: str, image_folder: Path | None) -> Company:
    """Return the company that the archive becomes: not saved yet, or one that has nothing yet."""
    settings_there = archive.about.get("settings")
    if not isinstance(settings_there, dict):
        raise ArchiveRefused("The archive is refused: it contains no company settings")
    known = Company.objects.filter(name=name).first()
    if known is None:
        company = Company(name=name, image_folder=str(image_folder.resolve()) if image_folder else "")
        for field, value in settings_there.items():
            if field not in {each.name for each in company._meta.concrete_fields if each.editable} - _NOT_CARRIED:
                raise ArchiveRefused(f"The archive is refused: unknown company setting {field!r}")
            setattr(company, field, value)
        company.full_clean()
    else:
        company = known  # that of an import that was killed, say
    _require_free(company)
    return company


def _add(company: Company, by: audit.Actor) -> None:
    try:
        company.add(by=by)
    except IntegrityError:
        raise TransferRefused(f"A company {company} was added meanwhile: import under another name") from None


@contextmanager
def _unless_in_use(company: Company, source: Path, *, held: int, by: audit.Actor) -> Iterator[None]:
    """Confirm the publication of what was imported, unless the company has come into use while it was verified."""
    with transaction.atomic():
        Company.objects.select_for_update().filter(pk=company.pk).first()  # nobody puts a picture until the end
        _require_unused(company)
        with import_noted(company, source, held=held, by=by):
            yield


def _require_free(company: Company) -> None:
    if company.pk is None:
        taken = belongings.holds_any_index(company)
    else:  # what an import left that was killed before its end is nobody's
        taken = company.generation is not None or publication.is_listed(company)
    if taken:
        raise TransferRefused(
            f"{company} already has an index: import under another name, import_company OTHER ARCHIVE"
        )
    if company.pk:
        _require_unused(company)


def _require_unused(company: Company) -> None:
    if company.live_changes.exists() or company.builds.active().exists():
        raise TransferRefused(f"Company {company} is in use: import under another name, import_company OTHER ARCHIVE")


def _require_space(path: Path, directory: Path) -> None:
    needed, free = path.stat().st_size, shutil.disk_usage(directory.parent).free
    if free < needed:
        raise NotEnoughSpace(f"{path} needs {needed >> 20} MB, {directory.parent} has {free >> 20} MB left")


def _create(member: str, index: Path, pictures: Shelf) -> IO[bytes]:
    """Return the new file of a member. Raises PathRefused."""
    place, _, name = member.partition("/")
    return pictures.create(name) if place == IMAGES else (index / name).open("xb")


@contextmanager
def _picture_draft(company: Company) -> Iterator[Path]:
    """Yield a new directory beside the company's folder, hidden, which is removed unless it was renamed; beside its
    indexes where its pictures lie on no disk.

    What imports of the company that were killed have left there is removed first.
    """
    parent = (company.embeddings_directory if company.has_stored_pictures else company.image_directory).parent
    parent.mkdir(parents=True, exist_ok=True)
    leftover = re.compile(rf"\.importing-{re.escape(company.name)}(-[0-9a-f]{{16}})?")
    for entry in parent.iterdir():
        if leftover.fullmatch(entry.name):
            remove_tree(entry)
    draft = parent / f".importing-{company.name}-{secrets.token_hex(8)}"
    draft.mkdir()
    try:
        yield draft
    finally:
        with suppress(FileNotFoundError):
            remove_tree(draft)


def _require_same_pictures(archive: Archive, company: Company) -> None:
    """Refuse pictures for a folder that holds others; the same may be there, from an import that was killed."""
    listed = archive.pictures()
    first = next(listed, None)
    if first is None:
        return
    folder = folder_of(company)
    pairs = (
        _pairs(chain([first], listed), folder)
        if company.has_stored_pictures
        else _all_pairs(chain([first], listed), company)
    )
    for member, found in pairs:
        if member is None or not isinstance(found, ImageFile) or not _same(member, found, folder):
            raise TransferRefused(f"{folder} contains other pictures: move them away, or import under another name")


def _all_pairs(
    listed: Iterator[Member], company: Company
) -> Iterator[tuple[Member | None, ImageFile | SkippedFile | None]]:
    """Yield what is listed beside what lies in the company's folder on a disk, where pictures are moved to at once."""
    directory = company.image_directory
    if directory.exists() and any(directory.iterdir()):
        yield from zip_longest(listed, folder_of(company).find())


def _pairs(listed: Iterator[Member], folder: PictureFolder) -> Iterator[tuple[Member | None, ImageFile | SkippedFile]]:
    """Yield what lies in a store beside what is listed of the same path: an import may have been killed half-way."""
    for found in folder.find():
        yield next((member for member in listed if member.name >= found.path), None), found


def _same(member: Member, found: ImageFile, folder: PictureFolder) -> bool:
    if (member.name, member.bytes) != (found.path, found.size):
        return False
    with folder.open(found.path) as file:
        return durable.sha256(file).hex() == member.sha256


def _move_pictures(archive: Archive, pictures: Path, company: Company) -> None:
    """Move pictures to the company's folder; those that are there are the same, see _require_same_pictures."""
    if company.has_stored_pictures:
        with ThreadPoolExecutor(_UPLOADS_AT_ONCE, thread_name_prefix="import") as threads:
            upload = partial(_upload, DiskFolder(pictures), folder_of(company))
            deque(threads.map(upload, archive.pictures()), maxlen=0)
        return
    folder = company.image_directory
    if folder.exists() and any(folder.iterdir()):
        return
    pictures.replace(folder)
    durable.sync(folder.parent)


def _upload(pictures: PictureFolder, folder: PictureFolder, member: Member) -> None:
    with folder.shelf() as shelf:
        if not folder.missing([member.name]):
            return
        with pictures.open(member.name) as file, shelf.stage() as staged:
            shutil.copyfileobj(file, staged.file)
            staged.place(member.name, replace=False)
