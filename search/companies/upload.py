"""Indexes that lay in a folder, taken into the store. Rows, names of generations and the folder stay as they are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from search import belongings, publication, shared_weights, stores
from search.engine import storage
from search.engine.errors import IndexUnusable
from search.engine.model import kept
from search.engine.objects import ObjectStore
from search.engine.storage import remote
from search.engine.storage.layout import complete_generations, linked_generation
from tenants.models import Company


class NoStore(Exception):
    """There is none to upload into; the message says so."""


@dataclass(frozen=True, slots=True)
class Uploaded:
    company: Company
    generations: int  # that were not in the store
    problems: list[str]  # what could not be uploaded, and why


def upload_indexes(names: Sequence[str] = (), *, tell: Callable[[Uploaded], None] = lambda uploaded: None) -> None:
    """Take the companies' indexes from IMAGESEARCH_EMBEDDINGS_DIR into the store; what is there already is left out.

    names: only these. A plain directory of the Flask service becomes a generation. Called again it goes on where it
    was cut short. Raises NoStore and StoreUnavailable.
    """
    root = stores.root()
    if root is None:
        raise NoStore("IMAGESEARCH_STORE is not set: there is no store to upload into")
    for company in Company.objects.filter(name__in=names) if names else Company.objects.all():
        tell(_upload(company, root.below(company.name)))
    place = Path(settings.EMBEDDINGS_DIR) / ".weights"
    for fingerprint in kept.kept_passports(place):
        shared_weights.share(fingerprint, place)


def _upload(company: Company, store: ObjectStore) -> Uploaded:
    directory = Path(settings.EMBEDDINGS_DIR) / company.name
    serving = company.generation or linked_generation(directory)
    there, problems, count = set(remote.names(store)), list[str](), 0
    for files in complete_generations(directory):
        try:
            count += _upload_one(store, files, files.name, there, served=files.name not in (serving, company.candidate))
        except (IndexUnusable, OSError) as error:
            problems.append(f"{files.name}: {error}")
    if serving is None and storage.has_index(directory):
        name = storage.next_name(directory, there)
        try:
            storage.load(directory)  # where it has no checksums, nothing else tells that it is whole
            count += _upload_one(store, directory, name, there, served=False)
            serving = name
        except (IndexUnusable, OSError) as error:
            problems.append(f"{directory}: {error}")
    if serving is not None and remote.exists(store, serving):
        publication.begin_in_store(company, serving)
    elif serving is not None:
        problems.append(f"{serving}, which the company uses, is not in the store")
    _upload_belongings(company, directory)
    return Uploaded(company, count, problems)


def _upload_one(store: ObjectStore, files: Path, name: str, there: set[str], *, served: bool) -> bool:
    """Return whether it was not there yet. served: it served before the one that does now."""
    if name not in there:
        remote.upload(store, files, name)
    if served:
        remote.note_published(store, name)
    return name not in there


def _upload_belongings(company: Company, directory: Path) -> None:
    publication.write_protection(company)
    pairs = storage.read_duplicates(directory)
    if pairs and not belongings.duplicates_stamp(company):
        belongings.write_duplicates(company, pairs)
