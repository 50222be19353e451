import os
from collections.abc import Callable, Iterable
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "imagesearch.settings")

_serve = get_wsgi_application()
call_command("check")  # a wrong setting stops the server here, with the way out, instead of failing requests


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Serve a request; Django takes one whose body comes in chunks, without a length, for one without a body."""
    if "HTTP_TRANSFER_ENCODING" in environ and environ.get("wsgi.input_terminated"):
        environ["CONTENT_LENGTH"] = str(settings.MAX_BODY_BYTES)  # where reading ends, if the body does not before
    return _serve(environ, start_response)
