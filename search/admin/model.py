"""The page "Model": which company stands where; rebuilding, switching and going back, for one company or for all."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.views.decorators.http import require_GET, require_POST

from search import runtime
from search.admin.access import CompanyAccess
from search.admin.overview import overview
from search.companies.model_actions import ACTIONS, REBUILD, Action, Standing, State, comparison, for_all, standing
from search.companies.model_change import NoOtherModel
from search.engine.errors import EngineError
from tenants import audit
from tenants.models import Company

COMPANIES_A_PAGE = 50
CELLS = ("serving", "state", "compared", "choices")

_FAILURES_SHOWN = 10
_BADGES = {  # the class of the style sheet
    State.NO_INDEX: "missing",
    State.DAMAGED: "damaged",
    State.WEIGHTS_MISSING: "damaged",
    State.WAITING: "older",
    State.CURRENT: "succeeded",
}


class ModelPages(CompanyAccess):
    """Who may view companies sees how they stand; who may reindex them changes that."""

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        urls = [
            path("model/", view(require_GET(self.model_view)), name="tenants_company_model"),
            path("model/live/", view(require_GET(self.model_live_view)), name="tenants_company_model_live"),
        ]
        for action in ACTIONS:
            of_all, of_one = partial(self._for_all, action=action), partial(self._for_one, action=action)
            urls += [
                path(f"model/{action.name}/", view(require_POST(of_all)), name=f"tenants_company_model_{action.name}"),
                path(
                    f"<int:pk>/model/{action.name}/",
                    view(require_POST(of_one)),
                    name=f"tenants_company_model_{action.name}_one",
                ),
            ]
        return [*urls, *super().get_urls()]

    def model_view(self, request: HttpRequest) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        page = Paginator(self.get_queryset(request), COMPANIES_A_PAGE).get_page(request.GET.get("page"))
        context = {
            "title": "Model",
            "page": page,
            "rows": self._rows(request, page),
            "is_automatic": settings.MODEL_SWITCH == "automatic",
            **self._summary(request),
        }
        return self._model_page(request, "model", context)

    def model_live_view(self, request: HttpRequest) -> HttpResponse:
        """Answer the page's script: how the companies of the given ids stand, and what can be done for all."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        companies = self.get_queryset(request).filter(pk__in=_numbers(request.GET.getlist("id"))[:COMPANIES_A_PAGE])
        rows = self._rows(request, companies)
        fragments = {f"{row['company'].pk}-{cell}": _cell(row, cell) for row in rows for cell in CELLS}
        if not all(row["overview"].is_active for row in rows):  # one has ended; of those that run nothing changes
            fragments["summary"] = render_to_string("admin/tenants/company/_model_summary.html", self._summary(request))
        return JsonResponse(
            {
                "active": [row["company"].pk for row in rows if row["overview"].is_active],
                "states": {row["company"].pk: f"{row['company']}: {row['label']}" for row in rows},
                "fragments": fragments,
            }
        )

    def _rows(self, request: HttpRequest, companies: Iterable[Company]) -> list[dict[str, Any]]:
        may_reindex = self.has_reindex_permission(request)
        return [model_row(company, may_reindex=may_reindex) for company in companies]

    def _summary(self, request: HttpRequest) -> dict[str, Any]:
        found = [standing(company) for company in self.get_queryset(request)]
        may_reindex = self.has_reindex_permission(request)
        return {
            "configured": runtime.configured_model(),
            "configured_name": Path(settings.WEIGHTS).name,
            "number": sum(each.state is not State.NO_INDEX for each in found),
            "number_current": sum(each.state is State.CURRENT for each in found),
            "for_all": [
                (each, reverse(f"admin:tenants_company_model_{each.name}"), number)
                for each in ACTIONS
                if may_reindex and (number := len(_asked_for_all(each, found)))
            ],
        }

    # What is done

    def _for_one(self, request: HttpRequest, pk: int, *, action: Action) -> HttpResponse:
        found = standing(self.reindexable(request, pk))
        return self._confirmed(request, action, [found] if action.applies(found) else [])

    def _for_all(self, request: HttpRequest, *, action: Action) -> HttpResponse:
        if not self.has_reindex_permission(request):
            raise PermissionDenied
        companies = self.get_queryset(request)
        if request.POST.get("confirmed") == "1":  # those that were shown
            companies = companies.filter(pk__in=_numbers(request.POST.get("companies", "").split(",")))
        return self._confirmed(request, action, _asked_for_all(action, map(standing, companies)))

    def _confirmed(self, request: HttpRequest, action: Action, chosen: list[Standing]) -> HttpResponse:
        """Do it for the chosen companies where that was confirmed; else ask."""
        if not chosen:
            self.message_user(request, f"{action.label}: there is nothing to do any more.", messages.WARNING)
        elif request.POST.get("confirmed") != "1":
            return self._ask(request, action, chosen)
        else:
            self._carry_out(request, action, [each.company for each in chosen])
        return HttpResponseRedirect(reverse("admin:tenants_company_model"))

    def _ask(self, request: HttpRequest, action: Action, chosen: list[Standing]) -> HttpResponse:
        whom = str(chosen[0].company) if len(chosen) == 1 else f"{len(chosen):,} companies"
        context = {
            "title": f"{action.label}: {whom}?",
            "action": action,
            "rows": [(each, comparison(each.stand.comparison) if each.stand else []) for each in chosen],
            "companies": ",".join(str(each.company.pk) for each in chosen),
            "configured": runtime.configured_model(),
            "is_automatic": settings.MODEL_SWITCH == "automatic",
        }
        return self._model_page(request, "model_confirmation", context)

    def _carry_out(self, request: HttpRequest, action: Action, companies: list[Company]) -> None:
        done, failed = [], []
        for company in companies:
            try:
                done.append(action.carry_out(company, by=audit.in_admin(request)))
            except (NoOtherModel, EngineError, OSError) as error:
                failed.append(f"{action.label}: not done for {company}. {error}")
            else:
                self.log_change(request, company, done[-1])
        if done:
            text = done[0] if len(done) == 1 else f"{action.label}: {len(done):,} builds are queued."
            self.message_user(request, text, messages.SUCCESS)
        for text in failed[:_FAILURES_SHOWN]:
            self.message_user(request, text, messages.ERROR)
        if len(failed) > _FAILURES_SHOWN:
            self.message_user(request, f"And {len(failed) - _FAILURES_SHOWN:,} more companies.", messages.ERROR)

    def _model_page(self, request: HttpRequest, page: str, context: dict[str, Any]) -> HttpResponse:
        shared = {**self.admin_site.each_context(request), "opts": self.opts, "media": self.media}
        return TemplateResponse(request, f"admin/tenants/company/{page}.html", {**shared, **context})


