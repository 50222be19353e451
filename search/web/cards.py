"""What the front door shows of a company: how it is, and a few of its pictures."""

from collections.abc import Iterable
from dataclasses import dataclass

from django.db.models import Prefetch, Sum

from search import publication, queries
from search.engine.errors import EngineError, IndexNotBuilt, IndexOnItsWay, StoreUnavailable
from search.http.signed_urls import Viewer, picture_urls
from tenants.models import Company, CompanyQuerySet, DailySearches, IndexBuild

PICTURES = 4
OPENED_FOR_A_CARD = 100_000  # pictures; a larger index takes the place of others in memory, so searches alone load it

_WORDS = {  # of the last build
    IndexBuild.Status.QUEUED: "waiting to be built",
    IndexBuild.Status.FAILED: "last build failed",
    IndexBuild.Status.CANCELLED: "last build cancelled",
}


@dataclass(frozen=True, slots=True)
class Card:
    company: Company
    build: IndexBuild | None  # the last
    total: int | None  # pictures that can be searched; None: there is no index that can be read now
    is_damaged: bool
    thumbnails: list[str]  # URLs
    searches_today: int

    @property
    def status(self) -> str:
        if not self.company.active:
            return "inactive"
        if self.build and self.build.status == IndexBuild.Status.RUNNING:
            return f"building, {self.build.percent} %"
        if self.is_damaged:
            return "index damaged"
        if self.build and self.build.status in _WORDS:
            return _WORDS[IndexBuild.Status(self.build.status)]
        if self.total is None:
            return "no index yet" if self.company.generation is None else "index not to be had at the moment"
        return "ready"

    @property
    def is_ready(self) -> bool:
        return self.status == "ready"

    @property
    def is_wrong(self) -> bool:
        """Whether somebody has to do something about it."""
        return self.company.active and (self.is_damaged or self.status == _WORDS[IndexBuild.Status.FAILED])

    @property
    def can_be_searched(self) -> bool:
        return self.company.active and self.total is not None


def with_last_build(companies: CompanyQuerySet) -> CompanyQuerySet:
    """Return the companies as cards() wants them."""
    return companies.prefetch_related(Prefetch("builds", queryset=IndexBuild.objects.all()[:1], to_attr="last_builds"))


def cards(companies: Iterable[Company], *, viewer: Viewer) -> list[Card]:
    """Return a card for each company. Most indexes are opened: ask for no more than a page shows."""
    companies = list(companies)
    today = DailySearches.objects.of_last(1).filter(company__in=companies).order_by()
    searches = dict(today.values_list("company").annotate(Sum("searches")))
    return [_card(company, viewer=viewer, searches_today=searches.get(company.pk, 0)) for company in companies]


def _card(company: Company, *, viewer: Viewer, searches_today: int) -> Card:
    build = next(iter(company.__dict__["last_builds"]), None)
    total, ids, is_damaged = _look_into(company)
    thumbnails = [picture_urls(company, image_id, viewer=viewer).thumbnail_url for image_id in ids]
    return Card(company, build, total, is_damaged, thumbnails if company.active else [], searches_today)


def _look_into(company: Company) -> tuple[int | None, list[str], bool]:
    """Return how many pictures the company's index has, the ids of a few all over it, and if it is damaged."""
    try:
        total = queries.company_info(company).total_images
        is_costly = total > OPENED_FOR_A_CARD or publication.is_elsewhere(company)
        if is_costly and not queries.loaded_names([company]):
            return total, [], False
        index = queries.company_index(company)
        return len(index), [record.id for record in index.spread(PICTURES)], False
    except IndexNotBuilt:
        return None, [], company.generation is not None  # it has one, which is gone
    except (IndexOnItsWay, StoreUnavailable):
        return None, [], False
    except EngineError:
        return None, [], True
