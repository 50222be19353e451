"""A search as a line for a shell, to be repeated by a program."""

import shlex
from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

_KEY = " -H 'X-API-Key: YOUR-KEY'"


def search_command(url: str, *, image_names: Sequence[str], parameters: Mapping[str, str], needs_key: bool) -> str:
    """Return the curl command of a search with uploaded pictures. url: the API's, of the company."""
    images = [f"-F {shlex.quote(_image(name))}" for name in image_names]
    fields = [f"{key}={value}" for key, value in parameters.items()]
    # --form-string: a folder that begins with @ is no file to be sent.
    parts = [*images, *(f"--form-string {shlex.quote(field)}" for field in fields)]
    return _lines(_curl(needs_key), *parts, shlex.quote(url))


def similar_command(url: str, *, parameters: Mapping[str, str | Sequence[str]], needs_key: bool) -> str:
    """Return the curl command of a search with pictures of the company. url: the API's, of the picture or all."""
    address = f"{url}?{urlencode(parameters, doseq=True, safe=',')}"
    return _lines(_curl(needs_key), shlex.quote(address))


def _image(name: str) -> str:
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'image=@"{quoted}"'  # quoted for curl, which splits names at commas and semicolons


def _curl(needs_key: bool) -> str:
    return f"curl{_KEY}" if needs_key else "curl"


def _lines(*parts: str) -> str:
    return " \\\n  ".join(parts)
