"""What the admin's pages tell about a company: its last build, its index and what lies on disk."""

import time
from dataclasses import dataclass
from datetime import timedelta

from django.conf import settings
from django.core.exceptions import ValidationError
from django.utils import timezone

from search import belongings, publication
from search.companies.consistency import disagreements, older_index
from search.engine import storage
from search.engine.errors import EngineError, IndexNotBuilt, StoreError
from search.engine.index.index import IndexInfo
from search.engine.model.weights import BUILTIN
from search.engine.pictures.folder import ImageFile
from search.folders import folder_of
from search.monitoring.durations import format_seconds
from tenants.models import Company, IndexBuild

COUNT_LIMIT = 20_000
COUNT_SECONDS = 10.0

_WAITING_SECONDS = 15  # after which a queued build is said to lack a worker

_LABELS = {"succeeded": "ready", "older": "older index", "missing": "no index yet", "damaged": "index damaged"}


@dataclass(frozen=True, slots=True)
class Overview:
    company: Company
    build: IndexBuild | None  # the last
    info: IndexInfo | None  # of the index that is searched now
    problem: str  # why that index cannot be read
    size: int | None  # bytes on disk, generations included; None while files come and go
    older: str  # that this index is not the newest
    disagreements: list[str]  # between the company's row and its files

    @property
    def status(self) -> str:
        """One of IndexBuild.Status, "missing", "older" or "damaged"."""
        if self.build and self.build.is_active:
            return self.build.status
        if self.problem:
            return "damaged"
        if self.build and self.build.status != IndexBuild.Status.SUCCEEDED:
            return self.build.status
        if self.info and self.older:
            return "older"
        return "succeeded" if self.info else "missing"

    @property
    def label(self) -> str:
        return _LABELS.get(self.status, self.status)

    @property
    def is_active(self) -> bool:
        return bool(self.build and self.build.is_active)

    @property
    def builtin(self) -> bool:
        """Whether the index was made with the built-in weights."""
        return bool(self.info and self.info.weights == BUILTIN)

    @property
    def time_left(self) -> str:
        return format_seconds(self.build.seconds_left) if self.build and self.build.seconds_left is not None else ""

    @property
    def silence(self) -> str:
        """What keeps an active build from going on, or nothing."""
        build = self.build
        if build is None or not build.is_active:
            return ""
        if build.status == IndexBuild.Status.QUEUED:
            waits = timezone.now() - build.queued_at > timedelta(seconds=_WAITING_SECONDS)
            return "waiting for a worker: is build_worker running?" if waits else ""
        lease = timedelta(seconds=settings.BUILD_LEASE_SECONDS)
        lost = build.heartbeat_at is not None and timezone.now() - build.heartbeat_at > lease
        return "its worker does not respond: another one takes over" if lost else ""


def overview(company: Company) -> Overview:
    """Return what the pages show of a company, read once an instance; the last build comes with get_queryset()."""
    shown: Overview | None = company.__dict__.get("overview")
    if shown is None:
        last_builds = company.__dict__.get("last_builds", [])
        shown = company.__dict__["overview"] = _read(company, last_builds[0] if last_builds else None)
    return shown


def _read(company: Company, build: IndexBuild | None) -> Overview:
    info, problem = None, ""
    try:
        info = publication.info(company)
    except IndexNotBuilt as error:
        if company.generation is not None:  # it had one
            problem = str(error)
    except EngineError as error:
        problem = str(error)
    size, older = size_on_disk(company), older_index(company)
    return Overview(company, build, info, problem, size, older, disagreements(company))


def size_on_disk(company: Company) -> int | None:
    """Return the bytes of the company's index; None where nobody can tell at this moment."""
    try:
        return belongings.size(company)
    except (OSError, StoreError):
        return None


def generations(company: Company) -> tuple[list[storage.Generation], str]:
    """Return the generations of the company's index, newest first, and why they cannot be listed."""
    try:
        return publication.generations(company), ""
    except EngineError as error:
        return [], str(error)


def pictures_found(company: Company) -> str:
    """Return in words how many pictures lie in the company's folder, counted for so long and no further."""
    try:
        company.clean()
        return _count(company)
    except ValidationError as error:
        return " ".join(error.messages)
    except FileNotFoundError:
        return "The folder does not exist yet; the first upload creates it."
    except OSError as error:
        return f"The folder cannot be read: {error.strerror}"
    except StoreError as error:
        return str(error)


def _count(company: Company) -> str:
    found = unusable = 0
    until = time.monotonic() + COUNT_SECONDS
    for file in folder_of(company).find():
        found += isinstance(file, ImageFile)
        unusable += not isinstance(file, ImageFile)
        if found + unusable >= COUNT_LIMIT or time.monotonic() > until:
            return f"more than {found:,} pictures found"
    text = f"{found:,} picture{'' if found == 1 else 's'} found"
    return f"{text}, {unusable:,} unusable" if unusable else text
