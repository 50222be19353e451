"""The companies that the caller can search, and their indexes."""

from django.conf import settings
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from search import queries
from search.api.answers import CompaniesBody, StatsBody, index_info
from search.api.responses import FAULT, NO_KEY, NOT_FOUND, UNUSABLE
from search.http.access import readable_company, visible_companies


class CompaniesView(APIView):
    @extend_schema(responses={200: CompaniesBody, 401: NO_KEY, 500: FAULT})
    def get(self, request: Request) -> Response:
        """List the companies that the caller can search."""
        companies = queries.companies_with_index(visible_companies(request))
        loaded = queries.loaded_names(companies)
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
    @extend_schema(responses={200: StatsBody, 400: NOT_FOUND, 401: NO_KEY, 500: FAULT, 503: UNUSABLE})
    def get(self, request: Request, company: str) -> Response:
        """Return the size of a company's index and the model that made it."""
        found = readable_company(request, company)
        info = queries.company_info(found)
        stats = {"total_images": info.total_images, "index_info": index_info(info)}
        return Response({"success": True, "company": found.name, "stats": stats})
