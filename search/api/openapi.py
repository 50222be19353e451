"""Additions to the OpenAPI document that the views do not declare themselves."""

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema

from search.http.access import SCHEME


class ApiKeyScheme(OpenApiAuthenticationExtension):
    """The headers that can carry a key; one is enough."""

    target_class = "search.http.access.ApiKeyAuthentication"
    name = ["ApiKeyAuth", "BearerAuth", "ApiKeyAuthorization"]

    def get_security_requirement(self, auto_schema: AutoSchema) -> Any:
        return [{name: []} for name in self.name]

    def get_security_definition(self, auto_schema: AutoSchema) -> Any:
        return [
            {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            {"type": "http", "scheme": "bearer", "description": "The API key."},
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


_ORDER = (
    "/api/search",
    "/api/companies",
    "/api/stats",
    "/api/usage",
    "/api/images",
    "/api/folders",
    "/api/reindex",
    "/api/builds",
    "/api/health",
)
_CODES = {  # that the examples of errors show
    "400": "company_not_found",
    "401": "credentials_invalid",
    "403": "permission_denied",
    "404": "not_found",
    "409": "build_finished",
    "413": "image_too_large",
    "415": "media_type_not_supported",
    "429": "rate_exceeded",
    "500": "internal_error",
    "503": "index_not_built",
}
# What "Try it out" fills in: a search that finds something. Left alone, it takes min_score=1 and location=string.
_EXAMPLES = {"min_score": 0, "location": ""}


def search_first(result: Any, **_: object) -> Any:
    """Put the paths in the order of a newcomer's interest."""

    def place(path: str) -> int:
        return next((place for place, start in enumerate(_ORDER) if path.startswith(start)), len(_ORDER))

    result["paths"] = {path: result["paths"][path] for path in sorted(result["paths"], key=place)}
    return result


def add_summaries(result: Any, **_: object) -> Any:
    """Give each operation the first sentence of its description as its summary."""
    for operations in result["paths"].values():
        for operation in operations.values():
            first, _, rest = operation["description"].partition(".")
            operation["summary"], operation["description"] = first.replace("\n", " "), rest.lstrip(". \n")
    return result


def add_examples(result: Any, **_: object) -> Any:
    """Show errors as they come, and fill the forms with what finds something."""
    for schema in result["components"]["schemas"].values():
        for name, value in _EXAMPLES.items():
            if name in schema.get("properties", {}):
                schema["properties"][name]["example"] = value
    for operations in result["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", []):
                if parameter["name"] in _EXAMPLES:
                    parameter["example"] = _EXAMPLES[parameter["name"]]
            _show_errors(operation["responses"])
    return result


def _show_errors(responses: dict[str, Any]) -> None:
    for status, answer in responses.items():
        if status in _CODES:
            example = {"success": False, "error": answer["description"], "code": _CODES[status]}
            answer["content"]["application/json"]["example"] = example


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
