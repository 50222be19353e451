import os
from collections.abc import Callable, Iterable
from typing import Any

from django.conf import settings
from django.core.handlers.wsgi import WSGIRequest
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.utils.http import parse_header_parameters

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "imagesearch.settings")


class _Request(WSGIRequest):
    """All text is UTF-8, whatever charset the client names: Django fails over one that Python has for other things."""

    def _set_content_type_params(self, meta: dict[str, Any]) -> None:
        try:
            self.content_type, self.content_params = parse_header_parameters(meta.get("CONTENT_TYPE", ""))
        except (LookupError, ValueError):
            self.content_type, self.content_params = "", {}


_serve = get_wsgi_application()
_serve.request_class = _Request
call_command("check")  # a wrong setting stops the server here, with the way out, instead of failing requests


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Serve a request; Django takes one whose body comes in chunks, without a length, for one without a body."""
    if "HTTP_TRANSFER_ENCODING" in environ and environ.get("wsgi.input_terminated"):
        environ["CONTENT_LENGTH"] = str(settings.MAX_BODY_BYTES)  # where reading ends, if the body does not before
    return _serve(environ, start_response)
