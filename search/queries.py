"""The read path: what the API, the commands and the pages ask of an index."""

import threading
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain, islice
from typing import BinaryIO
from weakref import WeakKeyDictionary

import numpy as np
from django.conf import settings

from search import overlay, publication, runtime
from search.duplicates import Distinct
from search.engine.errors import CropRefused, ImageUnreadable, IndexNotBuilt
from search.engine.index.folders import Folder, folders_of
from search.engine.index.index import ImageIndex, IndexInfo
from search.engine.index.judgement import FIRST_LOOK, judge
from search.engine.index.match import Match
from search.engine.index.records import ImageRecord, Records
from search.engine.model.embedder import read_prepared, read_query
from search.engine.pictures.crop import Crop
from search.engine.vectors import Vector, Vectors, unit_length
from search.monitoring.observation import note_company, stage
from search.originals import PictureGone, original
from tenants.models import Company, CompanyQuerySet

DEFAULT_TOP_K = 10
MAX_TOP_K = 50
MAX_PICTURES = 5  # of one search
MAX_LIKE = 20  # pictures of the company that one search names, and as many that it does not want

_DEEPER = 2  # times as many results are looked at where duplicates leave too few
_DEEPEST = 4000  # results that are looked at, at most: a second or so
_AWAY = 0.25  # of the mean of what is not wanted; at 1 it ruins the result


class CompanyNotFound(LookupError):
    """No company of this name, or one that is switched off."""

    def __init__(self, name: str) -> None:
        super().__init__(f"Company '{name}' not found")


class ImageNotFound(LookupError):
    """The company's index has no such picture."""


@dataclass(frozen=True, slots=True)
class Filters:
    """Which pictures a search may return."""

    location: str = ""  # only those in this folder and below it
    min_score: float | None = None  # only those that score at least this
    min_match: float | None = None  # 0 to 100: only those that match at least so well, where there is a match
    collapse: bool = False  # of each group of duplicates only the best
    distinct: Distinct | None = field(default=None, repr=False)  # whose groups these are; search() sets it


ANY = Filters()


