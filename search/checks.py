import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import DatabaseError

from imagesearch.environment import existing
from search.engine.errors import StoreUnavailable, StoreUnsuitable
from search.engine.model.names import NAMES
from search.engine.objects import open_store

SETTINGS = "settings"  # the tag of what an operator can set wrong
STORES = "stores"  # of what stores are asked, which takes a while: for servers, workers and preparation


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
def packages_are_installed(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Name the settings that need more than requirements.txt: what they need is imported when it is first used."""
    needed = {
        "IMAGESEARCH_STORE": "obstore",
        "IMAGESEARCH_IMAGE_ROOTS": "obstore",
        "IMAGESEARCH_MILVUS_URL": "pymilvus",
    }
    values = (settings.STORE, ", ".join(settings.IMAGE_STORES), settings.MILVUS_URL)
    return [
        Error(
            f"{name}: {value} needs the package {package}.",
            hint=f"Run `pip install -r requirements-scale.txt`, or remove it from {name}.",
            id="search.E006",
        )
        for (name, package), value in zip(needed.items(), values, strict=True)
        if value and not find_spec(package)
    ]


@register(STORES)
def stores_keep_what_others_have_written(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Refuse stores of pictures that overwrite what they are not to; one that is away may be back in a moment."""
    if not find_spec("obstore"):
        return []
    return [*_problems_of_indexes(), *(problem for url in settings.IMAGE_STORES for problem in _problems_of(url))]


def _problems_of_indexes() -> Iterator[CheckMessage]:
    """Yield that the store of the indexes is away. Nothing there is ever overwritten but whole."""
    if settings.STORE:
        with suppress(FileNotFoundError):
            try:
                open_store(settings.STORE, settings.STORE_ENDPOINT).stat(".nothing")
            except StoreUnavailable as error:
                yield _away("IMAGESEARCH_STORE", error)


def _problems_of(url: str) -> Iterator[CheckMessage]:
    if settings.READ_ONLY:  # nothing is written, and perhaps nothing may be
        return
    try:
        open_store(url, settings.STORE_ENDPOINT).require_conditional_writes()
    except StoreUnsuitable as error:
        yield Error(
            f"IMAGESEARCH_IMAGE_ROOTS: {error}.",
            hint="Two who add a picture of one name at a time would lose one of them without a word.",
            id="search.E005",
        )
    except StoreUnavailable as error:
        yield _away("IMAGESEARCH_IMAGE_ROOTS", error)


def _away(setting: str, error: StoreUnavailable) -> CheckMessage:
    hint = "Searches of indexes that this machine has a copy of work without it."
    return Warning(f"{setting}: {error}.", hint=hint, id="search.W003")


@register(Tags.database)
def milvus_is_set(app_configs: Any, databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    if settings.MILVUS_URL or not databases:
        return []
    from tenants.models import Company  # late: settings are checked before there are models

    names: list[str] = []
    with suppress(DatabaseError):  # it is not migrated yet
        names += Company.objects.exclude(engine=Company.Engine.LOCAL).values_list("name", flat=True)[:10]
    return [
        Warning(
            f"{name} needs Milvus, and IMAGESEARCH_MILVUS_URL is not set.",
            hint=f"Set it to the server's address, or run `manage.py move_company {name} --engine local`.",
            id="search.W004",
        )
        for name in names
    ]
