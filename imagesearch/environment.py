"""How the value of a setting is read from the environment or from .env, and refused.

A value that cannot be read is recorded in ERRORS and its default used instead, so that the system check
`search.E001` can name it and say how to fix it before the server starts.
"""

import os
import re
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import environ

BASE_DIR = Path(__file__).resolve().parent.parent
environ.Env.read_env(BASE_DIR / ".env")

ERRORS: list[str] = []

T = TypeVar("T")


def read(name: str, default: str, parse: Callable[[str], T], wanted: str, *, secret: bool = False) -> T:
    """Return the environment's value of name; one that parse refuses is recorded and replaced by the default.

    secret: the value is not shown in what is recorded.
    """
    try:
        return parse(os.environ.get(name) or default)
    except (ValueError, RuntimeError, environ.ImproperlyConfigured):  # RuntimeError: a ~user nobody is
        shown = re.sub(r"//.*@", "//...@", os.environ[name])  # a database's password does not belong in a log
        ERRORS.append(f"{name} is not {wanted}" if secret else f"{name}={shown!r} is not {wanted}")
        return parse(default)


def boolean(text: str) -> bool:
    if text.lower() not in {"true", "false", "1", "0", "yes", "no", "on", "off"}:
        raise ValueError(text)
    return text.lower() in {"true", "1", "yes", "on"}


def whole_number(lowest: int, highest: int | None = None) -> Callable[[str], int]:
    def parse(text: str) -> int:
        number = int(text)
        if number < lowest or (highest is not None and number > highest):
            raise ValueError(text)
        return number

    return parse


def one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(text)
        return text

    return parse


def comma_separated(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def hosts(text: str) -> list[str]:
    hosts = comma_separated(text)
    if not hosts or not all(re.fullmatch(r"\*|\.?[\w.-]+|\[[\da-fA-F:.]+\]", host) for host in hosts):
        raise ValueError(text)
    return hosts


def listen_address(text: str) -> str:
    """Return the address as it stands before a port: an IPv6 address in brackets."""
    if text == "localhost":
        return text
    address = ip_address(text.removeprefix("[").removesuffix("]"))
    return f"[{address}]" if address.version == 6 else str(address)


def origins(text: str) -> list[str]:
    origins = comma_separated(text)
    if not all(re.fullmatch(r"https?://[^/?#@*\s]+", origin) for origin in origins):
        raise ValueError(text)
    return origins


def path(text: str) -> Path:
    # Under the project, not under whatever directory the process was started in.
    return BASE_DIR / Path(text).expanduser()


def image_roots(text: str) -> tuple[list[Path], list[str]]:
    """Return the directories, and the URLs of folders in an object store."""
    items = comma_separated(text)
    urls = [item for item in items if item.lower().startswith("s3:")]
    return [path(item) for item in items if item not in urls], [store(url) for url in urls]


def disk_bytes(directory: Path) -> int:
    """Return the size of the disk on which a directory lies, or will once it is made."""
    return shutil.disk_usage(existing(directory)).total


def existing(directory: Path) -> Path:
    """Return the directory, or what there is above it."""
    for each in (directory, *directory.parents):
        with suppress(PermissionError):
            if each.is_dir():
                return each
    return Path(directory.anchor)


def store(text: str) -> str:
    """Return the URL of an object store's bucket and prefix without a slash at its end; "" for none."""
    url = text.rstrip("/")
    if url and not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_-][A-Za-z0-9._-]*)*", url):
        raise ValueError(text)
    return url


def endpoint(text: str) -> str:
    url = text.rstrip("/")
    if url and not re.fullmatch(r"https?://[^/?#@*\s]+", url):
        raise ValueError(text)
    return url


def database(text: str) -> dict[str, Any]:
    if urlsplit(text).scheme not in {"sqlite", "postgres", "postgresql"}:
        raise ValueError(text)
    database: dict[str, Any] = dict(environ.Env.db_url_config(text))
    if database["NAME"] in {"", ":memory:"}:  # the server and the worker are processes of their own
        raise ValueError(text)
    if database["ENGINE"] == "django.db.backends.sqlite3":
        database["NAME"] = str(path(database["NAME"]))
    return database


