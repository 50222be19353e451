"""How long requests wait for a store of indexes or pictures, and what pages say without it."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from search import stores
from search.engine.errors import IndexOnItsWay, StoreError
from search.http.errors import refusal_in_words


class WaitForSeconds:
    """Middleware: a store that hangs keeps the few threads for seconds only, which serve other companies as well."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        with stores.hurrying():
            return self._get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Return what a page that does not know better says; the API has answers of its own."""
        return refusal_in_words(exception) if isinstance(exception, StoreError | IndexOnItsWay) else None
