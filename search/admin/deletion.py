"""Deleting companies, and the files of one where that is asked for."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from django.contrib import admin, messages
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse

from search.admin.overview import overview
from search.companies import removal
from tenants import audit
from tenants.models import ApiKey, Company, DuplicateSearch, IndexBuild, LiveChange, NotDuplicates, SkippedImage


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
                DuplicateSearch.objects.filter(company__in=objs),
                NotDuplicates.objects.filter(company__in=objs),
                ApiKey.objects.filter(company__in=objs),
            )
        }
        return [f"Company: {company}" for company in objs], {"companies": len(objs), **counts}, set(), []

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        company = self.get_object(request, object_id)
        choices = _removal_choices(company) if company and self.has_delete_permission(request, company) else {}
        title = {"title": f"Delete {company}?"}
        return super().delete_view(request, object_id, {**title, **choices, **(extra_context or {})})

    def delete_model(self, request: HttpRequest, obj: Company) -> None:
        removal.delete_company(
            obj,
            by=audit.in_admin(request),
            remove_index=request.POST.get("remove_index") == "1",
            remove_pictures=request.POST.get("remove_pictures") == "1",
            tell=partial(self._tell, request, obj),
        )

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Company]) -> None:
        companies = list(queryset)
        with transaction.atomic():
            for company in companies:
                removal.delete_company(company, by=audit.in_admin(request), tell=partial(self._warn, request, company))
        names = ", ".join(company.name for company in companies)
        self.message_user(request, f"The indexes and pictures were kept on disk: {names}.", messages.WARNING)

    def _tell(self, request: HttpRequest, company: Company, fate: removal.Fate) -> None:
        if fate.problem:
            self._warn(request, company, fate)
        elif fate.removed:
            self.message_user(request, f"Removed from disk: the {fate.what} of {company}.", messages.SUCCESS)
        else:
            self.message_user(request, f"Kept on disk: the {fate.what} of {company}.", messages.INFO)

    def _warn(self, request: HttpRequest, company: Company, fate: removal.Fate) -> None:
        if fate.problem:
            text = f"Kept on disk: the {fate.what} of {company}. {fate.problem}"
            self.message_user(request, text, messages.ERROR)


def _removal_choices(company: Company) -> dict[str, Any]:
    """Return what the delete page says of the company's files: where they are, what is lost, or why they stay."""
    choices: dict[str, Any] = {"company": company, "overview": overview(company)}
    try:
        choices["index_directory"] = removal.index_directory(company)
        choices["has_index"] = removal.has_index(company)
        choices["lost_with_index"] = removal.lost_with_index(company) if choices["has_index"] else []
    except removal.RemovalRefused as error:
        choices["index_stays"] = str(error)
    try:
        choices["pictures_directory"] = removal.pictures_directory(company)
    except removal.RemovalRefused as error:
        choices["pictures_stays"] = str(error)
    return choices
