"""How a company is used: what is counted of its searches. A search writes nothing, see tenants/models/unwritten.py."""

from dataclasses import dataclass
from datetime import date, timedelta
from itertools import accumulate
from typing import Any

from django.db.models import Sum

from search.monitoring.metrics import count_search
from tenants.models import ApiKey, Company, DailySearches, SearchChannel, SearchOutcome
from tenants.models.searches import DailySearchesQuerySet, search_note, today
from tenants.models.unwritten import unwritten


def note_search(
    company: Company,
    *,
    channel: SearchChannel,
    key: ApiKey | None,
    outcome: SearchOutcome,
    seconds: float,
    best_score: float | None = None,
) -> None:
    """Count a search of the company; the process writes it within seconds.

    seconds: from the request to the answer. best_score: of its results, None where it has none.
    """
    prefix = key.prefix if key else ""
    note = search_note(
        company, channel=channel, key_prefix=prefix, outcome=outcome, seconds=seconds, best_score=best_score
    )
    unwritten.note(note)
    count_search(company.name, channel, outcome)


def outcome_of(status: int, best_score: float | None) -> SearchOutcome:
    """Return how a search came out that is answered with this HTTP status."""
    if status >= 500:
        return SearchOutcome.ERROR
    if status >= 400:
        return SearchOutcome.REFUSED
    return SearchOutcome.NOTHING if best_score is None else SearchOutcome.FOUND


@dataclass(frozen=True, slots=True)
class Searches:
    """Searches of one or more days, added up."""

    searches: int = 0  # answered
    without_result: int = 0  # of these
    errors: int = 0
    refused: int = 0
    seconds: float = 0.0
    scores: float = 0.0
    within: tuple[int, ...] = ()  # how many were answered within each of BOUNDS_MS and not within the one before

    @property
    def mean_ms(self) -> float | None:
        """How long a search took on average; None where there is none."""
        return 1000 * self.seconds / self.searches if self.searches else None

    @property
    def p95_ms(self) -> int | None:
        """Within what time, one of BOUNDS_MS, 95 % were answered; None where more took longer, or there is none."""
        bounds = zip(DailySearches.BOUNDS_MS, accumulate(self.within), strict=False)
        return next((bound for bound, answered in bounds if answered and answered >= 0.95 * self.searches), None)

    @property
    def mean_best_score(self) -> float | None:
        """The best result's score, on average of the searches that found something; None where there is none."""
        found = self.searches - self.without_result
        return self.scores / found if found else None


@dataclass(frozen=True, slots=True)
class Usage:
    """How a company was searched on the last days."""

    days: dict[date, Searches]  # each of them, oldest first
    channels: dict[str, Searches]  # those that were used
    keys: dict[str, Searches]  # by prefix, "" for searches without a key
    total: Searches


def usage_of(company: Company, *, days: int) -> Usage:
    """Return how the company was searched on the last so many days, today (UTC) included."""
    rows = DailySearches.objects.filter(company=company).of_last(days)
    by_day = _added_up(rows, "day")
    every_day = [today() - timedelta(days=ago) for ago in reversed(range(days))]
    return Usage(
        days={day: by_day.get(day, Searches()) for day in every_day},
        channels=_added_up(rows, "channel"),
        keys=_added_up(rows, "key_prefix"),
        total=_searches(rows.aggregate(**_SUMS)),
    )


_SUMS = {f"sum_{column}": Sum(column, default=0) for column in DailySearches.SUMS}


def _added_up(rows: DailySearchesQuerySet, by: str) -> dict[Any, Searches]:
    return {group[by]: _searches(group) for group in rows.values(by).annotate(**_SUMS).order_by(by)}


def _searches(sums: dict[str, Any]) -> Searches:
    within = tuple(sums[f"sum_{column}"] for column in DailySearches.WITHIN)
    others = {column: sums[f"sum_{column}"] for column in DailySearches.SUMS if column not in DailySearches.WITHIN}
    return Searches(**others, within=within)
