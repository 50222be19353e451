"""What the OpenAPI document tells that the views do not tell by themselves."""

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema

from search.http.access import SCHEME


class ApiKeyScheme(OpenApiAuthenticationExtension):
    """The two headers that may carry a key; either is enough."""

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
                "description": f"`{SCHEME} ` and then the key.",
            },
        ]


def drop_slashed_paths(endpoints: list[Any]) -> list[Any]:
    """Leave the second spelling of each path, the one with a trailing slash, out of the schema."""
    return [endpoint for endpoint in endpoints if not endpoint[0].endswith("/")]


def add_limits(result: Any, **_: object) -> Any:
    """Tell of every operation but the probes that it may be refused for coming too often."""
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
    answer = {
        "description": "A rate or the company's quota is used up; Retry-After tells for how long",
        "headers": {"Retry-After": {"schema": {"type": "integer", "minimum": 1}, "description": "Seconds"}},
        "content": content,
    }
    for path, operations in result["paths"].items():
        if not path.startswith("/api/health"):
            for operation in operations.values():
                operation["responses"]["429"] = answer
    return result
