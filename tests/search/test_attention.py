"""What is said to need attention, of companies and of the installation."""

import shutil
from collections import namedtuple
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.db.models.functions import Now
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from search import attention, runtime
from search.attention import Concern, Kind
from search.companies.rollback import roll_back
from search.engine import storage
from search.engine.model.passport import ModelPassport
from tenants.models import Company, Confinement, IndexBuild, SearchUsage, Watch
from tests.conftest import paint
from tests.support.admin import rebuild, running
from tests.support.damage import flip_a_byte
from tests.support.fakes import BLUE, GREEN, RED, FakeEmbedder

MakeCompany = Callable[..., Company]
Usage = namedtuple("Usage", "total used free")
GB = 2**30


def concerns() -> list[Concern]:
    return attention.of_companies(Company.objects.all())


def told() -> list[tuple[Kind, str]]:
    return [(each.kind, each.text) for each in concerns()]


@pytest.fixture
def acme(make_company: MakeCompany) -> Company:
    return make_company("acme", {"a.png": RED, "b.png": BLUE})


def test_a_sound_company_needs_none(acme: Company) -> None:
    assert concerns() == []


def test_a_company_without_an_index_needs_none(db: None) -> None:
    Company.objects.create(name="acme")
    assert concerns() == []


def test_what_is_switched_off_needs_none(acme: Company) -> None:
    running(acme).fail("disk full")
    Company.objects.update(active=False)
    assert concerns() == []


def test_a_failed_build_leads_to_its_page(acme: Company, admin_client: Client) -> None:
    build = running(acme)
    build.fail("The folder is gone\nTraceback ...")
    (concern,) = concerns()
    assert (concern.kind, concern.company) == (Kind.BUILD_FAILED, acme)
    assert concern.text == "The last build of acme failed. The folder is gone"
    assert concern.kind.is_urgent
    assert "The folder is gone" in admin_client.get(concern.url).content.decode()


def test_a_build_that_failed_before_the_last_one_is_over(acme: Company) -> None:
    running(acme).fail("disk full")
    assert told()
    running(acme).succeed()
    assert told() == []


def test_files_that_the_last_build_skipped(acme: Company) -> None:
    running(acme).succeed(images_skipped=1)
    assert told() == [(Kind.FILES_SKIPPED, "1 file of acme could not be indexed.")]
    assert not concerns()[0].kind.is_urgent


def test_a_merge_of_live_changes_makes_no_skipped_file_forgotten(acme: Company) -> None:
    running(acme).succeed(images_skipped=3)
    acme.queue_build(fold=True)
    fold = acme.builds.get(status=IndexBuild.Status.QUEUED)
    assert fold.start()
    fold.succeed()
    assert told() == [(Kind.FILES_SKIPPED, "3 files of acme could not be indexed.")]


def test_a_damaged_index_is_named(acme: Company) -> None:
    flip_a_byte(acme.embeddings_directory / "index_info.json", 20)
    (concern,) = concerns()
    assert concern.kind is Kind.INDEX_DAMAGED
    assert concern.text.startswith("The index of acme is damaged. index_info.json")


def test_an_index_that_is_gone_is_damage(acme: Company) -> None:
    shutil.rmtree(acme.embeddings_directory.resolve())
    (concern,) = concerns()
    assert concern.kind is Kind.INDEX_DAMAGED
    assert "gone from the disk" in concern.text


def test_an_older_index_in_use(acme: Company) -> None:
    paint(acme.image_directory / "c.png", GREEN)
    rebuild(acme)
    assert told() == []
    roll_back(acme)
    ((kind, text),) = told()
    assert kind is Kind.INDEX_ROLLED_BACK
    assert text.startswith("acme uses an older index")
    assert text.endswith("The next upload or build replaces it.")


def test_an_index_of_the_builtin_weights(acme: Company, embedder: FakeEmbedder) -> None:
    embedder.passport = ModelPassport("builtin", "b" * 64)
    acme.queue_build(full=True)
    rebuild(acme)
    assert [kind for kind, _ in told()] == [Kind.BUILTIN_WEIGHTS]


def test_weights_that_are_missing(acme: Company, embedder: FakeEmbedder) -> None:
    runtime.reset()
    runtime.use(FakeEmbedder("e" * 64))
    (concern,) = concerns()
    assert (concern.kind, concern.kind.is_urgent) == (Kind.WEIGHTS_MISSING, True)
    assert concern.text.startswith("acme cannot be searched. The index was made with the weights fake-weights")


def test_a_new_model_that_waits_says_what_changes_and_leads_to_where_it_is_used(
    acme: Company, embedder: FakeEmbedder, admin_client: Client, settings: Any
) -> None:
    settings.MODEL_SWITCH = "manual"
    runtime.use(FakeEmbedder("e" * 64))
    runtime.use_also(embedder)
    rebuild(acme)
    (concern,) = concerns()
    assert (concern.kind, concern.kind.is_urgent) == (Kind.MODEL_WAITS, False)
    assert concern.text.startswith("An index of acme with a new model waits to be used. 100 % of the first ten")
    assert "Use the new model..." in admin_client.get(concern.url).content.decode()


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("daily_quota", "of today's searches: 80 of 100"),
        ("max_pictures", "of its pictures: 80 of 100"),
        ("max_bytes", "of its bytes of pictures: 80 of 100"),
    ],
)
def test_a_quota_that_is_nearly_used(db: None, column: str, words: str) -> None:
    acme = Company.objects.create(name="acme", **{column: 101})
    Company.objects.update(stored_pictures=80, stored_bytes=80)
    SearchUsage.objects.create(company=acme, day=timezone.now().date(), searches=80)
    assert told() == []
    Company.objects.update(**{column: 100})
    assert told() == [(Kind.QUOTA_NEARLY_USED, f"acme has used 80 % {words}.")]
    Company.objects.update(**{column: 80})
    assert [kind for kind, _ in told()] == [Kind.QUOTA_USED_UP]


