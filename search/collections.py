"""The collections in Milvus of companies that it searches: one for each generation that may serve.

A collection is complete before anybody relies on it, and never changes. The generation's files stay the truth: from
them a collection can be made again. Names begin with what no other company has or had, here or in another installation
that shares the server, and nothing but a company's own collections is ever dropped.
"""

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from django.conf import settings
from filelock import FileLock, Timeout

from search import runtime
from search.engine import storage
from search.engine.errors import EngineUnavailable
from search.engine.index.collection import open_collection
from search.engine.index.collection_making import is_complete, make_collection
from search.engine.index.index import ImageIndex, IndexInfo
from search.engine.storage.layout import publication_moment
from tenants.models import Company

logger = logging.getLogger(__name__)

_BEAT_SECONDS = 1.0
_GRACE = timedelta(days=1)  # for whoever is still making one


def serve(company: Company) -> bool:
    """Return whether Milvus searches the company."""
    return company.engine == Company.Engine.MILVUS


def are_wanted(company: Company) -> bool:
    """Return whether each generation that may serve needs its collection."""
    return company.engine != Company.Engine.LOCAL


def open_index(company: Company, generation: str, info: IndexInfo) -> ImageIndex:
    """Return the index of a generation that says this of itself. Raises EngineUnavailable and IndexCorrupt."""
    return open_collection(runtime.milvus(), _name(company, generation), info)


def make(company: Company, generation: str, files: Path, *, beat: Callable[[], None] = lambda: None) -> None:
    """Make the collection of a generation whose files lie there, unless it is complete.

    Somebody else who makes one of the company's on this machine is waited for: it may be this one, which would be lost.
    Raises EngineUnavailable, PublishRefused, IndexCorrupt, and what beat raises, which is called about once a second.
    """
    name, index = _name(company, generation), storage.load(files)
    with _alone(company, beat):
        if is_complete(runtime.milvus(), name, index.info.total_images):
            return
        card = make_collection(runtime.milvus(), name, index, beat=beat)
    logger.info("The collection %s of %s holds %d pictures: %s", name, company, card.images, card)


@contextmanager
def _alone(company: Company, beat: Callable[[], None]) -> Iterator[None]:
    cache = Path(settings.CACHE_DIR)
    cache.mkdir(parents=True, exist_ok=True)
    lock = FileLock(cache / f"{_prefix(company)}collections.lock")
    while not lock.is_locked:
        try:
            lock.acquire(timeout=_BEAT_SECONDS)
        except Timeout:
            beat()
    try:
        yield
    finally:
        lock.release()


def drop(company: Company, generation: str) -> None:
    """Drop the collection of a generation, if there is one; where Milvus does not answer, it goes another time."""
    _drop(company, lambda name: name == _name(company, generation))


def drop_all(company: Company) -> None:
    """Drop the collections of a company that is gone."""
    _drop(company, lambda name: True)


def collect(company: Company, serving: str, *, kept: Collection[str]) -> None:
    """Drop what killed publishers left, and what belongs to generations that are gone.

    serving: the generation that serves; whoever is making a collection of a later one has a day. kept: generations that
    need theirs.
    """
    spared = {_name(company, generation) for generation in kept}
    limit = datetime.now(UTC) - _GRACE
    before = _name(company, serving)
    _drop(company, lambda name: name not in spared and (name < before or _moment(name) < limit))


def _drop(company: Company, is_superfluous: Callable[[str], bool]) -> None:
    if not settings.MILVUS_URL:
        return
    try:
        server = runtime.milvus()
        for name in filter(is_superfluous, server.names(_prefix(company))):
            server.drop(name)
    except EngineUnavailable as error:
        logger.warning("Collections of %s that nobody needs could not be dropped: %s", company, error)


def _name(company: Company, generation: str) -> str:
    return _prefix(company) + generation.replace("-", "_")


def _prefix(company: Company) -> str:
    return f"c{company.pk}_{int(company.created_at.timestamp() * 1e6):x}_"


def _moment(name: str) -> datetime:
    """Return when the generation of a collection was made; long ago where that cannot be told."""
    try:
        return publication_moment(name.split("_")[2])
    except (ValueError, IndexError):
        return datetime.min.replace(tzinfo=UTC)
