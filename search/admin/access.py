"""Who may see a company in the admin, and who may change which index it has."""

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse

from tenants.admin import PlainTitles
from tenants.models import Company, CompanyQuerySet, is_confined


class CompanyAccess(PlainTitles):
    """Companies that a confined user may not see do not exist for that user."""

    def get_queryset(self, request: HttpRequest) -> CompanyQuerySet:
        companies: CompanyQuerySet = super().get_queryset(request)  # type: ignore[assignment]
        return companies.within_confinement_of(request.user)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """A confined user adds none, which the user could not see afterwards."""
        return not is_confined(request.user) and super().has_add_permission(request)

    def has_reindex_permission(self, request: HttpRequest) -> bool:
        may_reindex = request.user.has_perm("tenants.reindex_company") and self.has_view_permission(request)
        return may_reindex and not settings.READ_ONLY

    def viewed(self, request: HttpRequest, pk: int) -> Company:
        """Return the company that the request shows. Raises PermissionDenied and Http404."""
        company = get_object_or_404(self.get_queryset(request), pk=pk)
        if not self.has_view_permission(request, company):
            raise PermissionDenied
        return company

    def reindexable(self, request: HttpRequest, pk: int) -> Company:
        """Return the company whose index the request changes. Raises PermissionDenied and Http404."""
        if not self.has_reindex_permission(request):
            raise PermissionDenied
        return get_object_or_404(self.get_queryset(request), pk=pk)


def to_page(company: Company) -> HttpResponseRedirect:
    return HttpResponseRedirect(reverse("admin:tenants_company_change", args=[company.pk]))
