"""A read-only machine refuses every request that would change something, before anything of it is read.

What it answers is listed here, so that whatever is added elsewhere is refused too: what reads by its method, searches,
and logging in and out, which write a session and nothing else.
"""

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import Resolver404, ResolverMatch, resolve

from search.http.counted import CountedSearchView
from search.http.errors import refusal
from tenants.read_only import ReadOnly

_WRITING_METHODS = {"PUT", "PATCH", "DELETE"}  # nothing that reads has one of these
_READING_METHODS = {"GET", "HEAD", "OPTIONS"}
_SESSIONS = {"admin:login", "admin:logout"}
_FORMS = {"admin:password_change"}  # shown to whoever is logged in, and for nothing else than to be posted


class RefuseWrites:
    """Middleware: with IMAGESEARCH_READ_ONLY it stands before all views, and before what reads their bodies."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self._get_response(request)

    def process_view(
        self, request: HttpRequest, view: Callable[..., Any], args: Any, kwargs: Any
    ) -> HttpResponse | None:
        if not settings.READ_ONLY or _only_reads(str(request.method), request.resolver_match):
            return None
        return refusal(request, ReadOnly())


def is_refused(method: str, path: str) -> bool:
    """Tell from a request's head whether RefuseWrites refuses it: the server then waits for no body."""
    if not settings.READ_ONLY or method in _READING_METHODS:  # these come without a body
        return False
    try:
        return not _only_reads(method.upper(), resolve(path))
    except Resolver404:
        return False


def _only_reads(method: str, match: ResolverMatch | None) -> bool:
    if method in _WRITING_METHODS or match is None or match.view_name in _FORMS:
        return False
    return (
        method in _READING_METHODS
        or issubclass(getattr(match.func, "cls", object), CountedSearchView)
        or match.view_name in _SESSIONS
    )
