"""How a company is searched: what is counted of every search, by day, channel and key."""

from bisect import bisect_left
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import UTC, date, timedelta
from typing import Any

from django.db import connection, models
from django.utils import timezone

DAYS_KEPT = 400


class SearchChannel(models.TextChoices):
    API = "api", "API"
    PAGE = "page", "search page"
    ADMIN = "admin", "admin"


class SearchOutcome(models.TextChoices):
    FOUND = "found"
    NOTHING = "nothing", "found nothing"
    ERROR = "error", "failed here"  # answered with 5xx
    REFUSED = "refused"  # by a quota or a rate, or for what the caller has sent


class DailySearchesQuerySet(models.QuerySet["DailySearches"]):
    def of_last(self, days: int) -> "DailySearchesQuerySet":
        """Those of the last so many days; 1 is today, UTC."""
        return self.filter(day__gt=today() - timedelta(days=days))

    def forget_old(self) -> None:
        """Delete the days that are no longer kept."""
        self.filter(day__lte=today() - timedelta(days=DAYS_KEPT)).delete()


class DailySearches(models.Model):
    """The searches of a company on one day, through one channel, with one key."""

    BOUNDS_MS = (25, 50, 100, 200, 500, 1000, 2000, 5000)  # of the columns `within_...`
    WITHIN = tuple(f"within_{bound}ms" for bound in BOUNDS_MS)
    SUMS = ("searches", "without_result", "errors", "refused", "seconds", "scores", *WITHIN)

    company = models.ForeignKey("tenants.Company", on_delete=models.CASCADE, related_name="daily_searches")
    day = models.DateField(help_text="UTC")
    channel = models.CharField(max_length=5, choices=SearchChannel.choices)
    key_prefix = models.CharField(max_length=12, blank=True, help_text="Empty: without a key.")
    searches = models.PositiveIntegerField(default=0, help_text="Answered.")
    without_result = models.PositiveIntegerField(default=0, help_text="Of those answered.")
    errors = models.PositiveIntegerField(default=0)
    refused = models.PositiveIntegerField(default=0)
    seconds = models.FloatField(default=0.0, help_text="Of all that were answered.")
    scores = models.FloatField(default=0.0, help_text="Sum of the best score of each that found something.")
    # Each that was answered is in one of them, or took longer.
    within_25ms = models.PositiveIntegerField(default=0)
    within_50ms = models.PositiveIntegerField(default=0)
    within_100ms = models.PositiveIntegerField(default=0)
    within_200ms = models.PositiveIntegerField(default=0)
    within_500ms = models.PositiveIntegerField(default=0)
    within_1000ms = models.PositiveIntegerField(default=0)
    within_2000ms = models.PositiveIntegerField(default=0)
    within_5000ms = models.PositiveIntegerField(default=0)

    objects = DailySearchesQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "daily searches"
        constraints = [
            models.UniqueConstraint(fields=["company", "day", "channel", "key_prefix"], name="one_row_of_searches")
        ]

    def __str__(self) -> str:
        return f"{self.company} {self.day} {self.channel} {self.key_prefix}: {self.searches}"


@dataclass(frozen=True, slots=True)
class SearchNote:
    """Searches that are to be added to a row of DailySearches."""

    company: int
    day: date
    channel: str
    key_prefix: str
    sums: dict[str, float]  # what to add, by column

    @property
    def subject(self) -> Hashable:
        return self.company, self.day, self.channel, self.key_prefix

    def added_to(self, earlier: Any) -> "SearchNote":
        sums = dict(earlier.sums)
        for column, number in self.sums.items():
            sums[column] = sums.get(column, 0) + number
        return SearchNote(self.company, self.day, self.channel, self.key_prefix, sums)

    def write(self) -> None:
        """Add to the row in one statement, so that many processes add up exactly; nothing for a deleted company."""
        table, columns = connection.ops.quote_name(DailySearches._meta.db_table), DailySearches.SUMS
        added = ", ".join(f"{column} = {table}.{column} + excluded.{column}" for column in columns)
        with connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO {table} (company_id, day, channel, key_prefix, {', '.join(columns)}) "  # noqa: S608
                f"SELECT id, %s, %s, %s, {', '.join(['%s'] * len(columns))} FROM tenants_company WHERE id = %s "
                f"ON CONFLICT (company_id, day, channel, key_prefix) DO UPDATE SET {added} "
                "RETURNING searches + errors + refused",
                [
                    connection.ops.adapt_datefield_value(self.day),
                    self.channel,
                    self.key_prefix,
                    *(self.sums.get(column, 0) for column in columns),
                    self.company,
                ],
            )
            counted = cursor.fetchone()
        if counted == (sum(self.sums.get(column, 0) for column in ("searches", "errors", "refused")),):  # a new row
            DailySearches.objects.filter(company=self.company).forget_old()


def search_note(
    company: models.Model,
    *,
    channel: SearchChannel,
    key_prefix: str,
    outcome: SearchOutcome,
    seconds: float,
    best_score: float | None,
) -> SearchNote:
    """Return what is to be counted of one search."""
    return SearchNote(company.pk, today(), channel, key_prefix, _sums(outcome, seconds, best_score))


def _sums(outcome: SearchOutcome, seconds: float, best_score: float | None) -> dict[str, float]:
    if outcome is SearchOutcome.ERROR:
        return {"errors": 1}
    if outcome is SearchOutcome.REFUSED:
        return {"refused": 1}
    within = DailySearches.WITHIN[bisect_left(DailySearches.BOUNDS_MS, 1000 * seconds) :][:1]
    found_nothing = {"without_result": 1} if outcome is SearchOutcome.NOTHING else {"scores": best_score or 0.0}
    return {"searches": 1, "seconds": seconds, **found_nothing, **dict.fromkeys(within, 1)}


def today() -> date:
    """Return the day that is counted now, UTC."""
    return timezone.now().astimezone(UTC).date()
