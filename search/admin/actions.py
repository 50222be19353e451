"""What is done to an index from the list and from the company's page: reindex, cancel, roll back."""

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.views.decorators.http import require_POST

from search.admin.access import CompanyAccess, to_page
from search.companies.consistency import older_index
from search.companies.rollback import now_uses, roll_back
from search.engine.errors import EngineError
from tenants import audit
from tenants.models import Company, IndexBuild


class IndexActions(CompanyAccess):
    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("<int:pk>/reindex/", view(require_POST(self.reindex_view)), name="tenants_company_reindex"),
            path("<int:pk>/cancel/", view(require_POST(self.cancel_view)), name="tenants_company_cancel"),
            path("<int:pk>/roll-back/", view(require_POST(self.roll_back_view)), name="tenants_company_roll_back"),
            *super().get_urls(),
        ]

    @admin.action(description="Reindex changed", permissions=["reindex"])
    def reindex(self, request: HttpRequest, companies: QuerySet[Company]) -> None:
        for company in companies:
            self._queue_build(request, company, full=False)

    @admin.action(description="Rebuild everything", permissions=["reindex"])
    def rebuild(self, request: HttpRequest, companies: QuerySet[Company]) -> None:
        for company in companies:
            self._queue_build(request, company, full=True)

    @admin.action(description="Roll back to the previous index", permissions=["reindex"])
    def roll_back(self, request: HttpRequest, companies: QuerySet[Company]) -> HttpResponse | None:
        if request.POST.get("confirmed") == "1":
            for company in companies:
                self._roll_back(request, company, None)
            return None
        context = {
            **self.admin_site.each_context(request),
            "title": "Roll back to the previous index?",
            "opts": self.opts,
            "companies": companies,
            "action_checkbox_name": ACTION_CHECKBOX_NAME,
        }
        return TemplateResponse(request, "admin/tenants/company/roll_back_confirmation.html", context)

    def reindex_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        company = self.reindexable(request, pk)
        self._queue_build(request, company, full=request.POST.get("full") == "1")
        return to_page(company)

    def cancel_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        company = self.reindexable(request, pk)
        build = company.builds.active().first()
        if build and build.cancel(by=audit.in_admin(request)):
            self.log_change(request, company, f"Cancelled build {build.pk}.")
            following = ", including its follow-up" if build.follow_up else ""
            self.message_user(request, f"Build {build.pk} of {company} was cancelled{following}.", messages.SUCCESS)
        else:
            self.message_user(request, f"No build of {company} is queued or running.", messages.WARNING)
        return to_page(company)

    def roll_back_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        company = self.reindexable(request, pk)
        self._roll_back(request, company, request.POST.get("generation", ""))
        return to_page(company)

    def _roll_back(self, request: HttpRequest, company: Company, generation: str | None) -> None:
        """Roll back, cancelling an active build, which the pages ask to confirm; say how it went."""
        try:
            index = roll_back(company, generation, cancel_build=True, by=audit.in_admin(request))
        except (EngineError, OSError) as error:
            self.message_user(request, f"The index of {company} was not rolled back. {error}", messages.ERROR)
            return
        self.log_change(request, company, f"Rolled the index back to {index.name}.")
        lasts = ", until the next upload or build replaces it" if older_index(company) else ", the newest one"
        text = f"{now_uses(company, index)}{lasts}."
        self.message_user(request, text, messages.SUCCESS)

    def _queue_build(self, request: HttpRequest, company: Company, *, full: bool) -> None:
        before = company.builds.active().first()
        build = company.queue_build(full=full, by=audit.in_admin(request))
        self.tell_of_build(request, build, before=before)

    def tell_of_build(self, request: HttpRequest, build: IndexBuild, *, before: IndexBuild | None) -> None:
        """Say that a build is queued, or that the one active before does what was asked, or another one after it."""
        company = build.company
        if before is None or before.pk != build.pk:
            self.log_change(request, company, f"Queued build {build.pk}: {build.description}.")
            text, level = f"Build {build.pk} of {company} is queued: {build.description}.", messages.SUCCESS
        elif build.status == IndexBuild.Status.QUEUED:
            text = f"Build {build.pk} of {company} was already queued and now covers this request: {build.description}."
            level = messages.WARNING
        else:
            following = f"another build follows it: {build.follow_up_description}"
            text, level = f"Build {build.pk} of {company} is running; {following}.", messages.SUCCESS
        self.message_user(request, text, level)
