"""A search as a line for a shell, to be repeated by a program."""

import shlex
from urllib.parse import urlencode

_KEY = " -H 'X-API-Key: YOUR-KEY'"


def search_command(
    url: str, *, image_name: str, top_k: int, min_score: float | None, location: str, needs_key: bool
) -> str:
    """Return the curl command of a search with an uploaded picture. url: the API's, of the company."""
    name = image_name.replace("\\", "\\\\").replace('"', '\\"')
    image = f'image=@"{name}"'  # quoted for curl, which splits names at commas and semicolons
    fields = [f"{key}={value}" for key, value in _parameters(top_k, min_score, location).items()]
    # --form-string: a folder that begins with @ is no file to be sent.
    parts = [f"-F {shlex.quote(image)}", *(f"--form-string {shlex.quote(field)}" for field in fields)]
    return _lines(_curl(needs_key), *parts, shlex.quote(url))


def similar_command(url: str, *, top_k: int, min_score: float | None, location: str, needs_key: bool) -> str:
    """Return the curl command of a search with a picture of the company. url: the API's, of that picture."""
    address = f"{url}?{urlencode(_parameters(top_k, min_score, location))}"
    return _lines(_curl(needs_key), shlex.quote(address))


def _curl(needs_key: bool) -> str:
    return f"curl{_KEY}" if needs_key else "curl"


def _parameters(top_k: int, min_score: float | None, location: str) -> dict[str, str]:
    values = {"top_k": top_k, "min_score": min_score, "location": location}
    return {name: str(value) for name, value in values.items() if value not in (None, "")}


def _lines(*parts: str) -> str:
    return " \\\n  ".join(parts)
