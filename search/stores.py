"""What lies in the object store of the indexes, where IMAGESEARCH_STORE names one."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from django.conf import settings

from search.engine.objects import ObjectStore, open_store
from tenants.models import Company

BUILDING = ".building"  # below the root: what builds have embedded, by company and build
WEIGHTS = ".weights"  # below the root: see search/engine/model/kept.py


_hurried = ContextVar("hurried", default=False)


@contextmanager
def hurrying() -> Iterator[None]:
    """Let what this thread asks of a store fail within seconds until the end of the block: a caller waits for it."""
    token = _hurried.set(True)
    try:
        yield
    finally:
        _hurried.reset(token)


def is_hurried() -> bool:
    return _hurried.get()


def root() -> ObjectStore | None:
    """Return the store of all indexes; None where they lie in a folder alone."""
    return open_store(settings.STORE, settings.STORE_ENDPOINT, hurried=is_hurried()) if settings.STORE else None


def of(company: Company) -> ObjectStore | None:
    """Return where the company's generations lie, and what belongs to them; None where that is a folder."""
    store = root()
    return store.below(company.name) if store else None
