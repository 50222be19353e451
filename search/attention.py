"""What needs attention, in words for people: of companies, and of the installation.

Rows and small files are read, no index is loaded: a handful of queries, however many companies there are.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db.models import OuterRef, Prefetch, Subquery
from django.urls import reverse
from django.utils import timezone

from search import publication, runtime
from search.companies import model_change
from search.companies.consistency import older_index
from search.companies.model_actions import comparison
from search.engine.errors import EngineError, IndexNotBuilt, StoreUnavailable
from search.engine.index.index import IndexInfo
from search.engine.model.weights import BUILTIN
from tenants.models import ApiKey, Company, CompanyQuerySet, IndexBuild, SearchUsage, Watch

NEARLY_FULL = 0.8  # of a quota
EXPIRES_SOON = timedelta(days=14)
LITTLE_SPACE_SHARE = 0.1  # of a disk is free
LITTLE_SPACE_BYTES = 10 * 2**30  # and so much: a tenth of a large disk is plenty


class Kind(StrEnum):
    """The most urgent first."""

    NO_WORKER = "no worker"
    DISK_FILLS = "disk fills"
    INDEX_DAMAGED = "index damaged"
    WEIGHTS_MISSING = "weights missing"
    BUILD_FAILED = "build failed"
    QUOTA_USED_UP = "quota used up"
    QUOTA_NEARLY_USED = "quota nearly used"
    KEY_EXPIRES = "key expires"
    INDEX_ROLLED_BACK = "index rolled back"
    MODEL_WAITS = "new model waits"
    FILES_SKIPPED = "files skipped"
    BUILTIN_WEIGHTS = "built-in weights"

    @property
    def is_urgent(self) -> bool:
        """Whether something does not work, or soon will not."""
        return self in (
            Kind.NO_WORKER,
            Kind.DISK_FILLS,
            Kind.INDEX_DAMAGED,
            Kind.WEIGHTS_MISSING,
            Kind.BUILD_FAILED,
        )


@dataclass(frozen=True, slots=True)
class Concern:
    kind: Kind
    text: str  # one sentence or two, for people
    url: str = ""  # the admin's page that tells more; "" where there is none
    company: Company | None = None  # None: the installation


def for_user(user: Any) -> list[Concern]:
    """Return what a staff user should look at, the most urgent first: no company or key that the user may not view."""
    companies = Company.objects.visible_to(user)
    return [*of_installation(), *of_companies(companies, keys=user.has_perm("tenants.view_apikey"))]


def of_installation() -> list[Concern]:
    return [*_worker(), *_disks()]


def of_companies(companies: CompanyQuerySet, *, keys: bool = True) -> list[Concern]:
    """Return what is the matter with those of the companies that are active, the most urgent first.

    keys: whether their API keys are looked at.
    """
    active = companies.active()
    usage = Prefetch("search_usage", queryset=SearchUsage.objects.today(), to_attr="usage_today")
    found = [*_failed(active), *_skipped(active), *(_expiring(active) if keys else ())]
    for company in active.prefetch_related(usage):
        found += [*_index(company), *_quotas(company)]
    order = list(Kind)
    return sorted(found, key=lambda concern: (order.index(concern.kind), str(concern.company)))


def last_builds(companies: CompanyQuerySet, **conditions: Any) -> list[IndexBuild]:
    """Return each company's last build, of those that meet the conditions."""
    builds = IndexBuild.objects.filter(company=OuterRef("pk"), **conditions)
    last = companies.order_by().annotate(last=Subquery(builds.values("pk")[:1])).values("last")
    return list(IndexBuild.objects.filter(pk__in=last).select_related("company"))


# The installation -----------------------------------------------------------------------------------------------------


def _worker() -> Iterator[Concern]:
    if not Watch.objects.is_worker_silent():
        return
    last = Watch.objects.last_beat()
    silent = f"The build worker has not responded since {last:%-d %b %H:%M} UTC" if last else "No build worker runs"
    yield Concern(Kind.NO_WORKER, f"{silent}: uploads and builds wait until build_worker is started.")


def _disks() -> Iterator[Concern]:
    for what, directory in _directories().items():
        try:
            space = shutil.disk_usage(directory)
        except OSError:
            continue  # not made yet
        if space.free < min(LITTLE_SPACE_SHARE * space.total, LITTLE_SPACE_BYTES):
            free = space.free / 2**30
            text = f"The disk with the {what} fills up: {free:.1f} GB of {space.total / 2**30:.0f} GB are free."
            yield Concern(Kind.DISK_FILLS, text)


