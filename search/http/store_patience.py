"""How long requests wait for the store of the indexes."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from search import stores


def wait_for_seconds(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Middleware: a store that hangs keeps the few threads for seconds only, which serve other companies as well."""

    def middleware(request: HttpRequest) -> HttpResponse:
        with stores.hurrying():
            return get_response(request)

    return middleware
