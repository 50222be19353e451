"""A company's duplicates in the admin: looking for them, deleting them, and saying what is none."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import combinations, product
from math import ceil
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.db.models import Max
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse, QueryDict
from django.template.loader import render_to_string
from django.urls import URLPattern, path, reverse
from django.views.decorators.http import require_GET, require_POST

from search import duplicates, overlay
from search.admin.details import File, file_of
from search.admin.grid import Tile, tile
from search.admin.pictures import MAX_AT_ONCE, Pictures, viewer_of
from search.duplicates import BY_WORD, NotLookedYet
from search.engine.errors import EngineError
from search.engine.index.duplicates import ALL, Level
from search.engine.index.groups import Group
from search.engine.index.index import ImageIndex
from search.engine.index.records import ImageRecord
from search.monitoring.durations import format_seconds
from search.templatetags.humane import readable
from tenants import audit
from tenants.models import Company, DuplicateSearch, NotDuplicates, Watch

GROUPS_A_PAGE = 20
SHOWN_OF_A_GROUP = 24  # beside the leader
TOLD_APART = 200  # of a group, at least, from each of those that are ticked
PAIRS_TOLD_APART = 5000  # and as many more as make so many pairs
DECISIONS_A_PAGE = 20
SHOWN_OF_A_DECISION = 8

_WORDS = {
    Level.EXACT: ("exact", "the same file"),
    Level.SAME: ("same", "the same picture in another size or format"),
    Level.EDITED: ("edited", "cropped, bordered, mirrored or otherwise edited"),
}


@dataclass(frozen=True, slots=True)
class Choice:
    """Which duplicates a page shows. It travels in the pages' URLs."""

    levels: frozenset[Level] = ALL
    page: int = 1

    @classmethod
    def of(cls, query: QueryDict) -> "Choice":
        levels = frozenset(BY_WORD[word] for word in query.getlist("level") if word in BY_WORD)
        page = query.get("page", "")
        number = int(page) if page.isascii() and page.isdecimal() and len(page) < 10 else 1
        return cls(levels or ALL, max(1, number))

    @property
    def words(self) -> list[str]:
        """The levels as they are in a URL, none where it is all of them."""
        return [] if self.levels == ALL else [level.word for level in sorted(self.levels)]

    @property
    def query(self) -> str:
        """The choice as a URL's query, "" or with its question mark."""
        given = [("level", word) for word in self.words] + [("page", self.page)] * (self.page > 1)
        return f"?{urlencode(given)}" if given else ""


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture of a group."""

    tile: Tile
    file: File | None  # None: it is gone
    level: str = ""  # "" for the leader
    score: float = 1.0


@dataclass(frozen=True, slots=True)
class ShownGroup:
    leader: Shown
    members: list[Shown]
    more: int  # members that are not shown

    @property
    def total(self) -> int:
        return 1 + len(self.members) + self.more


@dataclass(frozen=True, slots=True)
class Page:
    groups: list[ShownGroup]
    choice: Choice
    total: int  # groups
    pages: int

    @property
    def previous_query(self) -> str | None:
        return replace(self.choice, page=self.choice.page - 1).query if self.choice.page > 1 else None

    @property
    def next_query(self) -> str | None:
        return replace(self.choice, page=self.choice.page + 1).query if self.choice.page < self.pages else None


@dataclass(frozen=True, slots=True)
class Decision:
    """What somebody has said are no duplicates."""

    decision: str
    by: str
    at: datetime
    tiles: list[Tile]
    more: int  # pictures that are not shown


class Duplicates(Pictures):
    """Who may view a company sees its duplicates; who may change it deletes them and says what is none; who may reindex
    it has them looked for.
    """

    def get_urls(self) -> list[URLPattern]:
        def page(route: str, view: Callable[..., HttpResponse], name: str = "") -> URLPattern:
            name = f"tenants_company_duplicates{name}"
            return path(f"<int:pk>/duplicates/{route}", self.admin_site.admin_view(view), name=name)

        return [
            page("", require_GET(self.duplicates_view)),
            page("live/", require_GET(self.live_duplicates_view), "_live"),
            page("look/", require_POST(self.look_view), "_look"),
            page("cancel/", require_POST(self.cancel_look_view), "_cancel"),
            page("delete/", require_POST(self.delete_duplicates_view), "_delete"),
            page("apart/", require_GET(self.apart_view), "_apart"),
            page("tell-apart/", require_POST(self.tell_apart_view), "_tell_apart"),
            page("undo/", require_POST(self.undo_view), "_undo"),
            *super().get_urls(),
        ]

    # What there is

    def duplicates_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        company, choice = self.viewed(request, pk), Choice.of(request.GET)
        shown, problem = None, ""
        try:
            index = overlay.live_index_or_empty(company)
            shown = _page(request, company, index, choice)
        except NotLookedYet:
            pass
        except EngineError as error:
            problem = str(error)
        levels = [(level.word, *_WORDS[level], level in choice.levels) for level in Level]
        context = {
            "title": f"Duplicates of {company}",
            "page": shown,
            "problem": problem,
            "levels": levels,
            "choice": choice,
            "decisions": company.not_duplicates.values("decision").distinct().count(),
            **self._state(request, company),
        }
        return self._answer(request, company, "duplicates", context)

    def live_duplicates_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Answer the page's script: how far the search is."""
        company = self.viewed(request, pk)
        context = {"company": company, **self._state(request, company)}
        search = context["search"]
        return JsonResponse(
            {
                "active": [company.pk] if search and search.is_active else [],
                "states": {company.pk: f"Search for duplicates: {search.status}"} if search else {},
                "fragments": {"state": render_to_string("admin/tenants/company/_duplicate_search.html", context)},
            }
        )

    def _state(self, request: HttpRequest, company: Company) -> dict[str, Any]:
        searches = company.duplicate_searches.select_related("requested_by")
        search = searches.first()
        left = search.seconds_left if search and search.is_active else None
        return {
            "search": search,
            "time_left": format_seconds(left) if left is not None else "",
            "looked": searches.filter(status=DuplicateSearch.Status.SUCCEEDED).first(),
            "worker_is_silent": bool(search and search.is_active) and Watch.objects.is_worker_silent(),
            "may_reindex": self.has_reindex_permission(request),
        }

    # Looking for them

    def look_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        company = self.reindexable(request, pk)
        edited = request.POST.get("quick") != "1"
        search = DuplicateSearch.objects.ask(company, edited=edited, by=audit.in_admin(request))
        self.log_change(request, company, f"Queued {search.KIND} {search.pk}.")
        text = "another one follows it." if search.again else "a worker begins as soon as it has nothing else to do."
        state = "is running" if search.again else "is queued"
        self.message_user(request, f"The search for duplicates of {company} {state}; {text}", messages.SUCCESS)
        return _to_duplicates(company)

    def cancel_look_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        company = self.reindexable(request, pk)
        search = company.duplicate_searches.active().first()
        if search and search.cancel(by=audit.in_admin(request)):
            self.log_change(request, company, f"Cancelled {search.KIND} {search.pk}.")
            text = "was cancelled; what it has found is kept, and the next one goes on from there."
            self.message_user(request, f"The search for duplicates of {company} {text}", messages.SUCCESS)
        else:
            self.message_user(request, f"No search for duplicates of {company} is active.", messages.WARNING)
        return _to_duplicates(company)

    # Deleting them

    def delete_duplicates_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Ask whether the ticked pictures are to be deleted; asked back, delete them.

        It asks again where one of them has become the last copy since then: a colleague has deleted the others.
        """
        company, choice = self.changed(request, pk), Choice.of(request.POST)
        chosen = self.chosen(request, company)
        if len(request.POST.getlist("id")) > MAX_AT_ONCE:
            self.message_user(request, f"Choose at most {MAX_AT_ONCE} pictures at a time.", messages.ERROR)
        elif not chosen:
            self.message_user(request, "No picture was deleted: choose those to delete first.", messages.WARNING)
        else:
            last = _last(_groups(company, overlay.live_index_or_empty(company), choice), chosen)
            if request.POST.get("confirmed") != "1" or not last.ids <= set(request.POST.get("last", "").split()):
                return self._ask_to_delete_duplicates(request, company, chosen, choice, last)
            self.delete_chosen(request, company, chosen)
        return _to_duplicates(company, choice)

    def _ask_to_delete_duplicates(
        self, request: HttpRequest, company: Company, chosen: list[ImageRecord], choice: Choice, last: "_Last"
    ) -> HttpResponse:
        tiles = [tile(company, record, viewer=viewer_of(request), size=160) for record in chosen]
        number = f"{len(tiles)} pictures" if len(tiles) > 1 else tiles[0].name
        context = {
            "title": f"Delete {number}?",
            "tiles": tiles,
            "choice": choice,
            "left_empty": [readable(group.leader.path) for group in last.groups],
            "alone": [readable(record.path) for record in last.alone],
            "last": " ".join(sorted(last.ids)),
        }
        return self._answer(request, company, "delete_duplicates", context)

    # What is none

    def tell_apart_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Remember that the ticked pictures of a group, or all of it where none is ticked, are no duplicates."""
        company, choice = self.changed(request, pk), Choice.of(request.POST)
        index = overlay.live_index_or_empty(company)
        group = _find(_groups(company, index, choice), request.POST.get("leader", ""))
        if group is None:
            self.message_user(request, "This group has changed meanwhile: look again.", messages.WARNING)
            return _to_duplicates(company, choice)
        images = _images(group)
        ticked = [image for image in images if image.id in request.POST.getlist("id")]
        if not ticked and len(images) > 1 + SHOWN_OF_A_GROUP:
            self.message_user(request, "Tick those that are no duplicates: the group is large.", messages.WARNING)
            return _to_duplicates(company, choice)
        parted = ticked or images
        counterparts = images[: max(TOLD_APART, PAIRS_TOLD_APART // len(parted))]
        pairs = [*combinations(_ids(parted), 2), *product(_ids(parted), _ids(counterparts))]
        paths = [image.path for image in parted]
        NotDuplicates.objects.add(company, pairs, paths=paths, by=audit.in_admin(request))
        named = readable(paths[0]) if len(paths) == 1 else f"{len(paths)} pictures"
        self.log_change(request, company, f"Marked {named} as not duplicates.")
        others = "the others of the group" if ticked else "each other"
        text = f"{named} will not be shown as duplicates of {others} again. Undo it under “Not duplicates”."
        self.message_user(request, text, messages.SUCCESS)
        return _to_duplicates(company, choice)

    def apart_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        company, choice = self.viewed(request, pk), Choice.of(request.GET)
        index = overlay.live_index_or_empty(company)
        rows = company.not_duplicates.order_by().values("decision", "by").annotate(at=Max("at"))
        total = rows.count()
        pages = max(1, ceil(total / DECISIONS_A_PAGE))
        number = min(choice.page, pages)
        start = (number - 1) * DECISIONS_A_PAGE
        decisions = []
        for row in rows.order_by("-at", "decision")[start : start + DECISIONS_A_PAGE]:
            images = _images_of(company, index, row["decision"])
            tiles = [
                tile(company, image, viewer=viewer_of(request), size=160) for image in images[:SHOWN_OF_A_DECISION]
            ]
            decisions.append(Decision(row["decision"], row["by"], row["at"], tiles, len(images) - len(tiles)))
        context = {
            "title": f"Not duplicates of {company}",
            "decisions": decisions,
            "total": total,
            "page": number,
            "pages": pages,
            "previous_page": number - 1,
            "next_page": number + 1 if number < pages else None,
        }
        return self._answer(request, company, "not_duplicates", context)

    def undo_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        company = self.changed(request, pk)
        decision = request.POST.get("decision", "")
        images = _images_of(company, overlay.live_index_or_empty(company), decision)
        paths = [image.path for image in images]
        if not NotDuplicates.objects.undo(company, decision, paths=paths, by=audit.in_admin(request)):
            self.message_user(request, "This was undone before.", messages.WARNING)
        else:
            self.log_change(request, company, f"No longer marked {len(paths)} pictures as not duplicates.")
            self.message_user(request, "Undone: they are shown as duplicates again.", messages.SUCCESS)
        return HttpResponseRedirect(reverse("admin:tenants_company_duplicates_apart", args=[company.pk]))


def _groups(company: Company, index: ImageIndex, choice: Choice) -> list[Group]:
    try:
        return duplicates.groups_of(company, index, levels=choice.levels)
    except NotLookedYet as error:
        raise Http404(str(error)) from error


def _page(request: HttpRequest, company: Company, index: ImageIndex, choice: Choice) -> Page:
    """Return a page of the company's duplicates; beyond the last page it is the last. Raises NotLookedYet."""
    found = duplicates.groups_of(company, index, levels=choice.levels)
    pages = max(1, ceil(len(found) / GROUPS_A_PAGE))
    choice = replace(choice, page=min(choice.page, pages))
    start = (choice.page - 1) * GROUPS_A_PAGE
    shown = [_shown_group(request, company, group) for group in found[start : start + GROUPS_A_PAGE]]
    return Page(shown, choice, len(found), pages)


def _shown_group(request: HttpRequest, company: Company, group: Group) -> ShownGroup:
    def shown(image: ImageRecord, size: int, **more: Any) -> Shown:
        return Shown(tile(company, image, viewer=viewer_of(request), size=size), file_of(company, image), **more)

    members = [
        shown(member.image, 160, level=member.level.word, score=member.score)
        for member in group.members[:SHOWN_OF_A_GROUP]
    ]
    return ShownGroup(shown(group.leader, 320), members, len(group.members) - len(members))


def _find(groups: Iterable[Group], leader: str) -> Group | None:
    return next((group for group in groups if group.leader.id == leader), None)


@dataclass(frozen=True, slots=True)
class _Last:
    """What nothing would be left of, were the ticked pictures deleted."""

    groups: list[Group]  # all of which is ticked
    alone: list[ImageRecord]  # are ticked and no longer in a group: their copies were deleted, or they were replaced

    @property
    def ids(self) -> set[str]:
        return {image.id for group in self.groups for image in _images(group)} | {image.id for image in self.alone}


def _last(groups: Iterable[Group], chosen: Collection[ImageRecord]) -> _Last:
    ids, grouped, left_empty = {record.id for record in chosen}, set[str](), []
    for group in groups:
        of_group = set(_ids(_images(group)))
        grouped |= of_group
        if of_group <= ids:
            left_empty.append(group)
    return _Last(left_empty, [record for record in chosen if record.id not in grouped])


def _images(group: Group) -> list[ImageRecord]:
    return [group.leader, *(member.image for member in group.members)]


def _ids(images: Iterable[ImageRecord]) -> list[str]:
    return [image.id for image in images]


def _images_of(company: Company, index: ImageIndex, decision: str) -> list[ImageRecord]:
    """Return the pictures that a decision concerns and that are still there, those in most pairs first."""
    pairs = company.not_duplicates.filter(decision=decision).order_by("pk").values_list("first_id", "second_id")
    counted: dict[str, int] = {}
    for image_id in (each for pair in pairs for each in pair):
        counted[image_id] = counted.get(image_id, 0) + 1
    found = (index.find_id(image_id) for image_id in sorted(counted, key=lambda each: -counted[each]))
    return [record for record in found if record]


def _to_duplicates(company: Company, choice: Choice | None = None) -> HttpResponseRedirect:
    query = (choice or Choice()).query
    return HttpResponseRedirect(reverse("admin:tenants_company_duplicates", args=[company.pk]) + query)
