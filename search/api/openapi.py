"""Additions to the OpenAPI document that the views do not declare themselves."""

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema

from search.http.access import SCHEME


class ApiKeyScheme(OpenApiAuthenticationExtension):
    """The two headers that can carry a key; either is enough."""

    target_class = "search.http.access.ApiKeyAuthentication"
    name = ["ApiKeyAuth", "ApiKeyAuthorization"]

    def get_security_requirement(self, auto_schema: AutoSchema) -> Any:
        return [{name: []} for name in self.name]

    def get_security_definition(self, auto_schema: AutoSchema) -> Any:
        return [
            {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            {
                "type": "apiKey",
                "in": "header",
                "name": "Authorization",
                "description": f"`{SCHEME} ` followed by the key.",
            },
        ]


def drop_slashed_paths(endpoints: list[Any]) -> list[Any]:
    """Leave paths with a trailing slash out of the schema: each has a twin without."""
    return [endpoint for endpoint in endpoints if not endpoint[0].endswith("/")]


def add_limits(result: Any, **_: object) -> Any:
    """Add the 429 response to every operation except the probes."""
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
    answer = {
        "description": "Rate limit or daily quota exceeded; Retry-After says when to try again",
        "headers": {"Retry-After": {"schema": {"type": "integer", "minimum": 1}, "description": "Seconds"}},
        "content": content,
    }
    for path, operations in result["paths"].items():
        if not path.startswith("/api/health"):
            for operation in operations.values():
                operation["responses"]["429"] = answer
    return result
