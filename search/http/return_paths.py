"""Where a login leads that came between a form and what it would have done."""

from collections.abc import Callable
from urllib.parse import urlencode, urlsplit

from django.http import HttpRequest, HttpResponse
from django.urls import reverse


def return_to_the_form(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Middleware: who posts a form after the session has ended comes back to its page, not to where it was sent.

    That address answers nothing to a GET.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        if request.method != "POST" or "Location" not in response:
            return response
        login = reverse("admin:login")
        if response["Location"].startswith(f"{login}?"):
            form = urlsplit(request.headers.get("Referer", ""))
            if form.netloc == request.get_host() and form.path.startswith("/"):
                page = form.path + (f"?{form.query}" if form.query else "")
                response["Location"] = f"{login}?{urlencode({'next': page}, safe='/')}"
        return response

    return middleware