def _directories() -> dict[str, Path]:
    """Return one directory of each disk and, in words, all that lies on it. A database server's is not ours to see."""
    directories = {
        "indexes": Path(settings.INDEX_DIR),
        "pictures": Path(settings.MEDIA_ROOT),
        "cache": Path(settings.CACHE_DIR),
    }
    database = settings.DATABASES["default"]
    if database["ENGINE"] == "django.db.backends.sqlite3":
        directories["database"] = Path(str(database["NAME"])).parent
    disks: dict[int, tuple[list[str], Path]] = {}
    for what, directory in directories.items():
        if directory.exists():
            disks.setdefault(directory.stat().st_dev, ([], directory))[0].append(what)
    return {_enumerated(names): directory for names, directory in disks.values()}


def _enumerated(names: list[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


# Companies ------------------------------------------------------------------------------------------------------------


def _failed(companies: CompanyQuerySet) -> Iterator[Concern]:
    for build in last_builds(companies):
        if build.status == IndexBuild.Status.FAILED:
            reason = build.error.strip().partition("\n")[0]
            text = f"The last build of {build.company} failed. {reason}"
            yield Concern(Kind.BUILD_FAILED, text, _page_of(build), build.company)


def _skipped(companies: CompanyQuerySet) -> Iterator[Concern]:
    """A build that only merges live changes looks at no file, and says nothing about those skipped before."""
    for build in last_builds(companies, status=IndexBuild.Status.SUCCEEDED, fold=False):
        if build.images_skipped:
            number = f"{build.images_skipped:,} file{'s' if build.images_skipped > 1 else ''}"
            text = f"{number} of {build.company} could not be indexed."
            yield Concern(Kind.FILES_SKIPPED, text, _page_of(build), build.company)


def _expiring(companies: CompanyQuerySet) -> Iterator[Concern]:
    soon = timezone.now() + EXPIRES_SOON
    for key in ApiKey.objects.usable().filter(company__in=companies, expires__lte=soon).order_by("expires"):
        text = f"The API key {key} of {key.company} expires on {key.expires:%-d %b %H:%M} UTC."
        yield Concern(Kind.KEY_EXPIRES, text, _page_of(key.company), key.company)


def _index(company: Company) -> Iterator[Concern]:
    try:
        info = publication.sound_info(company)
    except IndexNotBuilt as error:
        if company.generation is not None:  # it had one
            yield _of(company, Kind.INDEX_DAMAGED, str(error))
        return
    except StoreUnavailable:
        return  # nobody can tell
    except EngineError as error:
        yield _of(company, Kind.INDEX_DAMAGED, f"The index of {company} is damaged. {error}")
        return
    if older := older_index(company):
        yield _of(company, Kind.INDEX_ROLLED_BACK, f"{older}.")
    yield from _weights(company, info)
    yield from _model(company, info)


def _weights(company: Company, info: IndexInfo) -> Iterator[Concern]:
    if info.weights == BUILTIN:
        text = f"The index of {company} was made with the built-in weights, which find copies and little else."
        yield _of(company, Kind.BUILTIN_WEIGHTS, text)


def _model(company: Company, info: IndexInfo) -> Iterator[Concern]:
    if info.passport and (missing := runtime.missing_weights(info.passport)):
        yield _of(company, Kind.WEIGHTS_MISSING, f"{company} cannot be searched. {missing}.")
    elif company.candidate is not None and (stand := model_change.stand(company)).candidate:
        told = [f"An index of {company} with a new model waits to be used.", *comparison(stand.comparison)]
        yield Concern(Kind.MODEL_WAITS, " ".join(told), reverse("admin:tenants_company_model"), company)


def _quotas(company: Company) -> Iterator[Concern]:
    searches = sum(usage.searches for usage in company.__dict__["usage_today"])
    # What is stored may be unknown until the next upload: counting it would read the whole folder.
    for what, used, most in (
        ("of today's searches", searches, company.daily_quota),
        ("of its pictures", company.stored_pictures, company.max_pictures),
        ("of its bytes of pictures", company.stored_bytes, company.max_bytes),
    ):
        if used is not None and most is not None and used >= NEARLY_FULL * most:
            text = f"{company} has used {100 * used // most} % {what}: {used:,} of {most:,}."
            yield _of(company, Kind.QUOTA_USED_UP if used >= most else Kind.QUOTA_NEARLY_USED, text)


def _of(company: Company, kind: Kind, text: str) -> Concern:
    return Concern(kind, text, _page_of(company), company)


def _page_of(row: Company | IndexBuild) -> str:
    return reverse(f"admin:tenants_{row._meta.model_name}_change", args=[row.pk])
