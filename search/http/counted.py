"""Views whose requests are counted as searches, see search/companies/usage.py."""

from time import perf_counter
from typing import Any

from django.http import HttpRequest
from rest_framework.views import APIView

from search.companies.usage import note_search, outcome_of
from search.engine.index.match import Match
from search.http.access import caller_key
from tenants.models import Company, SearchChannel


class CountedSearchView(APIView):
    """Counts each request, however it ends, once it is known whom it searches."""

    channel: SearchChannel
    searched: Company | None = None
    best_score: float | None = None

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        began, status = perf_counter(), 500
        try:
            response = super().dispatch(request, *args, **kwargs)
            status = response.status_code
            return response
        finally:
            self._count(status, seconds=perf_counter() - began)

    def note_best(self, matches: list[Match]) -> None:
        """Note what was found, best first."""
        self.best_score = matches[0].score if matches else None

    def _count(self, status: int, *, seconds: float) -> None:
        if self.searched is None:
            return
        note_search(
            self.searched,
            channel=self.channel,
            key=caller_key(self.request),
            outcome=outcome_of(status, self.best_score),
            seconds=seconds,
            best_score=self.best_score,
        )
