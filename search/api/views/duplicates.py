"""The duplicates of a company's pictures, at /api/duplicates/<company>."""

from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from search import duplicates, queries
from search.api.answers import DuplicatesAnswer, ErrorBody, duplicate_group, require_page
from search.api.forms import DuplicatesForm, ignored, validated
from search.api.responses import FAULT, NO_KEY, NO_PICTURES, NOT_FOUND, UNUSABLE
from search.duplicates import BY_WORD
from search.http.access import readable_company, viewer_of

GROUPS_A_PAGE = 100


class DuplicatesView(APIView):
    @extend_schema(
        operation_id="duplicates_list",
        parameters=[DuplicatesForm],
        responses={
            200: DuplicatesAnswer,
            400: NOT_FOUND,
            401: NO_KEY,
            403: NO_PICTURES,
            404: OpenApiResponse(ErrorBody, "No such page"),
            409: OpenApiResponse(ErrorBody, "Nobody has looked for the company's duplicates yet"),
            500: FAULT,
            503: UNUSABLE,
        },
    )
    def get(self, request: Request, company: str) -> Response:
        """List the company's pictures that show the same, in groups, 100 groups per page, the largest first.

        The first picture of a group leads it: every other is a duplicate of that one.
        """
        found = readable_company(request, company)
        form = validated(DuplicatesForm, request.query_params)
        viewer = viewer_of(request, found) if form["urls"] else None
        index = queries.company_index(found)
        groups = duplicates.groups_of(found, index, levels=[BY_WORD[word] for word in form["level"]])
        pages = require_page(form["page"], total=len(groups), a_page=GROUPS_A_PAGE)
        start = (form["page"] - 1) * GROUPS_A_PAGE
        without_effect = ignored(DuplicatesForm, request.query_params)
        return Response(
            {
                "success": True,
                "company": found.name,
                "groups": [
                    duplicate_group(found, group, viewer=viewer) for group in groups[start : start + GROUPS_A_PAGE]
                ],
                "total": len(groups),
                "page": form["page"],
                "pages": pages,
                **({"ignored_parameters": without_effect} if without_effect else {}),
            }
        )
