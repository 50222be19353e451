"""Who may do what: everything the API tells of a company passes through here.

A caller with a key is let to the key's own company and to nothing else, in every mode. A caller without one sees the
companies that require no key, unless IMAGESEARCH_API_KEYS is required. To everybody else a company does not exist: what
is answered, and the work done before, is the same for one that is hidden and one that never was.
"""

from django.conf import settings
from rest_framework.exceptions import NotAuthenticated
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from search.http.access import caller_key
from search.queries import find_company
from tenants.models import Company, CompanyQuerySet


def staff_or_key(permission: str, *, writes: bool = True) -> type[BasePermission]:
    """Return the DRF permission of active staff users who have Django's permission, and of holders of a key.

    writes: only of a key that can write. Which company a key is for is asked by writable_company().
    """

    class StaffOrKey(BasePermission):
        def has_permission(self, request: Request, view: object) -> bool:
            if key := caller_key(request):
                return key.can_write or not writes
            user = request.user
            return bool(user and user.is_active and user.is_staff and user.has_perm(permission))

    return StaffOrKey


def readable_company(request: Request, name: str) -> Company:
    """Return the company of this name if the caller may search it. Raises CompanyNotFound and NotAuthenticated."""
    require_key(request)
    return find_company(name, among=visible_companies(request))


def writable_company(request: Request, name: str) -> Company:
    """Return the company of this name, for a caller whom staff_or_key() let in. Raises CompanyNotFound."""
    return find_company(name, among=visible_companies(request) if caller_key(request) else None)


def visible_companies(request: Request) -> CompanyQuerySet:
    """Return the active companies that the caller may know of."""
    companies = Company.objects.active()
    if key := caller_key(request):
        return companies.filter(pk=key.company_id)
    return companies.none() if settings.API_KEYS == "required" else companies.filter(requires_api_key=False)


def require_key(request: Request) -> None:
    """Raise NotAuthenticated where nobody is told of a company without a key, and the caller has none."""
    if settings.API_KEYS == "required" and not caller_key(request):
        raise NotAuthenticated("An API key is required: send it as X-API-Key, or as Authorization: Api-Key ...")
