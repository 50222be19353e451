"""The read path: what the API, the commands and the pages ask of an index."""

from pathlib import Path
from typing import BinaryIO

from django.conf import settings

from search import runtime
from search.engine import storage
from search.engine.errors import IndexNotBuilt
from search.engine.images import open_image
from search.engine.index import ImageIndex, IndexInfo, Match
from tenants.models import Company

DEFAULT_TOP_K = 10
MAX_TOP_K = 50


def find_similar(index: ImageIndex, image: BinaryIO, *, name: str, top_k: int = DEFAULT_TOP_K) -> list[Match]:
    """Return the pictures of the index closest to image, closest first; top_k above 50 is held to 50.

    name: the image's file name, whose extension must agree with its content.
    Raises ImageUnreadable, ModelMismatch, WeightsUnavailable and DeviceUnavailable.
    """
    embedder = runtime.embedder_for(index)
    picture = open_image(image, name=name, max_pixels=settings.MAX_PIXELS)
    vector = embedder.embed([embedder.prepare(picture)])[0]
    return index.search(vector, min(top_k, MAX_TOP_K))


def company_index(company: Company) -> ImageIndex:
    """Return the company's published index. Raises IndexNotBuilt and IndexCorrupt."""
    try:
        return runtime.index_cache().get(company.embeddings_directory)
    except IndexNotBuilt as error:
        raise IndexNotBuilt(
            f"Company '{company}' has no index yet: run manage.py build_embeddings --company {company}"
        ) from error


def company_info(company: Company) -> IndexInfo:
    """Return what the company's index says of itself, without loading it. Raises IndexNotBuilt and IndexCorrupt."""
    try:
        return storage.info(company.embeddings_directory)
    except IndexNotBuilt as error:
        raise IndexNotBuilt(
            f"Company '{company}' has no index yet: run manage.py build_embeddings --company {company}"
        ) from error


def companies_with_index() -> list[Company]:
    """Return the active companies that have an index."""
    return [company for company in Company.objects.active() if storage.has_index(company.embeddings_directory)]


def loaded_directories() -> set[Path]:
    """Return the embeddings directories whose index this process holds."""
    return set(runtime.index_cache().loaded())
