"""The parts of pages that their script refreshes: the list's cells and the sections of a company's page."""

from typing import Any

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template.loader import render_to_string
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.safestring import SafeString

from search.admin.access import CompanyAccess
from search.admin.builds import SKIPPED_SHOWN, took
from search.admin.model import model_row
from search.admin.overview import Overview, generations, overview, pictures_found
from search.admin.uploads import upload_limits
from search.engine import storage
from search.templatetags.humane import readable
from tenants.models import Company, IndexBuild, is_confined

CELLS = ("status", "pictures", "last_build", "size")
BUILDS_SHOWN = 20
QUALITIES_SHOWN = 10

_SECTIONS = ("overview", "actions", "quality", "model", "generations", "history", "skipped")


class Fragments(CompanyAccess):
    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("live/", view(self.live_list_view), name="tenants_company_live_list"),
            path("<int:pk>/live/", view(self.live_view), name="tenants_company_live"),
            path("<int:pk>/found/", view(self.found_view), name="tenants_company_found"),
            *super().get_urls(),
        ]

    def live_list_view(self, request: HttpRequest) -> HttpResponse:
        """Answer the list's script: how the companies of the given ids stand."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        texts = request.GET.getlist("id")[: self.list_max_show_all]
        ids = [int(text) for text in texts if text.isdecimal() and len(text) < 19]  # what a database's integer holds
        companies = list(self.get_queryset(request).filter(pk__in=ids))
        return _live_answer(
            [overview(company) for company in companies],
            {f"{company.pk}-{cell}": _cell(company, cell) for company in companies for cell in CELLS},
        )

    def live_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Answer the company page's script: the sections that change while a build runs."""
        company = self.viewed(request, pk)
        page = self.page(request, company)
        return _live_answer(
            [overview(company)],
            {name: render_to_string(f"admin/tenants/company/_{name}.html", page) for name in _SECTIONS},
        )

    def found_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Answer how many pictures are on disk, apart from the page because counting takes a while."""
        return JsonResponse({"text": pictures_found(self.viewed(request, pk))})

    def page(self, request: HttpRequest, company: Company) -> dict[str, Any]:
        """Return what the company's page shows beside its form."""
        listed, problem = generations(company)
        shown = overview(company)
        folded = (shown.info.live_sequence or 0) if shown.info else 0
        skipping = company.builds.filter(images_skipped__gt=0, status=IndexBuild.Status.SUCCEEDED).first()
        return {
            "company": company,
            "overview": shown,
            "folder_problem": company.folder_problem(naming=not is_confined(request.user)),
            "live_changes": company.live_changes.filter(sequence__gt=folded).count(),
            "quality_builds": _measured(company),
            "quality_folders": _folders(shown),
            "model": model_row(company, may_reindex=self.has_reindex_permission(request)),
            "generations": _generation_rows(listed, candidate=company.candidate),
            "generations_problem": problem,
            "builds": [(build, took(build)) for build in company.builds.select_related("requested_by")[:BUILDS_SHOWN]],
            "skipping": skipping,
            "skipped_files": skipping.skipped_files.all()[:SKIPPED_SHOWN] if skipping else [],
            **_keys(request, company),
            "may_change": self.has_change_permission(request, company),
            "may_reindex": self.has_reindex_permission(request),
            "may_view_audit": request.user.has_perm("tenants.view_auditevent"),
            **upload_limits(),
        }


def _measured(company: Company) -> QuerySet[IndexBuild]:
    return company.builds.exclude(neighbours_tried=None)[:QUALITIES_SHOWN]


def _folders(shown: Overview) -> list[tuple[str, int, float]]:
    """Return folders of the index, how many of their pictures were tried, and at how many percent the nearest one lies
    there too; the worst first."""
    by_folder = shown.info.neighbours.folders if shown.info and shown.info.neighbours else {}
    rows = [(readable(name), tried, 100 * own / tried) for name, (tried, own) in by_folder.items()]
    return sorted(rows, key=lambda row: (row[2], row[0]))


def _cell(company: Company, cell: str) -> str:
    return render_to_string(f"admin/tenants/company/_{cell}.html", {"overview": overview(company)})


def live_cell(company: Company, cell: str) -> SafeString:
    """Return a cell of the company's line in the list, one of CELLS, marked for the script."""
    return format_html(
        '<div data-fragment="{0}-{1}" data-company="{0}">{2}</div>', company.pk, cell, _cell(company, cell)
    )


def _live_answer(overviews: list[Overview], fragments: dict[str, str]) -> JsonResponse:
    return JsonResponse(
        {
            "active": [shown.company.pk for shown in overviews if shown.is_active],
            "states": {shown.company.pk: f"{shown.company}: {shown.label}" for shown in overviews},
            "fragments": fragments,
        }
    )


def _keys(request: HttpRequest, company: Company) -> dict[str, Any]:
    user, writes = request.user, not settings.READ_ONLY
    return {
        "may_view_keys": user.has_perm("tenants.view_apikey"),
        "may_make_keys": writes and user.has_perm("tenants.add_apikey"),
        "may_revoke_keys": writes and user.has_perm("tenants.change_apikey"),
        "api_keys": company.api_keys.select_related("created_by"),
    }


def _generation_rows(generations: list[storage.Generation], *, candidate: str | None) -> list[dict[str, Any]]:
    used = next((each.name for each in generations if each.published), "")
    return [
        {
            "name": generation.name,
            "published": generation.published,
            "waits": generation.name == candidate,
            "newer": bool(used) and generation.name > used,
            "made_at": generation.made_at,
            "total_images": generation.info.total_images,
            "weights": generation.info.weights or "not recorded",
        }
        for generation in generations
    ]