def test_the_searches_of_yesterday_are_over(db: None) -> None:
    acme = Company.objects.create(name="acme", daily_quota=1)
    SearchUsage.objects.create(company=acme, day=timezone.now().date() - timedelta(days=1), searches=1)
    assert told() == []


def test_keys_that_expire_within_two_weeks(db: None) -> None:
    acme = Company.objects.create(name="acme")
    soon, later = timezone.now() + timedelta(days=13), timezone.now() + timedelta(days=15)
    key, _ = acme.issue_key("shop", expires=soon)
    for name, expires in (("far", later), ("never", None), ("over", timezone.now())):
        acme.issue_key(name, expires=expires)
    acme.issue_key("lost", expires=soon)[0].revoke()
    assert told() == [(Kind.KEY_EXPIRES, f"The API key {key} of acme expires on {soon:%-d %b %H:%M} UTC.")]
    assert attention.of_companies(Company.objects.all(), keys=False) == []


def test_only_the_companies_asked_for_are_told_of_and_the_most_urgent_come_first(db: None) -> None:
    for name in ("acme", "beta", "globex"):
        running(Company.objects.create(name=name)).fail("disk full")
    Company.objects.update(max_pictures=1, stored_pictures=1)
    found = attention.of_companies(Company.objects.exclude(name="globex"))
    assert [(each.kind, str(each.company)) for each in found] == [
        (Kind.BUILD_FAILED, "acme"),
        (Kind.BUILD_FAILED, "beta"),
        (Kind.QUOTA_USED_UP, "acme"),
        (Kind.QUOTA_USED_UP, "beta"),
    ]


def test_as_many_questions_for_many_companies_as_for_one(make_company: MakeCompany) -> None:
    def questions() -> int:
        with CaptureQueriesContext(connection) as queries:
            concerns()
        return len(queries)

    make_company("acme", {"a.png": RED})
    for_one = questions()
    for name in ("beta", "globex"):
        running(make_company(name, {"a.png": RED})).fail("disk full")
    assert questions() == for_one


# The installation


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> dict[str, Usage]:
    """A disk with all directories, of this usage."""
    of = {"usage": Usage(100 * GB, 0, 100 * GB)}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: of["usage"])
    return of


def test_no_worker_has_ever_run(db: None, disk: Any) -> None:
    (concern,) = attention.of_installation()
    assert concern.kind is Kind.NO_WORKER
    assert concern.text == "No build worker runs: uploads and builds wait until build_worker is started."


def test_a_worker_that_was_heard_of_a_moment_ago_is_there(db: None, disk: Any, settings: Any) -> None:
    Watch.objects.beat()
    assert attention.of_installation() == []
    Watch.objects.update(beat_at=Now() - timedelta(seconds=settings.BUILD_LEASE_SECONDS + 1))
    (concern,) = attention.of_installation()
    assert concern.text.startswith("The build worker has not responded since ")


def test_a_disk_that_fills(db: None, disk: dict[str, Usage], settings: Any, tmp_path: Path) -> None:
    Watch.objects.beat()
    settings.CACHE_DIR = tmp_path / "not-made-yet"
    disk["usage"] = Usage(100 * GB, 91 * GB, 9 * GB)
    (concern,) = attention.of_installation()
    assert concern.kind is Kind.DISK_FILLS
    assert "indexes, pictures" in concern.text
    assert concern.text.endswith("fills up: 9.0 GB of 100 GB are free.")
    assert str(tmp_path) not in concern.text


def test_a_large_disk_has_room_where_a_small_one_has_none(db: None, disk: dict[str, Usage]) -> None:
    Watch.objects.beat()
    disk["usage"] = Usage(1000 * GB, 980 * GB, 20 * GB)
    assert attention.of_installation() == []


def test_nothing_is_loaded(acme: Company) -> None:
    from search import runtime

    runtime.reset()
    storage.version(acme.embeddings_directory)
    concerns()
    assert not runtime.index_cache().loaded()


# Who is told


def test_staff_are_told_of_the_companies_and_keys_that_they_may_view(db: None) -> None:
    acme, globex = (Company.objects.create(name=name) for name in ("acme", "globex"))
    for company in (acme, globex):
        running(company).fail("disk full")
        company.issue_key("shop", expires=timezone.now() + timedelta(days=1))
    user = User.objects.create_user("vic", is_staff=True)

    def shown() -> list[tuple[str, Kind]]:
        fresh = User.objects.get(pk=user.pk)  # its permissions are read once
        return [(str(each.company), each.kind) for each in attention.for_user(fresh) if each.company]

    assert shown() == []
    user.user_permissions.add(Permission.objects.get(codename="view_company"))
    assert shown() == [("acme", Kind.BUILD_FAILED), ("globex", Kind.BUILD_FAILED)]
    Confinement.objects.create(user=user).companies.set([acme])
    user.user_permissions.add(Permission.objects.get(codename="view_apikey"))
    assert shown() == [("acme", Kind.BUILD_FAILED), ("acme", Kind.KEY_EXPIRES)]
