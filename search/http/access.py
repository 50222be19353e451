"""Who calls and what they may see: all access of the API to companies passes through here.

The caller is the holder of a company's key, a user with a password (HTTP Basic) or anonymous; cookies and sessions are
ignored. Credentials that are wrong are refused wherever they are sent. A caller with a key sees the key's own company
and nothing else, in every mode; staff who may view companies see all, or those that they are confined to. Everybody
else sees the companies that require no key, unless IMAGESEARCH_API_KEYS is required. Other companies do not exist for a
caller: the response, and the work done for it, is the same for a hidden company and an unknown one.
"""

from django.conf import settings
from django.db.models import Q
from rest_framework.authentication import BaseAuthentication, BasicAuthentication
from rest_framework.exceptions import AuthenticationFailed, NotAuthenticated, PermissionDenied
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from search.http.signed_urls import Viewer
from search.queries import CompanyNotFound, find_company
from tenants import audit
from tenants.models import ApiKey, Company, CompanyQuerySet

SCHEME = "Api-Key"
_SCHEMES = {SCHEME.lower(), "bearer"}


class ApiKeyAuthentication(BaseAuthentication):
    """`X-API-Key: <key>`, `Authorization: Bearer <key>` or `Authorization: Api-Key <key>`.

    request.auth is the ApiKey then, request.user is None.
    """

    def authenticate(self, request: Request) -> tuple[None, ApiKey] | None:
        """Return nothing for a caller without a key. Raises AuthenticationFailed."""
        texts = _sent_keys(request)
        if not texts:
            return None
        if len(texts) > 1:
            raise AuthenticationFailed("Authorization and X-API-Key contain different keys: send only one")
        if _scheme(request) == "basic":  # a wrong password is refused beside a right key as well
            BasicAuthentication().authenticate(request)
        key = ApiKey.objects.find(texts.pop())
        if key is None:  # in the same words whatever is wrong with it, so that they tell nothing about other keys
            raise AuthenticationFailed("The API key is invalid, expired or revoked")
        return None, key

    def authenticate_header(self, request: Request) -> str:
        basic = [each for each in request.authenticators or () if isinstance(each, BasicAuthentication)]
        return ", ".join([f'{SCHEME} realm="api"', *(str(each.authenticate_header(request)) for each in basic)])


def caller_key(request: Request) -> ApiKey | None:
    """Return the key that the caller authenticated with."""
    return request.auth if isinstance(request.auth, ApiKey) else None


def actor_of(request: Request) -> audit.Actor:
    """Return who asks, for the audit: the holder of a key or a staff user."""
    if key := caller_key(request):
        return audit.holder_of(key)
    return audit.Actor(request.user.get_username(), audit.Channel.BASIC, request.user)


def may_view_companies(request: Request) -> bool:
    """Return whether the caller is a user who may view companies, all or those that the user is confined to."""
    return _is_staff_with(request, "tenants.view_company")


def _is_staff_with(request: Request, permission: str) -> bool:
    user = request.user
    return bool(user and user.is_active and user.is_staff and user.has_perm(permission))


def staff_or_key(permission: str, *, writes: bool = True) -> type[BasePermission]:
    """Return the DRF permission of active staff users who have Django's permission, and of holders of a key.

    writes: only of a key that can write. Which company a key is for is asked by writable_company().
    """

    class StaffOrKey(BasePermission):
        message = (
            f"This takes a staff user with the permission {permission}, or an API key" + " that can write" * writes
        )

        def has_permission(self, request: Request, view: object) -> bool:
            if key := caller_key(request):
                self.message = "This API key can only read: send one that can write"
                return key.can_write or not writes
            return _is_staff_with(request, permission)

    return StaffOrKey


def readable_company(request: Request, name: str) -> Company:
    """Return the company of this name if the caller may search it.

    Raises CompanyNotFound, NotAuthenticated and PermissionDenied.
    """
    require_key(request)
    return find_company(name, among=visible_companies(request))


def pictured_company(request: Request, name: str) -> Company:
    """Return the company of this name if the caller may see its pictures, which being searchable does not mean.

    Raises CompanyNotFound, NotAuthenticated and PermissionDenied.
    """
    companies = visible_companies(request)
    if not caller_key(request):
        companies = Company.objects.active().filter(Q(pk__in=companies.values("pk")) | Q(public_page=True))
    try:
        company = find_company(name, among=companies)
    except CompanyNotFound:
        require_key(request)
        raise
    viewer_of(request, company)
    return company


def viewer_of(request: Request, company: Company) -> Viewer:
    """Return as whom the caller sees the pictures of a company that exists for it.

    Raises NotAuthenticated and PermissionDenied where it may not see them.
    """
    if key := caller_key(request):
        return Viewer(key=key.prefix)
    if request.user and Company.objects.visible_to(request.user).filter(pk=company.pk).exists():
        return Viewer(user=request.user.pk)
    if company.public_page:
        return Viewer()
    if request.user:
        raise PermissionDenied("You lack the permission to view this company's pictures")
    raise NotAuthenticated(
        "This company's pictures are not public: send an API key of the company as `X-API-Key: ...`, or the password "
        "of a staff user who may view it"
    )


def writable_company(request: Request, name: str) -> Company:
    """Return the company of this name, for a caller admitted by staff_or_key(). Raises CompanyNotFound."""
    return find_company(name, among=known_companies(request).active())


def known_companies(request: Request) -> CompanyQuerySet:
    """Return the companies that exist for the caller; what the caller may do there is asked elsewhere."""
    if key := caller_key(request):
        return Company.objects.filter(pk=key.company_id)
    return Company.objects.within_confinement_of(request.user)


def visible_companies(request: Request) -> CompanyQuerySet:
    """Return the active companies that the caller may see."""
    companies = known_companies(request).active()
    if caller_key(request) or may_view_companies(request):
        return companies
    return companies.none() if settings.API_KEYS == "required" else companies.filter(requires_api_key=False)


def require_key(request: Request) -> None:
    """Raise NotAuthenticated if keys are required and the caller sent none, nor is staff who need none."""
    if settings.API_KEYS != "required" or caller_key(request) or may_view_companies(request):
        return
    if request.user:
        raise PermissionDenied("You lack the permission to view companies: send an API key instead of a password")
    raise NotAuthenticated("An API key is required: send it as `X-API-Key: ...` or `Authorization: Bearer ...`")


def _sent_keys(request: Request) -> set[str]:
    """Return the texts that the request gives as keys, whatever they hold."""
    text = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")[2]
    texts = {text.strip()} if _scheme(request) in _SCHEMES else set()
    if "HTTP_X_API_KEY" in request.META:
        texts.add(request.META["HTTP_X_API_KEY"].strip())
    return texts


def _scheme(request: Request) -> str:
    scheme: str = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")[0]
    return scheme.lower()
