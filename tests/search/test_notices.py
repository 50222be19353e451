"""Mails about failed builds and silent workers, by a real mail server on this machine."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections
from django.db.models.functions import Now
from django.test import Client

from search import notices
from search.notices import Lookout
from tenants.models import Alert, Company, IndexBuild, Watch
from tests.conftest import paint
from tests.search.monitoring.test_metrics import TOKEN, scrape
from tests.support.admin import rebuild, running
from tests.support.fakes import RED, FakeEmbedder
from tests.support.processes import Site
from tests.support.smtp import MailServer, mail_server
from tests.support.waiting import eventually


@pytest.fixture
def server(settings: Any) -> Iterator[MailServer]:
    with mail_server() as server:
        use(settings, server.port)
        yield server


def use(settings: Any, port: int) -> None:
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"  # Django's tests keep mails to themselves
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", port
    settings.NOTIFY = ["ops@example.com", "ann@example.com"]


@pytest.fixture
def acme(db: None) -> Company:
    Watch.objects.beat()
    return Company.objects.create(name="acme")


def look(lookout: Lookout | None = None) -> None:
    """Look around as if the last time was long ago."""
    Watch.objects.update(next_round_at=None)
    (lookout or Lookout()).look()


def long_looking() -> Lookout:
    """One that has looked on for an hour."""
    lookout = Lookout()
    lookout._since -= 3600
    return lookout


def subjects(server: MailServer) -> list[str]:
    return [str(mail["Subject"]) for mail in server.mails]


def fail(company: Company, error: str = "disk full") -> IndexBuild:
    build = running(company)
    build.fail(error)
    return build


def succeed(company: Company) -> None:
    running(company).succeed()


def silence(settings: Any) -> None:
    Watch.objects.update(beat_at=Now() - timedelta(seconds=settings.BUILD_LEASE_SECONDS + 1))


# Builds -------------------------------------------------------------------------------------------------------------


def test_a_failed_build_is_told_once_and_so_is_its_end(acme: Company, server: MailServer) -> None:
    build = fail(acme)
    for _ in range(2):
        look()
    (mail,) = server.mails
    assert mail["Subject"] == "Image search: the build of acme failed"
    assert mail["To"] == "ops@example.com, ann@example.com"
    text = mail.get_payload()
    assert f"Build {build.pk} of acme has failed:" in text
    assert "disk full" in text
    fail(acme)
    look()  # still
    assert len(server.mails) == 1
    succeed(acme)
    for _ in range(2):
        look()
    assert subjects(server)[1:] == ["Image search: acme is built again"]
    fail(acme)
    look()
    assert len(server.mails) == 3


def test_a_build_that_is_tried_again_is_not_over(acme: Company, server: MailServer) -> None:
    fail(acme)
    look()
    acme.queue_build()
    look()
    assert len(server.mails) == 1


def test_a_cancelled_build_is_neither(acme: Company, server: MailServer) -> None:
    running(acme).cancel()
    look()
    fail(acme)
    look()
    running(acme).cancel()
    look()
    assert len(server.mails) == 1


def test_what_goes_well_is_not_told(acme: Company, server: MailServer) -> None:
    succeed(acme)
    look()
    assert server.mails == []


def test_many_failures_at_once_are_one_mail(acme: Company, server: MailServer) -> None:
    globex = Company.objects.create(name="globex")
    for company in (acme, globex):
        fail(company)
    look()
    (mail,) = server.mails
    assert str(mail["Subject"]).endswith("failed, and 1 more")
    assert "of acme has failed" in mail.get_payload()
    assert "of globex has failed" in mail.get_payload()


def test_no_path_of_the_server_is_mailed(acme: Company, server: MailServer, settings: Any) -> None:
    fail(acme, f"{settings.MEDIA_ROOT}/acme/a.png cannot be read")
    look()
    (mail,) = server.mails
    assert "a.png cannot be read" in mail.get_payload()
    assert str(settings.MEDIA_ROOT.parent) not in mail.get_payload()


def test_the_mail_leads_to_the_page_where_the_address_is_known(
    acme: Company, server: MailServer, settings: Any, admin_client: Client
) -> None:
    settings.CSRF_TRUSTED_ORIGINS = ["https://search.example.com"]
    build = fail(acme)
    look()
    address = f"https://search.example.com/admin/tenants/indexbuild/{build.pk}/change/"
    assert address in server.mails[0].get_payload().replace("\n", " ")
    assert admin_client.get(address.removeprefix("https://search.example.com")).status_code == 200


def test_a_deleted_company_takes_its_alert_along(acme: Company, server: MailServer) -> None:
    fail(acme)
    look()
    Company.objects.all().delete()
    look()
    assert len(server.mails) == 1
    assert not Alert.objects.exists()


# Workers ------------------------------------------------------------------------------------------------------------


def test_a_silent_worker_is_told_once_and_so_is_its_return(acme: Company, server: MailServer, settings: Any) -> None:
    lookout = long_looking()
    look(lookout)
    assert server.mails == []
    silence(settings)
    for _ in range(2):
        look(lookout)
    assert subjects(server) == ["Image search: no build worker responds"]
    assert "No build worker has responded since" in server.mails[0].get_payload().replace("\n", " ")
    Watch.objects.beat()
    for _ in range(2):
        look(lookout)
    assert subjects(server)[1:] == ["Image search: a build worker responds again"]
    assert server.mails[1].get_payload().startswith("A build worker responds again: uploads and builds go on.")


def test_a_worker_that_never_came_is_silent(db: None, server: MailServer) -> None:
    look(long_looking())
    assert subjects(server) == ["Image search: no build worker responds"]


def test_a_process_that_has_just_begun_gives_the_worker_time(acme: Company, server: MailServer, settings: Any) -> None:
    silence(settings)
    look(Lookout())
    assert server.mails == []


@pytest.mark.parametrize("gap", ["outage", "sleep"])
def test_after_a_gap_the_worker_gets_time_too(acme: Company, server: MailServer, settings: Any, gap: str) -> None:
    lookout = long_looking()
    silence(settings)
    if gap == "outage":
        lookout.start_anew()
    else:
        lookout._last -= 3600
    look(lookout)
    assert server.mails == []


# Who tells, and how -------------------------------------------------------------------------------------------------


def test_one_of_many_processes_tells(site: Site, settings: Any) -> None:
    with mail_server() as server:
        use(settings, server.port)
        Watch.objects.beat()
        fail(Company.objects.create(name="acme"))
        together = threading.Barrier(8)

        def one(_: int) -> None:
            together.wait()
            Lookout().look()
            connections.close_all()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(one, range(8)))
        assert len(server.mails) == 1


def test_nobody_looks_again_before_it_is_time(acme: Company, server: MailServer) -> None:
    look()
    fail(acme)
    Lookout().look()
    assert server.mails == []
    look()
    assert len(server.mails) == 1


def test_where_nobody_is_to_be_told_nobody_looks(settings: Any) -> None:
    settings.NOTIFY = []
    notices.look_in_background()
    assert not threads_of_lookouts()


def test_a_mail_server_that_is_away_is_logged_and_tried_again_later(
    acme: Company, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        use(settings, taken.getsockname()[1])
    fail(acme)
    look()  # nobody listens there any more
    (line,) = [record for record in caplog.records if record.name == "search.notices"]
    assert line.getMessage().startswith("Nobody was told by mail that the build of acme failed: ")
    assert not Alert.objects.exists()
    with mail_server() as server:
        use(settings, server.port)
        Lookout().look()
        assert server.mails == []  # not before some minutes are over
        look()
        assert subjects(server) == ["Image search: the build of acme failed"]


def test_the_end_of_a_failure_is_told_later_too(acme: Company, server: MailServer, settings: Any) -> None:
    fail(acme)
    look()
    succeed(acme)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        use(settings, taken.getsockname()[1])
    look()
    use(settings, server.port)
    look()
    assert subjects(server)[1:] == ["Image search: acme is built again"]


def test_a_mail_server_that_says_nothing_is_given_up(acme: Company, settings: Any) -> None:
    settings.EMAIL_TIMEOUT = 0.2
    with mail_server(silent=True) as server:
        use(settings, server.port)
        fail(acme)
        began = time.monotonic()
        look()
        assert server.asked.is_set()
        assert time.monotonic() - began < 5


def test_no_build_and_no_request_waits_for_a_mail_server_that_says_nothing(
    site: Site, settings: Any, embedder: FakeEmbedder
) -> None:
    settings.EMAIL_TIMEOUT = 60
    acme = Company.objects.create(name="acme")
    fail(acme)
    paint(acme.image_directory / "a.png", RED)
    with mail_server(silent=True) as server:
        use(settings, server.port)
        over = notices.look_in_background()
        try:
            eventually(server.asked.is_set, "somebody is telling")
            rebuild(acme)
            assert Client().get("/api/companies").json()["total"] == 1
            assert threads_of_lookouts()  # and waits
        finally:
            over.set()
    eventually(lambda: not threads_of_lookouts(), "the thread has ended")


def threads_of_lookouts() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "lookout"]


# Beside the mails ---------------------------------------------------------------------------------------------------


def test_metrics_count_what_is_mailed(acme: Company, client: Client, server: MailServer, settings: Any) -> None:
    settings.METRICS_TOKEN = TOKEN

    def told() -> tuple[float, float, float]:
        found = scrape(client)
        names = ("imagesearch_worker_silent", "imagesearch_companies_failed")
        return (*(found.of(name) for name in names), found.of("imagesearch_mails_total", outcome="sent"))  # type: ignore[return-value]

    assert told()[:2] == (0, 0)
    before = told()[2]
    fail(acme)
    silence(settings)
    look()
    assert told() == (1, 1, before + 1)


def test_a_test_mail_can_be_sent(server: MailServer) -> None:
    call_command("sendtestemail", "ann@example.com")
    assert server.mails[0]["To"] == "ann@example.com"
    assert server.mails[0]["From"].startswith("imagesearch@")
