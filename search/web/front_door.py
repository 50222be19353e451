"""The page at /: what this is, for strangers; what needs attention and how the companies are, for staff."""

from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from search import attention
from search.http.signed_urls import Viewer
from search.queries import companies_with_index
from search.web.cards import cards, with_last_build
from tenants.models import Company, is_confined

COMPANIES_A_PAGE = 24
CONCERNS_SHOWN = 8  # at once; the others unfold


@never_cache
@require_safe
def front_door(request: HttpRequest) -> HttpResponse:
    user = request.user
    if isinstance(user, User) and user.is_active and user.is_staff:
        return render(request, "search/front_staff.html", _for_staff(request, user))
    return render(request, "search/front.html", _for_strangers(request))


def _for_staff(request: HttpRequest, user: User) -> dict[str, Any]:
    concerns = attention.for_user(user)
    companies = with_last_build(Company.objects.visible_to(user))
    page = Paginator(companies, COMPANIES_A_PAGE).get_page(request.GET.get("page"))
    return {
        "concerns": concerns[:CONCERNS_SHOWN],
        "more_concerns": concerns[CONCERNS_SHOWN:],
        "number_of_concerns": len(concerns),
        "cards": cards(page.object_list, viewer=Viewer(user=user.pk)),
        "page": page,
        "may_add": user.has_perm("tenants.add_company") and not is_confined(user) and not settings.READ_ONLY,
    }


def _for_strangers(request: HttpRequest) -> dict[str, Any]:
    public = companies_with_index(with_last_build(Company.objects.active().filter(public_page=True)))
    return {"cards": cards(public[:COMPANIES_A_PAGE], viewer=Viewer()), "curl": _curl(request, public)}


def _curl(request: HttpRequest, public: list[Company]) -> str:
    """Return a command that searches with a picture: one that works as it stands where that is possible."""
    address = request.build_absolute_uri("/api/search/")
    open_ones = [each for each in public if not each.requires_api_key and settings.API_KEYS == "off"]
    if open_ones:
        return f"curl -F image=@photo.jpg {address}{open_ones[0]}"
    return f'curl -H "X-API-Key: YOUR-KEY" -F image=@photo.jpg {address}YOUR-COMPANY'