@dataclass(frozen=True, slots=True)
class QueryPicture:
    """A picture to search with."""

    file: BinaryIO
    name: str  # whose extension must agree with the content


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found."""

    matches: list[Match]  # closest first
    nothing_similar: bool | None = None  # None where it cannot be told
    without_effect: tuple[str, ...] = ()  # the filters that this search cannot apply


@dataclass(slots=True)
class _Counted:
    """The pictures of a built index by folder. lock guards the counting, so that it is done once."""

    counts: Counter[str] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


_counted: WeakKeyDictionary[Records, _Counted] = WeakKeyDictionary()
_folders: WeakKeyDictionary[ImageIndex, list[Folder]] = WeakKeyDictionary()
_lock = threading.Lock()  # guards both tables, and nothing slow happens under it


def find_company(name: str, among: CompanyQuerySet | None = None) -> Company:
    """Return the active company of this name, freshly read. Raises CompanyNotFound.

    among: the companies that the caller may know of, where that is not all: one query, whether the others have it.
    """
    companies = Company.objects.active() if among is None else among
    try:
        company = companies.get(name=name)
    except (Company.DoesNotExist, ValueError) as error:  # ValueError: a NUL, which PostgreSQL refuses
        raise CompanyNotFound(name) from error
    note_company(company.name)
    return company


def search(
    company: Company,
    pictures: Sequence[QueryPicture],
    *,
    crop: Crop | None = None,
    top_k: int = DEFAULT_TOP_K,
    filters: Filters = ANY,
) -> Found:
    """Return the company's pictures closest to those given: find_similar() in its index as of now.

    company: freshly read from the database. Raises IndexNotBuilt and IndexCorrupt as well.
    """
    index = company_index(company)
    filters = _with_groups(filters, company, index)
    return find_similar(index, pictures, crop=crop, top_k=top_k, filters=filters)


def search_like(
    company: Company,
    like: Sequence[str],
    *,
    unlike: Sequence[str] = (),
    crop: Crop | None = None,
    top_k: int = DEFAULT_TOP_K,
    filters: Filters = ANY,
) -> Found:
    """Return the company's pictures closest to some of them and away from others, all of which are left out.

    like, at least one, and unlike: ids. crop: of the only picture. company: freshly read from the database.
    top_k above 50 counts as 50. Raises ImageNotFound, IndexNotBuilt and IndexCorrupt; with crop also PictureGone and
    what find_similar() raises, but not ImageUnreadable.
    """
    index = company_index(company)
    filters = _with_groups(filters, company, index)
    if crop:
        return _search_like_part(company, index, [*dict.fromkeys(like), *unlike], crop, top_k=top_k, filters=filters)
    vector = _mean([_vector(index, image_id) for image_id in dict.fromkeys(like)])
    if unlike:
        away = np.mean([_vector(index, image_id) for image_id in dict.fromkeys(unlike)], axis=0)
        vector = unit_length((vector - _AWAY * away).reshape(1, -1))[0]
    return _closest(index, [vector], top_k=top_k, filters=filters, without_ids={*like, *unlike})


def find_similar(
    index: ImageIndex,
    pictures: Sequence[QueryPicture],
    *,
    crop: Crop | None = None,
    top_k: int = DEFAULT_TOP_K,
    filters: Filters = ANY,
) -> Found:
    """Return the pictures of the index closest to those given, closest first; top_k above 50 counts as 50.

    One picture without crop is also searched with as it is inside uniform borders, where it has such.
    crop: of the only picture given. Raises ImageUnreadable, CropRefused, DecoderBusy, ModelMismatch,
    WeightsUnavailable and DeviceUnavailable.
    """
    if crop and len(pictures) > 1:
        raise CropRefused("crop goes with one picture, not with several")
    if len(pictures) > 1:
        return _closest(index, [_mean(_embed(index, pictures))], top_k=top_k, filters=filters)
    vectors = _embed(index, pictures, crop) if crop else _embed_inside_borders(index, pictures[0])
    return _judged(index, list(vectors), top_k=top_k, filters=filters)


def _search_like_part(
    company: Company, index: ImageIndex, image_ids: Sequence[str], crop: Crop, *, top_k: int, filters: Filters
) -> Found:
    if len(image_ids) > 1:
        raise CropRefused("crop goes with one picture, not with several")
    record = index.find_id(image_ids[0])
    if record is None:
        raise ImageNotFound(f"No picture with the id {image_ids[0]}")
    with original(company, record) as opened:
        try:
            vectors = _embed(index, [QueryPicture(opened.file, record.path)], crop)
        except ImageUnreadable as error:  # what is wrong is not what the caller has sent
            raise PictureGone(f"The file of this picture cannot be searched with: {error}") from error
    return _closest(index, [vectors[0]], top_k=top_k, filters=filters, without_ids={record.id})


def _vector(index: ImageIndex, image_id: str) -> Vector:
    vector = index.find_vector(image_id)
    if vector is None:
        raise ImageNotFound(f"No picture with the id {image_id}")
    return vector


def _embed_inside_borders(index: ImageIndex, picture: QueryPicture) -> Vectors:
    """Return the vector of a picture, and a second one where it has borders."""
    embedder, gate = runtime.embedder_for(index), runtime.gate()
    with stage("decode"):
        prepared = read_query(embedder, picture.file, name=picture.name, max_pixels=settings.MAX_PIXELS, gate=gate)
    with stage("embed"):
        return embedder.embed(prepared)


def _embed(index: ImageIndex, pictures: Sequence[QueryPicture], crop: Crop | None = None) -> Vectors:
    embedder, gate = runtime.embedder_for(index), runtime.gate()
    with stage("decode"):
        prepared = [
            read_prepared(embedder, each.file, name=each.name, max_pixels=settings.MAX_PIXELS, crop=crop, gate=gate)
            for each in pictures
        ]
    with stage("embed"):
        return embedder.embed(prepared)


def _mean(vectors: Sequence[Vector] | Vectors) -> Vector:
    """Return the direction, [960] of unit length, between vectors; one alone stays as it is, to the last bit."""
    if len(vectors) == 1:
        return vectors[0]
    return unit_length(np.mean(vectors, axis=0, keepdims=True, dtype=np.float32))[0]


def _closest(
    index: ImageIndex, vectors: Sequence[Vector], *, top_k: int, filters: Filters, without_ids: Collection[str] = ()
) -> Found:
    """Return the pictures closest to any of the vectors: each scores with the one that it is closest to."""
    with stage("search"):
        found = _search(index, vectors, min(top_k, MAX_TOP_K), filters, without_ids)
    return Found(found, without_effect=_unjudged(filters))


def _judged(index: ImageIndex, vectors: Sequence[Vector], *, top_k: int, filters: Filters) -> Found:
    """Return the same, and how likely each is the one picture that the vectors were made of."""
    count = min(top_k, MAX_TOP_K)

    @cache
    def first(least: int) -> list[Match]:
        """Return the first of all pictures, whatever the filters say."""
        return _search(index, vectors, max(count, least))

    with stage("search"):
        judgement = judge(index, first)
        all_are_wanted = replace(filters, min_match=None) == ANY
        if judgement is None or not all_are_wanted:
            found = _search(index, vectors, count, filters)
        else:
            found = first(FIRST_LOOK)[:count]
    if judgement is None:
        return Found(found, without_effect=_unjudged(filters))
    matches = [judgement.on(match) for match in found]
    if filters.min_match is not None:
        matches = [match for match in matches if match.percent is not None and match.percent >= filters.min_match]
    return Found(matches, judgement.nothing_similar)


def _unjudged(filters: Filters) -> tuple[str, ...]:
    """Return the names of the filters that have no effect where nothing is told of how well pictures match."""
    return () if filters.min_match is None else ("min_match",)


def _search(
    index: ImageIndex,
    vectors: Sequence[Vector],
    count: int,
    filters: Filters = ANY,
    without_ids: Collection[str] = (),
) -> list[Match]:
    if filters.collapse:
        return _one_of_each(index, vectors, count, replace(filters, collapse=False), without_ids)
    found = [
        index.search(vector, count, location=filters.location, min_score=filters.min_score, without_ids=without_ids)
        for vector in vectors
    ]
    return found[0] if len(found) == 1 else _best_of(found)[:count]


def _one_of_each(
    index: ImageIndex, vectors: Sequence[Vector], count: int, filters: Filters, without_ids: Collection[str]
) -> list[Match]:
    """Return the same, of each group of duplicates only the first: it looks deeper until there are enough.

    After thousands of copies it is content with fewer: 20,000 stills of one camera would take 4 s.
    """
    distinct = filters.distinct or Distinct(index)
    depth = _DEEPER * count
    while True:
        found = _search(index, vectors, depth, filters, without_ids)
        kept = list(islice(distinct.first_of_each(found), count))
        if len(kept) == count or len(found) < depth or depth == _DEEPEST:
            return kept
        depth = min(_DEEPER * depth, _DEEPEST)


def _with_groups(filters: Filters, company: Company, index: ImageIndex) -> Filters:
    """Return the filters with what is known of the company's duplicates, where they ask for that."""
    if not filters.collapse:
        return filters
    with stage("search"):
        return replace(filters, distinct=Distinct(index, company))


