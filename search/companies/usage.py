"""How a company is used: what is counted of its searches. A search writes nothing, see tenants/models/unwritten.py."""

from search.monitoring.metrics import count_search
from tenants.models import ApiKey, Company, SearchChannel, SearchOutcome
from tenants.models.searches import search_note
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
