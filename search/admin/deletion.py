"""Deleting companies, and the files of one where that is asked for."""

from collections.abc import Sequence
from typing import Any

from django.contrib import admin, messages
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse

from search.admin.overview import overview
from search.companies import removal
from search.engine.errors import EngineError
from tenants import audit
from tenants.models import ApiKey, Company, IndexBuild, LiveChange, SkippedImage


class Deletion(admin.ModelAdmin):
    def get_deleted_objects(
        self, objs: Sequence[Any] | QuerySet[Any], request: HttpRequest
    ) -> tuple[list[Any], dict[str, int], set[str], list[str]]:
        """Count what goes with the companies: a list of a million skipped files helps nobody."""
        counts = {
            str(queryset.model._meta.verbose_name_plural): queryset.count()
            for queryset in (
                IndexBuild.objects.filter(company__in=objs),
                SkippedImage.objects.filter(build__company__in=objs),
                LiveChange.objects.filter(company__in=objs),
                ApiKey.objects.filter(company__in=objs),
            )
        }
        return [f"Company: {company}" for company in objs], {"companies": len(objs), **counts}, set(), []

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        company = self.get_object(request, object_id)
        choices = _removal_choices(company) if company and self.has_delete_permission(request, company) else {}
        return super().delete_view(request, object_id, {**choices, **(extra_context or {})})

    def delete_model(self, request: HttpRequest, obj: Company) -> None:
        obj.remove(by=audit.in_admin(request))
        transaction.on_commit(lambda: self._remove_files(request, obj))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Company]) -> None:
        companies = list(queryset)
        with transaction.atomic():
            for company in companies:
                company.remove(by=audit.in_admin(request))
        kept = f"The indexes and pictures were kept on disk: {', '.join(company.name for company in companies)}."
        self.message_user(request, kept, messages.WARNING)

    def _remove_files(self, request: HttpRequest, company: Company) -> None:
        chosen = {"index": removal.remove_index, "pictures": removal.remove_pictures}
        for what, remove in chosen.items():
            if request.POST.get(f"remove_{what}") != "1":
                self.message_user(request, f"The {what} of {company} stayed on disk.", messages.INFO)
                continue
            try:
                remove(company, by=audit.in_admin(request))
            except (removal.RemovalRefused, EngineError, OSError) as error:
                self.message_user(request, f"The {what} of {company} stayed on disk. {error}", messages.ERROR)
            else:
                self.message_user(request, f"The {what} of {company}: removed from disk.", messages.SUCCESS)


def _removal_choices(company: Company) -> dict[str, Any]:
    """Return what the delete page says of the company's files: where they are, or why they stay."""
    choices: dict[str, Any] = {"company": company, "overview": overview(company)}
    for what, find in (("index", removal.index_directory), ("pictures", removal.pictures_directory)):
        try:
            choices[f"{what}_directory"] = find(company)
        except removal.RemovalRefused as error:
            choices[f"{what}_stays"] = str(error)
    return choices
