"""Companies with an index that is built once and copied from then on: most tests are not about the build."""

import shutil
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings
from django.test import override_settings
from django.utils import timezone

from tenants.models import AuditEvent, Company, IndexBuild

_PLACES = ("EMBEDDINGS_DIR", "MEDIA_ROOT")


@dataclass(frozen=True, slots=True)
class _Built:
    """What a first build has left: files, read only, and the values of rows."""

    directory: Path
    pictures: tuple[str, ...]
    generation: str
    build: dict[str, Any]
    event: dict[str, Any]

    def copy_files(self) -> None:
        indexes, pictures = (self.directory / place for place in _PLACES)
        shutil.copytree(indexes, settings.EMBEDDINGS_DIR, symlinks=True, dirs_exist_ok=True)
        for name in self.pictures:  # which may lie deeper than copytree reaches
            target = Path(settings.MEDIA_ROOT) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(pictures / name, target)

    def write_rows(self, company: Company) -> None:
        """Write the rows of a build that has just been made, in no time."""
        now = timezone.now()
        Company.objects.filter(pk=company.pk).update(generation=self.generation)
        times = dict.fromkeys(("started_at", "finished_at", "heartbeat_at"), now)
        [build] = IndexBuild.objects.bulk_create(
            [IndexBuild(**self.build | times | {"id": None, "company_id": company.pk})]
        )
        IndexBuild.objects.filter(pk=build.pk).update(queued_at=now)
        detail = self.event["detail"].replace(f"build {self.build['id']}:", f"build {build.pk}:")
        AuditEvent.objects.bulk_create(
            [AuditEvent(**self.event | {"id": None, "company_key": company.pk, "detail": detail})]
        )


class BuiltCompanies:
    """What this process has built, by what was asked for."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._built: dict[Hashable, _Built] = {}

    def build(self, company: Company, pictures: Iterable[str], key: Hashable, build: Callable[[], None]) -> bool:
        """Leave a company that was just made as its first build does, and tell whether that was a copy.

        pictures: their names. key: all that decides what build makes, which is these pictures and the index.
        """
        built = self._built.get(key)
        if built:
            built.write_rows(company)
        else:
            directory = self._directory / str(len(self._built))
            places = {place: directory / place for place in _PLACES}
            with override_settings(**places, INDEX_DIR=places["EMBEDDINGS_DIR"]):
                build()
            self._built[key] = _read(company, pictures, directory)
        self._built[key].copy_files()
        return built is not None


def _read(company: Company, pictures: Iterable[str], directory: Path) -> _Built:
    row = Company.objects.get(pk=company.pk)
    [build] = IndexBuild.objects.filter(company=company).values()
    [event] = AuditEvent.objects.filter(company_key=company.pk).values()
    names = tuple(f"{company.name}/{name}" for name in pictures)
    return _Built(directory, names, str(row.generation), build, event)
