"""Response headers that neither Django nor a library sets."""

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils.cache import patch_vary_headers

_CREDENTIALS = ("Authorization", "X-API-Key")
_CONTENT = "; ".join(
    [
        "default-src 'self'",
        "img-src 'self' data:",  # the API page's icons
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    ]
)
_NO_PERMISSIONS = "camera=(), geolocation=(), microphone=(), payment=(), usb=()"


def confine_pages(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Middleware: our pages load and run only what is ours, and need no camera, microphone or location."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response["Permissions-Policy"] = _NO_PERMISSIONS
        if not (settings.DEBUG and response.status_code in {404, 500}):  # Django's own pages then, with inline styles
            response.setdefault("Content-Security-Policy", _CONTENT)
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
