"""The companies, for the person who looks after them daily: their list, the page of each, and saving it."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import Prefetch, QuerySet
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString

from search.admin.deletion import Deletion
from search.admin.fragments import CELLS, Fragments, live_cell
from search.admin.site import Assets
from search.admin.uploads import Uploads
from tenants import audit
from tenants.models import Company, IndexBuild, SearchUsage


@admin.register(Company)
class CompanyAdmin(Uploads, Fragments, Deletion):
    list_display = ("name", *CELLS, "searches_today", "active")
    list_per_page = 50
    search_fields = ("name", "notes")
    fields = ("name", "active", "image_folder", "daily_quota", "searches_today", "requires_api_key", "notes")
    actions = ("reindex", "rebuild", "roll_back")

    Media = Assets

    def get_readonly_fields(self, request: HttpRequest, obj: Company | None = None) -> tuple[str, ...]:
        return ("name", "searches_today") if obj else ("searches_today",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Company]:
        last_build = Prefetch("builds", queryset=IndexBuild.objects.all()[:1], to_attr="last_builds")
        usage = Prefetch("search_usage", queryset=SearchUsage.objects.today(), to_attr="usage_today")
        return super().get_queryset(request).prefetch_related(last_build, usage)

    # The list

    @admin.display(description="Status")
    def status(self, company: Company) -> SafeString:
        return live_cell(company, "status")

    @admin.display(description="Pictures")
    def pictures(self, company: Company) -> SafeString:
        return live_cell(company, "pictures")

    @admin.display(description="Last build")
    def last_build(self, company: Company) -> SafeString:
        return live_cell(company, "last_build")

    @admin.display(description="Size on disk")
    def size(self, company: Company) -> SafeString:
        return live_cell(company, "size")

    @admin.display(description="Searches today")
    def searches_today(self, company: Company) -> str:
        if company.daily_quota is None:
            return "no quota"
        used = sum(usage.searches for usage in company.__dict__.get("usage_today", []))
        return f"{used:,} of {company.daily_quota:,}"

    # One company

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        company = self.get_object(request, object_id)
        page = self.page(request, company) if company and self.has_view_permission(request, company) else {}
        return super().change_view(request, object_id, form_url, {**page, **(extra_context or {})})

    def save_model(self, request: HttpRequest, obj: Company, form: ModelForm, change: bool) -> None:
        (obj.change if change else obj.add)(by=audit.in_admin(request), detail=_changes(form))
        if change and "image_folder" in form.changed_data:
            self.message_user(request, f"The image folder of {obj} is another one now: reindex it.", messages.WARNING)


def _changes(form: ModelForm) -> str:
    """Return what the form has changed, for the audit; of the notes only that they were."""
    return ", ".join(name if name == "notes" else f"{name} = {form.cleaned_data[name]!r}" for name in form.changed_data)
