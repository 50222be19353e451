"""The API under /api/: each view reads its input, makes one call and shows the result."""

from typing import Any

from django.conf import settings
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from search import queries
from search.engine.storage import timestamp
from search.exceptions import CompanyNotFound
from search.serializers import (
    CompaniesBody,
    ErrorBody,
    HealthBody,
    SearchBody,
    SearchForm,
    StatsBody,
    index_info,
    result,
)
from search.uploads import ImageFormParser
from tenants.models import Company

_NOT_FOUND = OpenApiResponse(ErrorBody, "The company is unknown or switched off")
_FAULT = OpenApiResponse(ErrorBody, "A fault of the service's own; its log tells more")
_UNUSABLE = OpenApiResponse(ErrorBody, "The index or the model cannot be used until an operator acts")


def _company(name: str) -> Company:
    try:
        return Company.objects.active().get(name=name)
    except (Company.DoesNotExist, ValueError) as error:  # ValueError: a NUL, which PostgreSQL refuses
        raise CompanyNotFound(name) from error


class HealthView(APIView):
    @extend_schema(responses={200: HealthBody, 500: _FAULT})
    def get(self, request: Request) -> Response:
        """Tell whether the service runs and which companies this process has loaded."""
        companies = queries.companies_with_index()
        loaded = _loaded_names(companies)
        return Response(
            {
                "status": "healthy",
                "api_ready": True,
                "timestamp": timestamp(),
                "total_companies_available": len(companies),
                "loaded_companies": loaded,
                "loaded_count": len(loaded),
            }
        )


class CompaniesView(APIView):
    @extend_schema(responses={200: CompaniesBody, 500: _FAULT})
    def get(self, request: Request) -> Response:
        """List the companies that can be searched."""
        companies = queries.companies_with_index()
        loaded = _loaded_names(companies)
        entries = [
            {
                "name": company.name,
                "embeddings_path": f"{settings.EMBEDDINGS_DIR.name}/{company.name}",
                "loaded": company.name in loaded,
            }
            for company in companies
        ]
        return Response({"success": True, "companies": entries, "total": len(entries)})


class StatsView(APIView):
    @extend_schema(responses={200: StatsBody, 400: _NOT_FOUND, 500: _FAULT, 503: _UNUSABLE})
    def get(self, request: Request, company: str) -> Response:
        """Tell how many pictures a company's index has, and what made it."""
        found = _company(company)
        info = queries.company_info(found)
        stats = {"total_images": info.total_images, "index_info": index_info(info)}
        return Response({"success": True, "company": found.name, "stats": stats})


class SearchView(APIView):
    parser_classes = [ImageFormParser]

    @extend_schema(
        request={"multipart/form-data": SearchForm},
        responses={
            200: SearchBody,
            400: OpenApiResponse(ErrorBody, "The company is unknown, or the image or top_k is refused"),
            413: OpenApiResponse(ErrorBody, "The image is larger than 16 MB"),
            415: OpenApiResponse(ErrorBody, "The request is not multipart/form-data"),
            500: _FAULT,
            503: _UNUSABLE,
        },
    )
    def post(self, request: Request, company: str) -> Response:
        """Return the company's pictures most similar to the image, best first."""
        found = _company(company)
        index = queries.company_index(found)
        form = SearchForm(data=_fields(request.data))
        form.is_valid(raise_exception=True)
        image = form.validated_data["image"]
        matches = queries.find_similar(index, image, name=image.name, top_k=form.validated_data["top_k"])
        return Response(
            {
                "success": True,
                "company": found.name,
                "results": [result(match) for match in matches],
                "total_results": len(matches),
                "query_processed": True,
                "timestamp": timestamp(),
            }
        )


def _fields(form: Any) -> dict[str, Any]:
    """Return the last value of each field: a plain dict, because an empty top_k of a QueryDict passes for none."""
    return {name: form[name] for name in form}


def _loaded_names(companies: list[Company]) -> list[str]:
    directories = queries.loaded_directories()
    return [company.name for company in companies if company.embeddings_directory in directories]


def drop_slashed_paths(endpoints: list[Any]) -> list[Any]:
    """Leave the second spelling of each path, the one with a trailing slash, out of the schema."""
    return [endpoint for endpoint in endpoints if not endpoint[0].endswith("/")]
