"""A search as a line for a shell, to be repeated by a program."""

import shlex
from collections.abc import Mapping
from urllib.parse import urlencode

_KEY = " -H 'X-API-Key: YOUR-KEY'"


def search_command(url: str, *, image_name: str, parameters: Mapping[str, str], needs_key: bool) -> str:
    """Return the curl command of a search with an uploaded picture. url: the API's, of the company."""
    name = image_name.replace("\\", "\\\\").replace('"', '\\"')
    image = f'image=@"{name}"'  # quoted for curl, which splits names at commas and semicolons
    fields = [f"{key}={value}" for key, value in parameters.items()]
    # --form-string: a folder that begins with @ is no file to be sent.
    parts = [f"-F {shlex.quote(image)}", *(f"--form-string {shlex.quote(field)}" for field in fields)]
    return _lines(_curl(needs_key), *parts, shlex.quote(url))


def similar_command(url: str, *, parameters: Mapping[str, str], needs_key: bool) -> str:
    """Return the curl command of a search with a picture of the company. url: the API's, of that picture."""
    address = f"{url}?{urlencode(parameters, safe=',')}"
    return _lines(_curl(needs_key), shlex.quote(address))


def _curl(needs_key: bool) -> str:
    return f"curl{_KEY}" if needs_key else "curl"


def _lines(*parts: str) -> str:
    return " \\\n  ".join(parts)
