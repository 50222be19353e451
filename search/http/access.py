"""Who calls the API: the holder of a company's key. Cookies and sessions are never looked at."""

from rest_framework.authentication import BaseAuthentication, BasicAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from tenants import audit
from tenants.models import ApiKey

SCHEME = "Api-Key"


class ApiKeyAuthentication(BaseAuthentication):
    """`Authorization: Api-Key <key>` or `X-API-Key: <key>`: request.auth is the ApiKey then, request.user is None."""

    def authenticate(self, request: Request) -> tuple[None, ApiKey] | None:
        """Return nothing for a caller without a key. Raises AuthenticationFailed."""
        texts = _sent_keys(request)
        if not texts:
            return None
        if len(texts) > 1:
            raise AuthenticationFailed("Authorization and X-API-Key name different keys: send one of them")
        key = ApiKey.objects.find(texts.pop())
        if key is None:  # in the same words whatever is wrong with it, so that they tell nothing about other keys
            raise AuthenticationFailed("The API key is wrong, expired or revoked")
        return None, key

    def authenticate_header(self, request: Request) -> str:
        basic = [each for each in request.authenticators or () if isinstance(each, BasicAuthentication)]
        return ", ".join([f'{SCHEME} realm="api"', *(str(each.authenticate_header(request)) for each in basic)])


def caller_key(request: Request) -> ApiKey | None:
    """Return the key that the caller was let in with."""
    return request.auth if isinstance(request.auth, ApiKey) else None


def actor_of(request: Request) -> audit.Actor:
    """Return who asks, for the audit: the holder of a key or a staff user."""
    if key := caller_key(request):
        return audit.holder_of(key)
    return audit.Actor(request.user.get_username(), audit.Channel.BASIC)


def _sent_keys(request: Request) -> set[str]:
    """Return the texts that the request gives as keys, whatever they hold."""
    scheme, _, text = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
    texts = {text.strip()} if scheme.lower() == SCHEME.lower() else set()
    if "HTTP_X_API_KEY" in request.META:
        texts.add(request.META["HTTP_X_API_KEY"].strip())
    return texts
