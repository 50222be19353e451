"""How a company is used; for staff users and holders of the company's keys."""

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from search.api.answers import UsageBody, usage_body
from search.api.forms import UsageForm, validated
from search.api.responses import FAULT, FORBIDDEN, NOT_FOUND, UNAUTHORISED
from search.companies.usage import usage_of
from search.http.access import caller_key, readable_company, staff_or_key
from tenants.models import Company


class UsageView(APIView):
    permission_classes = [staff_or_key("tenants.view_company", writes=False)]

    @extend_schema(
        parameters=[UsageForm],
        responses={200: UsageBody, 400: NOT_FOUND, 401: UNAUTHORISED, 403: FORBIDDEN, 500: FAULT},
    )
    def get(self, request: Request, company: str) -> Response:
        """Return how a company was searched on the last days. The newest searches are added within seconds."""
        found = readable_company(request, company)
        form = validated(UsageForm, request.query_params)
        usage = usage_of(found, days=form["days"])
        return Response({"success": True, "company": found.name, **usage_body(usage, _names_of_keys(request, found))})


def _names_of_keys(request: Request, company: Company) -> dict[str, str]:
    """Return the names of the keys, by prefix, whose use the caller may see; "" stands for searches without a key."""
    if key := caller_key(request):
        return {key.prefix: key.name}
    return {"": "", **dict(company.api_keys.values_list("prefix", "name"))}
