"""What a search for a company's duplicates has found, as groups of its pictures as of now."""

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import TypeGuard
from weakref import WeakKeyDictionary

from django.db.models import Count, Max, QuerySet

from search import belongings, collections, publication
from search.engine.errors import IndexNotBuilt
from search.engine.index.duplicates import ALL, QUICK, DuplicatePairs, Level
from search.engine.index.groups import Group, groups, is_seen
from search.engine.index.index import ImageIndex, empty_index
from search.engine.index.match import Match
from search.engine.index.quick_test import QuickTest
from tenants.models import Company, DuplicateSearch

Levels = frozenset[Level]
Pair = tuple[str, str]

BY_WORD = {level.word: level for level in Level}


class NotLookedYet(Exception):
    """Nobody has looked for the company's duplicates, or what was found is gone; the message says what helps."""


@dataclass(slots=True)
class _Grouped:
    """The groups of an index by level. lock guards the grouping, so that it is done once."""

    version: tuple[object, ...] = ()  # of what was found, and of what somebody has said are none
    pairs: DuplicatePairs | None = None
    apart: set[Pair] = field(default_factory=set)
    groups: dict[Levels, list[Group]] = field(default_factory=dict)
    leaders: dict[str, str] | None = None  # by id, of all that are in a group of the quick levels; None: not asked for
    lock: threading.Lock = field(default_factory=threading.Lock)


_grouped: WeakKeyDictionary[ImageIndex, _Grouped] = WeakKeyDictionary()
_lock = threading.Lock()  # guards the table, and nothing slow happens under it


def has_looked(company: Company) -> bool:
    """Return whether a search for the company's duplicates has come to its end, and what it found is still there."""
    return bool(belongings.duplicates_stamp(company)) and _ended(company).exists()


def _ended(company: Company) -> QuerySet[DuplicateSearch]:
    return company.duplicate_searches.filter(status=DuplicateSearch.Status.SUCCEEDED)


def groups_of(company: Company, index: ImageIndex, *, levels: Collection[Level] = ALL) -> list[Group]:
    """Return the company's duplicates at these levels, the largest groups first, as many as there are.

    index: the company's, as of now. Raises NotLookedYet.
    """
    if collections.serve(company):
        raise NotLookedYet(f"The index of '{company}' lies in Milvus: its duplicates are not put into groups")
    if not has_looked(company):
        raise _not_looked(company)
    chosen = frozenset(levels)
    if chosen == {Level.EDITED} and not _ended(company).filter(edited=True).exists():
        raise _not_looked(company, copies="edited copies")
    grouped = _of(index)
    with grouped.lock:
        _refresh(grouped, company)
        if not _are_known(grouped.pairs, index):
            raise _not_looked(company)
        if chosen not in grouped.groups:
            grouped.groups[chosen] = groups(grouped.pairs, index, levels=chosen, apart=grouped.apart)
        return grouped.groups[chosen]


def _are_known(pairs: DuplicatePairs | None, index: ImageIndex) -> TypeGuard[DuplicatePairs]:
    """Return whether a search has come to its end with vectors of the model of index."""
    return pairs is not None and pairs.ended and pairs.fingerprint == index.info.fingerprint


def _not_looked(company: Company, *, copies: str = "duplicates") -> NotLookedYet:
    active = company.duplicate_searches.active().first()
    if active:
        return NotLookedYet(f"The {copies} of '{company}' are being looked for, {active.percent} % of this stage")
    return NotLookedYet(
        f"Nobody has looked for {copies} of '{company}' yet: start the search for them on the company's page in the "
        f"admin, or with manage.py duplicates --company {company} --look"
    )


def _of(index: ImageIndex) -> _Grouped:
    with _lock:
        return _grouped.setdefault(index, _Grouped())


def _refresh(grouped: _Grouped, company: Company) -> None:
    """Forget groups of what was found before, and of what somebody had said by then. Call it under the lock."""
    said = company.not_duplicates.aggregate(number=Count("pk"), last=Max("pk"))
    version = (belongings.duplicates_stamp(company), said["number"], said["last"])
    if version == grouped.version:
        return
    grouped.pairs = belongings.read_duplicates(company)
    grouped.apart = company.not_duplicates.pairs()
    grouped.groups, grouped.leaders = {}, None
    grouped.version = version


# One of each group, in searches --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of the duplicates in a company's index without its live changes."""

    built: ImageIndex
    pairs: DuplicatePairs | None = None
    apart: Set[Pair] = frozenset()
    leaders: Mapping[str, str] = field(default_factory=dict)  # by id


class Distinct:
    """Tells which results of a search show the same.

    Groups are those of the built index, kept in memory until it is replaced or something else is found. Pictures that
    no group can speak for, because they were put since, because nobody has looked at them, or because their leader is
    gone, are compared with the other results directly.
    """

    def __init__(self, index: ImageIndex, company: Company | None = None) -> None:
        """index: as of now. company: whose it is; None: nobody has looked for duplicates in it. Raises IndexCorrupt."""
        self._test = QuickTest(index)
        self._changed = {record.id for record in index.added}
        self._changed |= {record.id for record in index.records.of_rows(index.hidden.tolist())}
        self._known = _known(company) if company and not collections.serve(company) else _Known(index)

    def first_of_each(self, matches: Iterable[Match]) -> Iterator[Match]:
        """Yield those of the matches that show something else than all before them."""
        kept: list[str] = []
        loose: list[str] = []  # those of them that no group speaks for
        leaders: set[str] = set()
        for match in matches:
            leader = self._leader_of(match.image.id)
            if leader in leaders:
                continue
            if leader:
                leaders.add(leader)
            if any(self._are_same(match.image.id, other) for other in (loose if leader else kept)):
                continue
            kept.append(match.image.id)
            if not leader:
                loose.append(match.image.id)
            yield match

    def _leader_of(self, image_id: str) -> str | None:
        """Return who leads the picture's group, itself where it is alone; None where nobody knows."""
        known = self._known
        leader = known.leaders.get(image_id)
        if known.pairs is None or image_id in self._changed or leader in self._changed:
            return None
        return leader or (image_id if is_seen(known.pairs, known.built, image_id) else None)

    def _are_same(self, one: str, other: str) -> bool:
        pair = (min(one, other), max(one, other))
        return pair not in self._known.apart and self._test.show_the_same(one, other)


def _known(company: Company) -> _Known:
    try:
        built = publication.built_index(company)
    except IndexNotBuilt:  # there are only pictures that were put
        built = empty_index()
    grouped = _of(built)
    with grouped.lock:
        _refresh(grouped, company)
        if grouped.leaders is None and grouped.pairs is not None:
            grouped.leaders = _leaders(groups(grouped.pairs, built, levels=QUICK, apart=grouped.apart))
        return _Known(built, grouped.pairs, grouped.apart, grouped.leaders or {})


def _leaders(found: Iterable[Group]) -> dict[str, str]:
    return {
        image_id: group.leader.id
        for group in found
        for image_id in (group.leader.id, *(member.image.id for member in group.members))
    }
