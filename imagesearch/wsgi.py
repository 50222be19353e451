import os
from typing import Any

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


application = get_wsgi_application()
from search.secret_key import require_common_secret_key  # noqa: E402, it needs the apps

application.request_class = _Request
call_command("check")  # a wrong setting stops the server here, with the way out, instead of failing requests
require_common_secret_key()
