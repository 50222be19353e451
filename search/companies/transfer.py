"""Companies that move to another installation, or come back from a backup, as one archive."""

import filecmp
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db import transaction

from search import publication
from search.builds import run_build
from search.companies.adoption import import_noted, record_index
from search.engine import durable, storage
from search.engine.errors import ArchiveRefused, NotEnoughSpace
from search.engine.pictures.folder import ImageFile, find_images
from search.engine.storage.archive import IMAGES, Archive, ArchiveWriter, new_archive, open_archive
from search.engine.storage.checkup import examine
from tenants import audit
from tenants.models import Company

_NOT_CARRIED = {"name", "image_folder"}  # of the fields that an operator edits: other places have other folders


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
    Raises TransferRefused, IndexNotBuilt, IndexCorrupt, ArchiveRefused, OSError, and what folding raises.
    """
    _fold(company)
    directory = publication.index_directory(company)
    storage.require_undamaged(directory)
    pictures = left_out = 0
    with (
        storage.open_files(directory) as files,
        new_archive(target, {"company": company.name, "settings": _settings(company)}, replace=replace) as archive,
    ):
        if with_images:
            pictures, left_out = _add_pictures(company.image_directory, archive)
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
            raise TransferRefused(f"A build of {company} is running: export it when it is over")
    run_build(build, requeue=False)


def _settings(company: Company) -> dict[str, Any]:
    """Return what an operator has set for the company, as JSON can hold it."""
    fields = [field for field in company._meta.concrete_fields if field.editable and field.name not in _NOT_CARRIED]
    values = {field.name: field.value_from_object(company) for field in fields if not field.primary_key}
    return dict(json.loads(json.dumps(values, cls=DjangoJSONEncoder)))


def _add_pictures(folder: Path, archive: ArchiveWriter) -> tuple[int, int]:
    """Add the pictures below folder; return how many, and how many could not be read."""
    added = left_out = 0
    for found in find_images(folder):
        try:
            if not isinstance(found, ImageFile):
                raise FileNotFoundError
            file = (folder / found.path).open("rb")
        except OSError:  # a link that leads out, or deleted meanwhile
            left_out += 1
            continue
        with file:
            archive.add(f"{IMAGES}/{found.path}", file)
        added += 1
    return added, left_out


# Import -------------------------------------------------------------------------------------------------------------


def import_archive(path: Path, *, name: str = "", image_folder: Path | None = None, by: audit.Actor) -> Transferred:
    """Make the company in an archive one of this installation, under another name if one is given.

    All of the archive is verified before anything can be seen. The ids of the pictures stay.
    image_folder: where its pictures lie, for an archive without pictures.
    Raises ArchiveRefused, TransferRefused, ValidationError, NotEnoughSpace, PublishRefused and OSError.
    """
    with open_archive(path) as archive:
        company = _company(archive, name, image_folder)
        directory = company.embeddings_directory
        _require_space(path, directory)
        with storage.Draft(directory) as draft, _picture_draft(company) as pictures:
            archive.unpack(lambda member: _place(member, draft.path, pictures))
            if not storage.has_index(draft.path):
                raise ArchiveRefused(f"{path} is refused: it holds no index")
            if archive.about["company"] != company.name:
                storage.keep_ids(draft.path, company.name)
            checkup = examine(draft.path)
            if checkup.problems:
                raise ArchiveRefused(f"The index in {path} is damaged: {'; '.join(checkup.problems)}")
            _require_same_pictures(pictures, company)
            _save(company, storage.info(draft.path).live_sequence or 0, by)
            count = sum(file.is_file() for file in pictures.rglob("*"))
            if count:
                _move_pictures(pictures, company.image_directory)
            confirm = partial(import_noted, company, path, by=by)
            publication.publish(company, draft, made_from=company.generation, confirm=confirm)
    record_index(company)
    return Transferred(company, checkup.images, count)


def _company(archive: Archive, name: str, image_folder: Path | None) -> Company:
    """Return the company that the archive becomes: not saved yet, or one that has nothing yet."""
    settings_there = archive.about.get("settings")
    if not isinstance(archive.about.get("company"), str) or not isinstance(settings_there, dict):
        raise ArchiveRefused("The archive is refused: it names no company")
    name = name or archive.about["company"]
    known = Company.objects.filter(name=name).first()
    if known is None:
        company = Company(name=name, image_folder=str(image_folder.resolve()) if image_folder else "")
        for field, value in settings_there.items():
            if field not in {each.name for each in company._meta.concrete_fields if each.editable} - _NOT_CARRIED:
                raise ArchiveRefused(f"The archive is refused: its company has the setting {field!r}, unknown here")
            setattr(company, field, value)
        company.full_clean()
    else:
        company = known  # that of an import that was killed, say
    _require_free(company)
    return company


def _require_free(company: Company) -> None:
    if storage.has_index(company.embeddings_directory):
        raise TransferRefused(
            f"There is an index of {company} already: import under another name, import_company OTHER ARCHIVE"
        )
    if company.pk and (company.live_changes.exists() or company.builds.active().exists()):
        raise TransferRefused(f"Company {company} is in use: import under another name, import_company OTHER ARCHIVE")


def _require_space(path: Path, directory: Path) -> None:
    needed, free = path.stat().st_size, shutil.disk_usage(directory.parent).free
    if free < needed:
        raise NotEnoughSpace(f"{path} needs {needed >> 20} MB, {directory.parent} has {free >> 20} MB left: free some")


def _place(member: str, index: Path, pictures: Path) -> Path:
    kind, _, name = member.partition("/")
    return pictures / name if kind == IMAGES else index / name


@contextmanager
def _picture_draft(company: Company) -> Iterator[Path]:
    """Yield a new directory beside the company's folder, hidden, which is removed unless it was renamed."""
    folder = company.image_directory
    draft = folder.with_name(f".importing-{folder.name}")
    shutil.rmtree(draft, ignore_errors=True)  # what a killed process left
    draft.mkdir(parents=True)
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _require_same_pictures(pictures: Path, company: Company) -> None:
    """Refuse pictures for a folder that holds others; the same may be there, from an import that was killed."""
    folder = company.image_directory
    if not any(pictures.iterdir()) or not folder.exists() or not any(folder.iterdir()):
        return
    names = [sorted(file.relative_to(root) for file in root.rglob("*")) for root in (pictures, folder)]
    if names[0] != names[1] or not all(
        filecmp.cmp(pictures / name, folder / name, shallow=False) for name in names[0] if (pictures / name).is_file()
    ):
        raise TransferRefused(f"{folder} holds other pictures: move them away, or import under another name")


def _save(company: Company, live_sequence: int, by: audit.Actor) -> None:
    """Save the company, its changes counted on from those that the index holds."""
    company.live_sequence = max(company.live_sequence, live_sequence)
    company.live_floor = max(company.live_floor, live_sequence)
    if company.pk:
        company.save(update_fields=["live_sequence", "live_floor"])
    else:
        company.add(by=by)


def _move_pictures(pictures: Path, folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        return  # the same, see _require_same_pictures
    pictures.replace(folder)
    durable.sync(folder.parent)
