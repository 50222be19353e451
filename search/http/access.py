"""Who calls and what they may see: all access of the API to companies passes through here.

The caller is the holder of a company's key or anonymous; cookies and sessions are ignored. A caller with a key
sees the key's own company and nothing else, in every mode. A caller without one sees the companies that require no
key, unless IMAGESEARCH_API_KEYS is required. To everybody else a company does not exist: the response, and the
work done for it, is the same for a hidden company and an unknown one.
"""

from django.conf import settings
from rest_framework.authentication import BaseAuthentication, BasicAuthentication
from rest_framework.exceptions import AuthenticationFailed, NotAuthenticated
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from search.queries import find_company
from tenants import audit
from tenants.models import ApiKey, Company, CompanyQuerySet

SCHEME = "Api-Key"


class ApiKeyAuthentication(BaseAuthentication):
    """`Authorization: Api-Key <key>` or `X-API-Key: <key>`: request.auth is the ApiKey then, request.user is None."""

    def authenticate(self, request: Request) -> tuple[None, ApiKey] | None:
        """Return nothing for a caller without a key. Raises AuthenticationFailed."""
        texts = _sent_keys(request)
        if not texts:
            return None
        if len(texts) > 1:
            raise AuthenticationFailed("Authorization and X-API-Key contain different keys: send only one")
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
    """Return the company of this name, for a caller admitted by staff_or_key(). Raises CompanyNotFound."""
    return find_company(name, among=visible_companies(request) if caller_key(request) else None)


def visible_companies(request: Request) -> CompanyQuerySet:
    """Return the active companies that the caller may see."""
    companies = Company.objects.active()
    if key := caller_key(request):
        return companies.filter(pk=key.company_id)
    return companies.none() if settings.API_KEYS == "required" else companies.filter(requires_api_key=False)


def require_key(request: Request) -> None:
    """Raise NotAuthenticated if keys are required and the caller sent none."""
    if settings.API_KEYS == "required" and not caller_key(request):
        raise NotAuthenticated("An API key is required: send it as `X-API-Key: ...` or `Authorization: Api-Key ...`")


def _sent_keys(request: Request) -> set[str]:
    """Return the texts that the request gives as keys, whatever they hold."""
    scheme, _, text = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
    texts = {text.strip()} if scheme.lower() == SCHEME.lower() else set()
    if "HTTP_X_API_KEY" in request.META:
        texts.add(request.META["HTTP_X_API_KEY"].strip())
    return texts
