"""Mails to people: that a company's build has failed, that no worker responds, and that either is over.

A thread of each server process and of each worker looks after that, if there is anybody to tell: no build and no
request waits for a mail. A row gives each look around to one of them, and other rows keep what people were told.
"""

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from smtplib import SMTPException

from django.conf import settings
from django.core.mail import send_mail
from django.db import Error, connection, transaction
from django.urls import reverse

from search import attention
from search.http.server_paths import without_server_paths
from search.monitoring.metrics import MAILS
from tenants.models import Alert, Company, IndexBuild, Watch

logger = logging.getLogger(__name__)

_ROUND = timedelta(seconds=30)
_AFTER_FAILURE = timedelta(minutes=5)
_LONGEST_ERROR = 2000  # letters
_WORKER = "worker"


@dataclass(frozen=True, slots=True)
class Notice:
    """What the caller alone is to tell people of, since it has claimed so."""

    about: str  # the alert's subject
    begins: bool  # or is over
    title: str
    text: str
    company: Company | None = None

    def take_back(self) -> None:
        """Let it be told later: people were not told."""
        if self.begins:
            Alert.objects.end(self.about)
        else:
            Alert.objects.begin(self.about, self.company)


class Lookout:
    """Looks around again and again, on one thread. It knows since when it has done so without a gap."""

    def __init__(self) -> None:
        self._since = self._last = time.time()  # not monotonic: a machine that sleeps makes a gap

    def look(self) -> None:
        """Tell people what they have not been told, if this look around is the caller's. Raises Error."""
        now = time.time()
        if now - self._last > 3 * _ROUND.total_seconds():
            self._since = now
        self._last = now
        if not Watch.objects.claim_round(every=_ROUND):
            return
        with transaction.atomic():  # all are claimed, or none
            notices = list(self._notices())
        if not _tell(notices):
            Watch.objects.put_off(_AFTER_FAILURE)

    def start_anew(self) -> None:
        """Forget what was seen so far: the database was locked or away, also for the workers."""
        self._since = time.time()

    def _notices(self) -> Iterator[Notice]:
        yield from _of_builds()
        yield from _of_worker(watched_seconds=time.time() - self._since)


def look_in_background() -> threading.Event:
    """Have a thread of this process look around, if there is anybody to tell; return what ends that once it is set."""
    over = threading.Event()
    if settings.NOTIFY:
        threading.Thread(target=_look_until, args=(over,), name="lookout", daemon=True).start()
    return over


def _look_until(over: threading.Event) -> None:
    lookout = Lookout()
    while not over.is_set():
        try:
            lookout.look()
        except Error as error:
            logger.debug("The database cannot be asked what people should be told: %s", error)
            lookout.start_anew()
        except Exception:  # of one look around
            logger.exception("Nobody can be told by mail what needs attention")
        finally:
            connection.close()
        over.wait(_ROUND.total_seconds())


def _of_builds() -> Iterator[Notice]:
    """Yield what has become of companies: failed since people were told otherwise, or no longer."""
    told = set(Alert.objects.exclude(company=None).values_list("company", flat=True))
    for build in attention.last_builds(Company.objects.all()):
        company, about = build.company, f"build {build.company_id}"
        if build.status == IndexBuild.Status.FAILED and company.pk not in told:
            if Alert.objects.begin(about, company):
                yield Notice(about, True, f"the build of {company} failed", _failed(build), company)
        elif build.status == IndexBuild.Status.SUCCEEDED and company.pk in told and Alert.objects.end(about):
            text = f"Build {build.pk} of {company} has succeeded; the one before had failed."
            yield Notice(about, False, f"{company} is built again", text, company)


def _failed(build: IndexBuild) -> str:
    error = without_server_paths(build.error, build.image_folder, build.company.image_place).strip()
    shown = error if len(error) <= _LONGEST_ERROR else f"{error[:_LONGEST_ERROR]} ..."
    page = _address(reverse("admin:tenants_indexbuild_change", args=[build.pk]))
    return (
        f"Build {build.pk} of {build.company} has failed:\n\n    {shown}\n\n"
        f"Searches go on with the index from before, if there is one. More is on the build's page in the admin{page}.\n"
        f"The next mail about {build.company} comes when a build of it succeeds."
    )


def _of_worker(*, watched_seconds: float) -> Iterator[Notice]:
    """Yield that no worker responds, or that one does again.

    watched_seconds: for how long this process has been looking on. A worker gets the time of a lease to be heard of
    after a start, or an outage of the database.
    """
    if not Watch.objects.is_worker_silent():
        if Alert.objects.end(_WORKER):
            text = "A build worker responds again: uploads and builds go on."
            yield Notice(_WORKER, False, "a build worker responds again", text)
    elif watched_seconds > settings.BUILD_LEASE_SECONDS and Alert.objects.begin(_WORKER):
        last = Watch.objects.last_beat()
        since = f"since {last:%-d %b %H:%M} UTC" if last else "so far"
        text = (
            f"No build worker has responded {since}: uploads and builds wait. Searches go on. On the server, look for "
            "manage.py build_worker and its log. The next mail about this comes when a worker responds."
        )
        yield Notice(_WORKER, True, "no build worker responds", text)


def _address(path: str) -> str:
    """Return where the page is, if the settings tell by which name people reach the admin."""
    origins = settings.CSRF_TRUSTED_ORIGINS
    return f", {origins[0]}{path}" if origins else ""


def _tell(notices: list[Notice]) -> bool:
    """Send the notices in one mail; return False, after the log was told why, where it could not be sent."""
    if not notices:
        return True
    more = f", and {len(notices) - 1} more" if len(notices) > 1 else ""
    try:
        send_mail(
            f"Image search: {notices[0].title}{more}",
            "\n\n\n".join(notice.text for notice in notices),
            from_email=None,
            recipient_list=settings.NOTIFY,
        )
    except (OSError, SMTPException) as error:
        logger.error("Nobody was told by mail that %s: %s", "; ".join(each.title for each in notices), error)
        MAILS.labels("failed").inc()
        for notice in notices:
            notice.take_back()
        return False
    MAILS.labels("sent").inc()
    return True
