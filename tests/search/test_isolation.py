"""No answer ever holds another company's picture, whatever is asked, written, built and evicted at the same time."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import hypothesis
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st

from search import runtime
from search.engine import storage
from search.engine.index.records import image_id
from tenants.models import ApiKey, Company
from tests.conftest import paint, picture
from tests.support.fakes import BLUE, GREEN, RED, FakeEmbedder
from tests.support.processes import Site

COLOURS = [RED, GREEN, BLUE]  # of every company's pictures, so that another's would be as close as one's own
NAMES = ["acme", "globex", "initech", "umbrella", "wayne"]
GUARDED = {"initech", "umbrella", "wayne"}  # require a key
THREADS = 4


@dataclass(frozen=True)
class Step:
    what: str
    company: str
    caller: str | None  # whose key is sent
    number: int


steps = st.builds(
    Step,
    st.sampled_from(
        ["search", "search", "search", "similar", "image", "page", "lists", "put", "delete", "build", "back"]
    ),
    st.sampled_from(NAMES),
    st.none() | st.sampled_from(NAMES),
    st.integers(0, 5),
)


class Town:
    """The companies, their keys, and what a caller sees of them."""

    def __init__(self) -> None:
        self.keys: dict[str, str] = {}
        for name in NAMES:
            company = Company.objects.create(name=name, requires_api_key=name in GUARDED)
            for number, colour in enumerate(COLOURS):
                paint(company.image_directory / f"{name}/{number}.png", colour)
            call_command("build_embeddings", company=name, verbosity=0)
            key = ApiKey(company=company, name="test", can_write=True)
            self.keys[name] = key.draw()
            key.save()

    def carry_out(self, step: Step) -> None:
        """Do one thing and look at what came back."""
        if step.what == "build":
            with suppress(CommandError):  # another thread builds it at the moment
                call_command("build_embeddings", company=step.company, verbosity=0)
        elif step.what == "back":
            with suppress(CommandError):  # there is no earlier index
                call_command("rollback_index", step.company, verbosity=0)
        else:
            self._require_own(step, self._ask(step))

    def _ask(self, step: Step) -> Any:
        headers = {"X-API-Key": self.keys[step.caller]} if step.caller else {}
        client, content = Client(headers=headers), picture(COLOURS[step.number % 3]).getvalue()
        company = step.company
        if step.what == "search":
            return client.post(f"/api/search/{company}", {"image": SimpleUploadedFile("a.png", content)})
        if step.what == "similar":  # also to pictures of the caller's own and of others
            other = NAMES[step.number % len(NAMES)]
            return client.get(f"/api/search/{company}/{image_id(other, f'{other}/{step.number % 3}.png')}")
        if step.what == "put":
            return client.put(f"/api/images/{company}/{company}/{step.number}.png", content, content_type="image/png")
        if step.what == "delete":
            return client.delete(f"/api/images/{company}/{company}/{3 + step.number % 3}.png")  # the first three stay
        if step.what == "image":
            return client.get(f"/api/images/{company}/{NAMES[step.number % len(NAMES)]}/0.png")
        return client.get(f"/api/images/{company}" if step.what == "page" else "/api/companies")

    def _require_own(self, step: Step, answer: Any) -> None:
        assert answer.status_code in (200, 201, 400, 401, 403, 404), (step, answer.content)
        body = answer.json()
        if step.what == "lists":
            seen = {entry["name"] for entry in body["companies"]}
            assert seen <= ({step.caller} if step.caller else set(NAMES) - GUARDED), step
            return
        if step.caller != step.company and (step.caller or step.company in GUARDED or step.what in {"put", "delete"}):
            assert answer.status_code >= 400, (step, body)
        entries = body.get("results", []) + body.get("images", []) + ([body["image"]] if "image" in body else [])
        for entry in entries:
            assert entry["fullPath"].startswith(f"{step.company}/"), (step, body)
            assert entry["id"] == image_id(step.company, entry["fullPath"]), (step, body)
        if answer.status_code == 200 and step.what == "search":
            assert entries, (step, body)  # none of the companies is ever without pictures


@pytest.fixture
def town(site: Site, settings: Any, embedder: FakeEmbedder) -> Town:
    made = Town()
    one = storage.load(Company.objects.get(name="acme").embeddings_directory).nbytes
    settings.CACHE_BYTES = 2 * one  # of five: they drive each other out all the time
    runtime.reset()
    runtime.use(embedder)
    return made


@pytest.mark.fuzz
@hypothesis.settings(
    max_examples=hypothesis.settings.default.max_examples // 8,  # one holds 60 requests and builds
    phases=[Phase.generate],  # what threads do is not repeatable, so that there is nothing to shrink
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.lists(st.lists(steps, min_size=8, max_size=12), min_size=THREADS, max_size=THREADS))
def test_no_answer_holds_another_companys_picture(town: Town, plans: list[list[Step]]) -> None:
    together = threading.Barrier(THREADS)

    def run(plan: list[Step]) -> None:
        try:
            together.wait(30)
            for step in [*plan, *(Step("search", name, name, 0) for name in NAMES)]:
                town.carry_out(step)
        finally:
            connection.close()

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(run, plans))
    assert runtime.index_cache().counts.evictions
