import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from imagesearch.environment import existing
from search.engine.model.names import NAMES

SETTINGS = "settings"  # the tag of what an operator can set wrong


@register(SETTINGS)
def environment_is_readable(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    return [
        Error(
            problem,
            hint=f"Correct or remove it; {settings.BASE_DIR / '.env.example'} lists every setting.",
            id="search.E001",
        )
        for problem in settings.ENVIRONMENT_ERRORS
    ]


@register(Tags.security, deploy=True)
def searching_takes_a_key(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    if settings.API_KEYS == "required":
        return []
    return [
        Warning(
            "IMAGESEARCH_API_KEYS is off: anyone who can reach the API can search every company that requires no key.",
            hint="Create keys with `manage.py create_api_key` and set IMAGESEARCH_API_KEYS=required.",
            id="search.W001",
        )
    ]


@register(SETTINGS)
def weights_exist(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    if settings.WEIGHTS in NAMES or Path(settings.WEIGHTS).is_file():
        return []
    return [
        Error(
            f"IMAGESEARCH_WEIGHTS={settings.WEIGHTS!r} is neither a file nor one of {', '.join(NAMES)}.",
            hint="Give the path of a mobilenet_v3_large state_dict, or one of these names.",
            id="search.E002",
        )
    ]


@register(SETTINGS)
def secrets_are_private(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    return [
        Warning(
            f"{file} can be read by other users of this machine: it holds password hashes, sessions or keys.",
            hint=f"Run `chmod 600 {file}`. What the service makes itself is its owner's alone.",
            id="search.W002",
        )
        for file in _secret_files()
        if file.is_file() and file.stat().st_mode & 0o077
    ]


def _secret_files() -> list[Path]:
    files = [settings.BASE_DIR / ".secret_key", settings.BASE_DIR / ".env"]
    database = settings.DATABASES["default"]
    if database["ENGINE"] == "django.db.backends.sqlite3":
        files += [Path(f"{database['NAME']}{ending}") for ending in ("", "-wal", "-shm")]
    return files


@register(SETTINGS)
def directories_are_writable(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    directories = {}
    if settings.STORE:
        directories["IMAGESEARCH_REPLICA_DIR"] = existing(settings.REPLICA_DIR)  # it is made with the first copy
    elif not settings.READ_ONLY:
        directories["IMAGESEARCH_EMBEDDINGS_DIR"] = settings.EMBEDDINGS_DIR
    if not settings.READ_ONLY:
        directories["IMAGESEARCH_MEDIA_DIR"] = settings.MEDIA_ROOT
    database = settings.DATABASES["default"]
    if database["ENGINE"] == "django.db.backends.sqlite3":
        directories["DATABASE_URL"] = Path(str(database["NAME"])).parent  # SQLite keeps its log next to the file
    return [
        Error(
            f"{name}: {directory} is not a directory that this process can write to.",
            hint=f"Run `mkdir -p {directory}`, make it writable for this user, or set another one in {name}.",
            id="search.E003",
        )
        for name, directory in directories.items()
        if not (directory.is_dir() and os.access(directory, os.W_OK))
    ]


@register(SETTINGS)
def image_roots_exist(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    return [
        Error(
            f"IMAGESEARCH_IMAGE_ROOTS: {root} is not a directory.",
            hint=f"Run `mkdir -p {root}`, mount it, or remove it from IMAGESEARCH_IMAGE_ROOTS.",
            id="search.E004",
        )
        for root in settings.IMAGE_ROOTS
        if not (settings.READ_ONLY or root.is_dir())
    ]


@register(SETTINGS)
def stores_can_be_used(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    if not settings.IMAGE_STORES or find_spec("obstore"):
        return []
    return [
        Error(
            f"IMAGESEARCH_IMAGE_ROOTS: {settings.IMAGE_STORES[0]} needs the package obstore.",
            hint="Run `pip install -r requirements-scale.txt`, or remove it from IMAGESEARCH_IMAGE_ROOTS.",
            id="search.E004",
        )
    ]