def model_row(company: Company, *, may_reindex: bool) -> dict[str, Any]:
    """Return what the pages show of a company's model. company: from get_queryset()."""
    found, shown = standing(company), overview(company)
    return {
        "company": company,
        "standing": found,
        "overview": shown,
        "label": shown.label if shown.is_active else found.state,
        "badge": shown.status if shown.is_active else _BADGES.get(found.state, "queued"),
        "compared": comparison(found.stand.comparison) if found.stand else [],
        "choices": [
            (each, reverse(f"admin:tenants_company_model_{each.name}_one", args=[company.pk]))
            for each in ACTIONS
            if may_reindex and each.applies(found) and not (each is REBUILD and _is_building(company))
        ],
    }


def _asked_for_all(action: Action, found: Iterable[Standing]) -> list[Standing]:
    """Return those that an action for all is for; one that is built now needs no other build."""
    chosen = for_all(action, found)
    return [each for each in chosen if not (action is REBUILD and _is_building(each.company))]


def _is_building(company: Company) -> bool:
    """Tell whether the company's last build, which comes with get_queryset(), is under way."""
    return any(build.is_active for build in company.__dict__.get("last_builds", []))


def _numbers(texts: Iterable[str]) -> list[int]:
    return [int(text) for text in texts if text.isdecimal() and len(text) < 19]  # what a database's integer holds


def _cell(row: dict[str, Any], cell: str) -> str:
    return render_to_string(f"admin/tenants/company/_model_{cell}.html", row)
