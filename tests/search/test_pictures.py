"""Pictures put and deleted by several threads at once, on a real database and a real disk."""

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from django.db import connections
from PIL import Image

from search.engine.pictures.folder import find_images
from search.overlay import live_index
from search.pictures import Put, delete_image, put_image
from search.tasks import carry_out_build
from tenants.audit import on_command_line
from tenants.models import Company, LiveChange
from tests.conftest import paint, picture
from tests.support.databases import on_sqlite
from tests.support.fakes import GREEN, RED, FakeEmbedder
from tests.support.processes import Site

THREADS = 4


def at_once(*jobs: Callable[[], object]) -> list[object]:
    """Return what the jobs return, each begun by a thread of its own when all threads are ready."""
    barrier = threading.Barrier(len(jobs))

    def carry_out(job: Callable[[], object]) -> object:
        barrier.wait()
        try:
            return job()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(jobs)) as threads:
        return [each.result() for each in [threads.submit(carry_out, job) for job in jobs]]


def put(path: str, colour: tuple[int, int, int] = GREEN) -> Put:
    return put_image(Company.objects.get(), path, picture(colour).getvalue(), by=on_command_line())[1]


def stored(company: Company) -> set[str]:
    return {found.path for found in find_images(company.image_directory)}


def company_of(site: Site) -> Company:
    """Return a company with an index of one picture."""
    company = Company.objects.create(name="acme")
    paint(company.image_directory / "built.png", RED)
    carry_out_build.func(company.queue_build().pk)
    return company


def found() -> set[str]:
    return {record.path for record in live_index(Company.objects.get()).page(0, 999)[0]}


@pytest.mark.slow
@on_sqlite
def test_puts_at_once_do_not_stumble_over_each_other(site: Site, embedder: FakeEmbedder) -> None:
    company = company_of(site)
    leftovers = company.image_directory / ".uploads"  # of killed processes: each put looks through them
    leftovers.mkdir()
    for number in range(200):
        (leftovers / f"{number:032x}").touch()

    def put_many(thread: int) -> list[Put]:
        return [put(f"{thread}/{number}.png") for number in range(30)]

    outcomes = at_once(*(lambda thread=thread: put_many(thread) for thread in range(THREADS)))
    assert outcomes == [[Put.CREATED] * 30] * THREADS
    paths = {f"{thread}/{number}.png" for thread in range(THREADS) for number in range(30)} | {"built.png"}
    assert (stored(company), found()) == (paths, paths)


@pytest.mark.slow
def test_what_is_found_is_what_lies_in_the_folder_whoever_was_last(site: Site, embedder: FakeEmbedder) -> None:
    company = company_of(site)

    def change(thread: int) -> None:
        chance = random.Random(thread)
        for _ in range(25):
            path = chance.choice(["a.png", "New/b.png", "built.png"])
            if chance.random() < 0.6:
                put(path, (chance.randrange(256), chance.randrange(256), 0))
            else:
                delete_image(Company.objects.get(), path, by=on_command_line())

    at_once(*(lambda thread=thread: change(thread) for thread in range(THREADS)))
    assert found() == stored(company)
    index = live_index(Company.objects.get())
    for record in index.page(0, 99)[0]:
        with Image.open(company.image_directory / record.path) as image:
            assert np.allclose(embedder.embed([embedder.prepare(image)])[0], index.find_vector(record.id))
    assert max(LiveChange.objects.values_list("sequence", flat=True)) == Company.objects.get().live_sequence