def token(text: str) -> str:
    if not re.fullmatch(r"|[!-~]{16,}", text):
        raise ValueError
    return text


def password(text: str) -> str:
    if not re.fullmatch(r"[!-~]*", text):
        raise ValueError
    return text


def cache(text: str) -> dict[str, Any]:
    parts = urlsplit(text)
    # Those whose counting is atomic; files and the database read a counter and write it back.
    if parts.scheme not in {"locmemcache", "redis", "rediss"}:
        raise ValueError(text)
    if parts.scheme == "locmemcache":
        # Counters are small, and throwing them away would let their owners begin anew.
        return {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "OPTIONS": {"MAX_ENTRIES": 100_000}}
    if not parts.hostname or parts.port == 0:  # port raises ValueError itself when it is no number
        raise ValueError(text)
    configured: dict[str, Any] = dict(environ.Env.cache_url_config(text))
    timeouts = {"socket_connect_timeout": 1, "socket_timeout": 1}  # seconds that a request waits at most
    return {**configured, "OPTIONS": {**timeouts, **configured.get("OPTIONS", {})}}


def mail(text: str) -> dict[str, Any]:
    """Return Django's settings of the server that mails are sent through, or of the directory they are written to."""
    parts = urlsplit(text)
    if parts.scheme not in {"smtp", "smtp+tls", "smtp+ssl", "filemail"}:
        raise ValueError(text)
    server: dict[str, Any] = dict(environ.Env.email_url_config(text))
    if parts.scheme != "filemail" and (not parts.hostname or parts.port == 0):
        raise ValueError(text)
    return {
        "EMAIL_BACKEND": server["EMAIL_BACKEND"],
        "EMAIL_HOST": server["EMAIL_HOST"] or "",
        "EMAIL_PORT": server["EMAIL_PORT"] or {"smtp+tls": 587, "smtp+ssl": 465}.get(parts.scheme, 25),
        "EMAIL_HOST_USER": server["EMAIL_HOST_USER"] or "",
        "EMAIL_HOST_PASSWORD": server["EMAIL_HOST_PASSWORD"] or "",
        "EMAIL_USE_TLS": parts.scheme == "smtp+tls",
        "EMAIL_USE_SSL": parts.scheme == "smtp+ssl",
        "EMAIL_FILE_PATH": server["EMAIL_FILE_PATH"] or None,
    }


def addresses(text: str) -> list[str]:
    found = comma_separated(text)
    if not all(re.fullmatch(r"[^@\s<>,]+@[\w.-]+", address) for address in found):
        raise ValueError(text)
    return found


def address(text: str) -> str:
    (found,) = addresses(text)
    return found


_RATE_UNITS = {"s": 1, "min": 60, "hour": 3600, "day": 86400}  # seconds


def rate(text: str) -> tuple[int, int] | None:
    """Return a number and its seconds: 120/min is (120, 60); None where there is no limit."""
    if text in {"", "off"}:
        return None
    number, _, unit = text.partition("/")
    if unit not in _RATE_UNITS:
        raise ValueError(text)
    return whole_number(1)(number), _RATE_UNITS[unit]


def weights(text: str) -> str:
    return str(path(text)) if path(text).is_file() else text


def user_cache() -> str:
    """Return where programs keep what they can make or download again."""
    return str(environ.Env().str("XDG_CACHE_HOME", "") or "~/.cache")


def secret_key() -> str:
    """Return SECRET_KEY; one that is not given is made once and kept in .secret_key, readable by its owner alone."""
    if given := os.environ.get("SECRET_KEY"):
        return given
    kept = BASE_DIR / ".secret_key"
    try:
        return _kept_secret(kept)
    except OSError as error:
        ERRORS.append(f"SECRET_KEY is not set, and none can be stored in {kept} ({error.strerror})")
        return secrets.token_urlsafe(64)


def _kept_secret(kept: Path) -> str:
    fresh = kept.with_name(f".secret_key.{os.getpid()}")
    if not kept.exists():
        fresh.touch(mode=0o600)
        fresh.write_text(secrets.token_urlsafe(64))
        try:
            kept.hardlink_to(fresh)  # refused where another process was first: its key is everybody's
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return kept.read_text()
