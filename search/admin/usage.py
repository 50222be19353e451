"""The searches of the last days as bars, for a company's page."""

from dataclasses import dataclass
from datetime import date

from search.companies.usage import Searches, Usage, usage_of
from tenants.models import Company

DAYS_SHOWN = 30
HEIGHT = 100  # of the chart, in its own units
BAR_WIDTH, BAR_STEP = 8, 10

_KINDS = ("found", "nothing", "failed")  # from the bottom up; also the classes of the style sheet


@dataclass(frozen=True, slots=True)
class Part:
    """A rectangle of a bar."""

    kind: str
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Bar:
    day: date
    searches: Searches
    asked: int  # all searches, answered or not
    x: int
    parts: list[Part]


@dataclass(frozen=True, slots=True)
class Chart:
    usage: Usage
    bars: list[Bar]
    peak: int  # searches of the highest bar
    width: int = BAR_STEP * DAYS_SHOWN
    height: int = HEIGHT
    bar_width: int = BAR_WIDTH


def usage_chart(company: Company) -> Chart:
    """Return the company's searches of the last DAYS_SHOWN days."""
    usage = usage_of(company, days=DAYS_SHOWN)
    peak = max(map(_asked, usage.days.values()))
    bars = [
        Bar(day, searches, _asked(searches), BAR_STEP * number + (BAR_STEP - BAR_WIDTH) // 2, _parts(searches, peak))
        for number, (day, searches) in enumerate(usage.days.items())
    ]
    return Chart(usage, bars, peak)


def _asked(searches: Searches) -> int:
    return searches.searches + searches.errors + searches.refused


def _parts(searches: Searches, peak: int) -> list[Part]:
    numbers = (
        searches.searches - searches.without_result,
        searches.without_result,
        searches.errors + searches.refused,
    )
    parts, top = [], float(HEIGHT)
    for kind, number in zip(_KINDS, numbers, strict=True):
        if number:
            height = HEIGHT * number / peak
            top -= height
            parts.append(Part(kind, round(top, 2), round(height, 2)))
    return parts
