"""Who may see a company in the admin, and who may change which index it has."""

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse

from tenants.admin import PlainTitles
from tenants.models import Company


class CompanyAccess(PlainTitles):
    def has_reindex_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("tenants.reindex_company") and self.has_view_permission(request)

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
        return get_object_or_404(Company, pk=pk)


def to_page(company: Company) -> HttpResponseRedirect:
    return HttpResponseRedirect(reverse("admin:tenants_company_change", args=[company.pk]))