def _best_of(found: Sequence[list[Match]]) -> list[Match]:
    """Return each picture of several lists once, with its best score, best first."""
    best: dict[ImageRecord, Match] = {}
    for match in sorted(chain.from_iterable(found), key=lambda match: -match.score):
        best.setdefault(match.image, match)
    return list(best.values())


def find_picture(company: Company, image_id: str) -> ImageRecord:
    """Return the company's picture of this id. Raises ImageNotFound, IndexNotBuilt and IndexCorrupt.

    company: freshly read from the database.
    """
    record = company_index(company).find_id(image_id)
    if record is None:
        raise ImageNotFound(f"No picture with the id {image_id}")
    return record


def some_pictures(company: Company, count: int) -> list[ImageRecord]:
    """Return at most count of the company's pictures, from all over its index, the same ones each time.

    company: freshly read from the database. Raises IndexNotBuilt and IndexCorrupt.
    """
    return company_index(company).spread(count)


def company_index(company: Company) -> ImageIndex:
    """Return the company's index with its live changes. Raises IndexNotBuilt and IndexCorrupt.

    company: freshly read from the database.
    """
    with stage("index"), _told_how_to_build(company):
        return overlay.live_index(company)


def company_info(company: Company) -> IndexInfo:
    """Return what the company's index says of itself, without loading it. Raises IndexNotBuilt and IndexCorrupt.

    Where there are only pictures that were put, and no build yet, they are the index.
    """
    try:
        with _told_how_to_build(company):
            return publication.info(company)
    except IndexNotBuilt:
        if company.generation is not None or not company.live_sequence:
            raise
        index = company_index(company)
        return replace(index.info, total_images=len(index))


def company_folders(company: Company) -> list[Folder]:
    """Return the folders of the company's pictures, each in front of those below it; the first is the whole.

    Counted once for each built index and process. company: freshly read from the database.
    Raises IndexNotBuilt and IndexCorrupt.
    """
    index = company_index(company)
    with _lock:
        known = _folders.get(index)
    if known is None:
        known = folders_of(index, _count(index.records))
        with _lock:
            _folders[index] = known
    return known


def _count(records: Records) -> Counter[str]:
    with _lock:
        counted = _counted.setdefault(records, _Counted())
    with counted.lock:
        if counted.counts is None:
            counted.counts = records.count_by_location()
        return counted.counts


@contextmanager
def _told_how_to_build(company: Company) -> Iterator[None]:
    try:
        yield
    except IndexNotBuilt as error:
        if company.generation is not None:  # it has one, and what became of it is told
            raise
        raise IndexNotBuilt(
            f"Company '{company}' has no index yet: run manage.py build_embeddings --company {company}"
        ) from error


def companies_with_index(companies: CompanyQuerySet) -> list[Company]:
    """Return those of the companies that have an index."""
    return [company for company in companies if publication.is_listed(company)]


def loaded_names(companies: list[Company]) -> list[str]:
    """Return the names of those of the companies whose index this process holds."""
    loaded = runtime.index_cache().loaded()
    return [company.name for company in companies if company.pk in loaded]
