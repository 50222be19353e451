"""What the page of a company's pictures shows: where one is, the folders around, and a page of pictures."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from math import ceil
from urllib.parse import urlencode

from django.http import QueryDict
from django.urls import reverse

from search import queries
from search.engine.index.folders import Folder
from search.engine.index.index import ImageIndex
from search.engine.index.records import ImageRecord, composed
from search.engine.pictures.paths import is_utf8
from search.http.signed_urls import Viewer, picture_urls
from search.templatetags.humane import readable
from tenants.models import Company

PICTURES_A_PAGE = 60
NAMED_SHOWN = 3_000  # pictures that a search by name goes through
BRANCHES_SHOWN = 500  # folders in the tree


@dataclass(frozen=True, slots=True)
class Place:
    """Where somebody is among a company's pictures. It travels in the pages' URLs."""

    folder: str = ""  # its location, "" for all pictures
    text: str = ""  # a part of the names that are looked for
    page: int = 1

    @classmethod
    def of(cls, query: QueryDict) -> "Place":
        page = query.get("page", "")
        number = int(page) if page.isascii() and page.isdecimal() and len(page) < 10 else 1
        return cls(query.get("folder", "").strip("/")[:1000], query.get("q", "").strip()[:200], max(1, number))

    @property
    def query(self) -> str:
        """The place as a URL's query, "" or with its question mark."""
        given = {"folder": self.folder, "q": self.text, "page": self.page if self.page > 1 else ""}
        query = urlencode({name: value for name, value in given.items() if value}, errors="replace")
        return f"?{query}" if query else ""

    @property
    def without_text(self) -> "Place":
        return Place(self.folder)

    @property
    def above(self) -> list[tuple[str, str]]:
        """The names of the folder and of those it lies in, from the top, and the queries that lead there."""
        parts = self.folder.split("/") if self.folder else []
        places = [Place(folder="/".join(parts[: depth + 1])) for depth in range(len(parts))]
        return [(readable(part), place.query) for part, place in zip(parts, places, strict=True)]


@dataclass(frozen=True, slots=True)
class Tile:
    """A picture in the grid."""

    path: str
    name: str  # with its extension
    location: str
    id: str
    thumbnail_url: str
    details_url: str


@dataclass(frozen=True, slots=True)
class Branch:
    """A folder in the tree."""

    name: str
    count: int  # of pictures in it and below it
    query: str | None  # leads there; None for a name that no URL can hold
    level: int  # 1 to 9, how far it is set in
    is_current: bool
    has_more: bool  # folders below it that are not shown


@dataclass(frozen=True, slots=True)
class Grid:
    tiles: list[Tile]
    place: Place
    total: int
    is_cut: bool  # more pictures are named so than were looked at
    pages: int
    branches: list[Branch]
    branches_left_out: int

    @property
    def previous_query(self) -> str | None:
        return replace(self.place, page=self.place.page - 1).query if self.place.page > 1 else None

    @property
    def next_query(self) -> str | None:
        return replace(self.place, page=self.place.page + 1).query if self.place.page < self.pages else None


def tile(company: Company, record: ImageRecord, *, viewer: Viewer, place: Place | None = None, size: int = 320) -> Tile:
    """Return a picture as pages show it. place: where its own page leads back to. size: one of thumbnails.SIZES."""
    details = urlencode({"id": readable(record.id)}) + (place or Place()).query.replace("?", "&", 1)
    return Tile(
        path=readable(record.path),
        name=readable(record.path.rpartition("/")[2]),
        location=readable(record.location),
        id=readable(record.id),
        thumbnail_url=picture_urls(company, record.id, viewer=viewer, size=size).thumbnail_url,
        details_url=f"{reverse('admin:tenants_company_picture', args=[company.pk])}?{details}",
    )


def grid(company: Company, place: Place, *, viewer: Viewer) -> Grid:
    """Return a page of the company's pictures; beyond the last page it is the last.

    company: freshly read from the database. Raises IndexNotBuilt and IndexCorrupt.
    """
    index = queries.company_index(company)
    records, total, page = _named(index, place) if place.text else _page(index, place)
    place = replace(place, page=page)
    branches = list(_branches(queries.company_folders(company), place.folder))
    return Grid(
        tiles=[tile(company, record, viewer=viewer, place=place) for record in records],
        place=place,
        total=min(total, NAMED_SHOWN) if place.text else total,
        is_cut=bool(place.text) and total > NAMED_SHOWN,
        pages=_pages(total),
        branches=branches[:BRANCHES_SHOWN],
        branches_left_out=max(0, len(branches) - BRANCHES_SHOWN),
    )


def _page(index: ImageIndex, place: Place) -> tuple[list[ImageRecord], int, int]:
    start = (place.page - 1) * PICTURES_A_PAGE
    records, total = index.page(start, start + PICTURES_A_PAGE, location=place.folder)
    if not records and place.page > 1:
        return _page(index, replace(place, page=_pages(total)))
    return records, total, place.page


def _named(index: ImageIndex, place: Place) -> tuple[list[ImageRecord], int, int]:
    found = list(islice(index.named(place.text, location=place.folder), NAMED_SHOWN + 1))
    page = min(place.page, _pages(len(found)))
    shown = found[:NAMED_SHOWN]
    return shown[(page - 1) * PICTURES_A_PAGE : page * PICTURES_A_PAGE], len(found), page


def _pages(total: int) -> int:
    return max(1, ceil(total / PICTURES_A_PAGE))


def _branches(folders: list[Folder], current: str) -> Iterator[Branch]:
    """Yield the folders of the tree: those in the current one, and in each that it lies in."""
    current = composed(current)
    opened = {""} | {"/".join(current.split("/")[:depth]) for depth in range(1, current.count("/") + 2)}
    with_more = {folder.above for folder in folders if folder.location}
    for folder in folders:
        if folder.location and folder.above in opened:
            yield Branch(
                name=readable(folder.name) or "(no name)",
                count=folder.below,
                query=Place(folder=folder.location).query if is_utf8(folder.location) else None,
                level=min(9, folder.location.count("/") + 1),
                is_current=folder.location == current,
                has_more=folder.location in with_more and folder.location not in opened,
            )
