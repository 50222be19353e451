"""The folders of a company's pictures, at /api/folders/<company>."""

from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from search import queries
from search.api.answers import ErrorBody, FolderListAnswer, folder_entry, require_page
from search.api.forms import FolderListForm, validated
from search.api.responses import FAULT, NO_KEY, NOT_FOUND, UNUSABLE
from search.http.access import readable_company

FOLDERS_A_PAGE = 1000


class FoldersView(APIView):
    @extend_schema(
        operation_id="folders_list",
        parameters=[FolderListForm],
        responses={
            200: FolderListAnswer,
            400: NOT_FOUND,
            401: NO_KEY,
            404: OpenApiResponse(ErrorBody, "No such page"),
            500: FAULT,
            503: UNUSABLE,
        },
    )
    def get(self, request: Request, company: str) -> Response:
        """List the folders of the company's pictures and how many pictures each holds, 1000 folders per page.

        The first entry is the folder asked for, or the company's own, and each folder is followed by those below it.
        """
        found = readable_company(request, company)
        form = validated(FolderListForm, request.query_params)
        folders = [each for each in queries.company_folders(found) if each.lies_in(form["location"])]
        start = (form["page"] - 1) * FOLDERS_A_PAGE
        pages = require_page(form["page"], total=len(folders), a_page=FOLDERS_A_PAGE)
        return Response(
            {
                "success": True,
                "company": found.name,
                "folders": [folder_entry(each) for each in folders[start : start + FOLDERS_A_PAGE]],
                "total": len(folders),
                "page": form["page"],
                "pages": pages,
            }
        )
