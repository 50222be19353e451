"""Limits the wrong passwords and API keys that an address may send."""

from collections.abc import Callable
from functools import cache

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from search.http.errors import refusal
from search.http.limits import Rate, RateExceeded, client_address


def limit_wrong_logins(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Middleware: after too many wrong ones, an address gets a 429, for passwords also to the right one.

    A valid API key is still accepted: nobody guesses 256 random bits, but a neighbour behind the same address
    could lock its holder out. Concurrent requests do not wait for each other's outcome.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        if not (settings.RATE_WRONG_LOGINS and _has_login(request)):
            return get_response(request)
        rate = Rate("login", "wrong passwords or API keys from your address", *settings.RATE_WRONG_LOGINS)
        who = client_address(request)
        try:
            if _has_password(request):
                rate.check(who)
            response = get_response(request)
            if _is_refused(request, response):
                rate.count(who)
        except RateExceeded as error:
            return refusal(request, error)
        return response

    return middleware


def _has_login(request: HttpRequest) -> bool:
    return _has_password(request) or (
        request.path_info.startswith("/api/") and bool({"HTTP_AUTHORIZATION", "HTTP_X_API_KEY"} & request.META.keys())
    )


def _has_password(request: HttpRequest) -> bool:
    scheme = request.META.get("HTTP_AUTHORIZATION", "").split()[:1]  # by any white space, as the parser does
    return _is_admin_login(request) or [word.lower() for word in scheme] == ["basic"]


def _is_admin_login(request: HttpRequest) -> bool:
    return request.method == "POST" and request.path_info == _login_path()


@cache
def _login_path() -> str:
    return reverse("admin:login")


def _is_refused(request: HttpRequest, response: HttpResponse) -> bool:
    # The admin shows its form again to a wrong password; a right one is sent on.
    return response.status_code == (200 if _is_admin_login(request) else 401)
