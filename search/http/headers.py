"""Response headers that neither Django nor a library sets."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.utils.cache import patch_vary_headers

_CREDENTIALS = ("Authorization", "X-API-Key")


def permissions_policy(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Middleware: our pages need no camera, microphone or location."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response["Permissions-Policy"] = "camera=(), geolocation=(), microphone=(), payment=(), usb=()"
        return response

    return middleware


def keep_credentials_apart(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Middleware: no cache stores API responses to requests with credentials or serves them to others.

    Pictures say themselves what their caller alone may keep.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        if request.path_info.startswith("/api/"):
            patch_vary_headers(response, _CREDENTIALS)
            if any(header in request.headers for header in _CREDENTIALS):
                response.setdefault("Cache-Control", "no-store")
        return response

    return middleware
