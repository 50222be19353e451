"""Processes that publish into a store and read from it, each on a machine of its own: they share a database alone."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "imagesearch.settings")
django.setup()  # in the process that is forked

from django.conf import settings  # noqa: E402

from search import publication, stores  # noqa: E402
from search.engine import storage  # noqa: E402
from search.engine.errors import EngineError, PublishRefused  # noqa: E402
from search.engine.storage import remote  # noqa: E402
from tenants.models import Company  # noqa: E402
from tests.engine.storage.test_processes import publish_generation, require_one_generation  # noqa: E402
from tests.support.object_store import KEYS  # noqa: E402
from tests.support.processes import database  # noqa: E402

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([__name__])

Publish = Callable[..., str]


@dataclass(frozen=True, slots=True)
class Installation:
    database_url: str
    store: str
    endpoint: str
    directory: Path  # of the machines' directories


@contextmanager
def machine(installation: Installation, name: str) -> Iterator[None]:
    """Make this process one of a machine of its own."""
    os.environ.update(KEYS)
    settings.STORE, settings.STORE_ENDPOINT = installation.store, installation.endpoint
    settings.INDEX_DIR = settings.REPLICA_DIR = installation.directory / name / "replica"
    settings.CACHE_DIR = installation.directory / name / "cache"
    settings.INDEX_DIR.mkdir(parents=True, exist_ok=True)
    before, publication._MACHINES_LAG = publication._MACHINES_LAG, timedelta(seconds=2)  # they go while the test runs
    try:
        with database(installation.database_url):
            yield
    finally:
        publication._MACHINES_LAG = before


def start(target: Callable[..., None], *arguments: Any) -> tuple[BaseProcess, Connection]:
    """Start a process that runs target, which is given a connection as well, and has said that it is ready."""
    here, there = _processes.Pipe()
    process = _processes.Process(target=target, args=(*arguments, there), daemon=True)
    process.start()
    assert here.poll(60)
    assert here.recv() == "ready"
    return process, here


def publish_once(number: int, publish: Publish = publication.publish) -> None:
    """Publish the generation of this number, unless another publisher is quicker."""
    company = Company.objects.get()
    begun = partial(publish, company, made_from=company.generation)
    with suppress(PublishRefused):
        publish_generation(company.embeddings_directory, number, publish=begun)


def publish_before_the_upload(company: Company, draft: storage.Draft, *, made_from: str | None) -> str:
    """Do what no publisher may: have the row name a generation that is not there yet."""
    store = stores.of(company)
    assert store is not None
    name = storage.next_name(company.embeddings_directory, filter(None, [made_from]))
    if not Company.objects.filter(pk=company.pk).switch_generation(made_from, name):
        raise PublishRefused("another was quicker")
    remote.upload(store, draft.path, name)
    return name


def publish_on(installation: Installation, name: str, first: int, publish: Publish, ready: Connection) -> None:
    """Publish one generation after the other until somebody kills the process."""
    with machine(installation, name):
        ready.send("ready")
        number = first
        while True:
            publish_once(number, publish)
            number += 1


def publish_when_told(installation: Installation, name: str, number: int, line: Connection) -> None:
    """Begin with the index that serves when the process starts, and publish when the others do."""
    with machine(installation, name):
        company = Company.objects.get()

        def publish(draft: storage.Draft) -> str:
            line.send("ready")
            line.recv()
            return publication.publish(company, draft, made_from=company.generation)

        try:
            publish_generation(company.embeddings_directory, number, publish=publish)
            line.send(company.generation)
        except PublishRefused:
            line.send(None)


def read_on(installation: Installation, name: str, line: Connection) -> None:
    """Search in what serves until told to stop, and say then which generations were read and what was wrong."""
    seen, wrong = set[int](), list[str]()
    with machine(installation, name):
        line.send("ready")
        while not line.poll():
            company = Company.objects.get()
            try:
                seen.add(require_one_generation(publication.built_index(company)))
            except (EngineError, AssertionError) as error:
                wrong.append(repr(error))
            if _is_gone(company.generation):
                wrong.append(f"the row names {company.generation}, which is not in the store")
    line.send((seen, wrong))


def _is_gone(name: str | None) -> bool:
    """Return whether the row names a generation that is not there: one that was pruned is no longer named."""
    company = Company.objects.get()
    store = stores.of(company)
    assert store is not None
    assert name
    return not remote.exists(store, name) and Company.objects.get().generation == name
