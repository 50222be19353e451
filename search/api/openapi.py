"""Additions to the OpenAPI document that the views do not declare themselves."""

from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema

from search.api import examples
from search.http.access import SCHEME


class ApiKeyScheme(OpenApiAuthenticationExtension):
    """The headers that can carry a key; one is enough."""

    target_class = "search.http.access.ApiKeyAuthentication"
    name = ["ApiKeyAuth", "BearerAuth", "ApiKeyAuthorization"]

    def get_security_requirement(self, auto_schema: AutoSchema) -> Any:
        return [{name: []} for name in self.name]

    def get_security_definition(self, auto_schema: AutoSchema) -> Any:
        return [
            {
                "type": "apiKey",
                "in": "header",
                "name": "X-API-Key",
                "description": "**Use this one:** a key of the company, as the admin shows it when it is created.",
            },
            {
                "type": "http",
                "scheme": "bearer",
                "description": "The same key, for clients that can only send a bearer token.",
            },
            {
                "type": "apiKey",
                "in": "header",
                "name": "Authorization",
                "description": f"The same key after `{SCHEME} `, for clients that expect this form.",
            },
        ]


def drop_slashed_paths(endpoints: list[Any]) -> list[Any]:
    """Leave paths with a trailing slash out of the schema: each has a twin without."""
    return [endpoint for endpoint in endpoints if not endpoint[0].endswith("/")]


_TAGS = {  # in the order of a newcomer's interest
    "search": "Find similar pictures. Start here.",
    "pictures": "The pictures themselves, and small ones of them.",
    "images": "What is in the index; add and remove pictures one at a time.",
    "duplicates": "Pictures that show the same.",
    "folders": "Where the pictures lie.",
    "companies": "What can be searched.",
    "stats": "The size of an index, and the model that made it.",
    "usage": "How a company is searched.",
    "reindex": "Bring an index in line with the folder.",
    "builds": "How far that is.",
    "health": "For monitoring.",
}
_INTRODUCTION = """Post a photograph, get a company's most similar pictures:

    {search}

**Authorisation:** a key in the header `X-API-Key`; under *Authorize* that is ApiKeyAuth. The next two are other ways to
send the same key, and basicAuth is for staff. Companies that require no key can be searched without.

Every example works against the demo that `make run` creates, in the directory where that was started;
`{key}` stands for a key that can write, created on the company's page in the admin."""
_CODES = {  # that the examples of errors show
    "400": "company_not_found",
    "401": "credentials_invalid",
    "403": "permission_denied",
    "404": "not_found",
    "405": "method_not_allowed",
    "409": "build_finished",
    "413": "image_too_large",
    "415": "media_type_not_supported",
    "429": "rate_exceeded",
    "500": "internal_error",
    "503": "index_not_built",
}
_CODES_OF = {"duplicates": {"409": "duplicates_unknown"}}  # by tag
# What "Try it out" fills in: a search that finds something. Left alone, it takes min_score=1 and location=string.
_NONE = object()
_FILLED_IN = {"min_score": 0, "min_match": 0, "location": "", "crop": "0,0,1,1", "collapse": "duplicates"}


def search_first(result: Any, **_: object) -> Any:
    """Put paths and tags in the order of a newcomer's interest."""
    order = list(_TAGS)

    def place(path: str) -> int:
        tag = path.split("/")[2]
        return order.index(tag) if tag in _TAGS else len(order)

    result["paths"] = {path: result["paths"][path] for path in sorted(result["paths"], key=place)}
    search = result["paths"]["/api/search/{company}"]
    result["paths"]["/api/search/{company}"] = {"post": search["post"], **search}
    there = {tag for operations in result["paths"].values() for each in operations.values() for tag in each["tags"]}
    result["tags"] = [{"name": tag, "description": text} for tag, text in _TAGS.items() if tag in there]
    return result


def introduce(result: Any, request: Any = None, **_: object) -> Any:
    """Begin with a search to copy and which authorisation to use, and end every description with such an example."""
    server = request.build_absolute_uri("/") if request else f"http://localhost:{settings.PORT}/"
    for path, operations in result["paths"].items():
        for method, operation in operations.items():
            _describe_parameters(operation, method)
            example = f"    {_curl(server, path, method, operation)}"
            operation["description"] = "\n\n".join(filter(None, [operation["description"], example]))
    search = result["paths"]["/api/search/{company}"]["post"]["description"].splitlines()[-1].strip()
    result["info"]["description"] = _INTRODUCTION.format(search=search, key=examples.KEY)
    result["components"]["securitySchemes"]["basicAuth"]["description"] = "Staff: user name and password of the admin."
    return result


def _describe_parameters(operation: dict[str, Any], method: str) -> None:
    for parameter in operation.get("parameters", []):
        if parameter["name"] in examples.QUERY_PARAMETERS:
            parameter["example"] = examples.QUERY_PARAMETERS[parameter["name"]]
        if parameter["in"] != "path" or parameter["name"] not in examples.PATH_PARAMETERS:
            continue
        parameter["description"], parameter["example"] = examples.PATH_PARAMETERS[parameter["name"]]
        if parameter["name"] == "image_path" and method != "get":
            parameter["example"] = examples.WRITTEN_PATH
        if parameter["schema"].pop("pattern", None):  # in Python's words, some of which browsers refuse
            parameter["schema"] |= (
                {"type": "integer", "minimum": 1} if parameter["name"] == "build_id" else {"minLength": 1}
            )


def _curl(server: str, path: str, method: str, operation: dict[str, Any]) -> str:
    has_image = "requestBody" in operation and operation["tags"] != ["reindex"]
    implied = "post" if has_image else "get"
    parts = ["curl"] if method == implied else [f"curl -X {method.upper()}"]
    if {} not in operation["security"]:
        parts.append(f"-H 'X-API-Key: {examples.KEY}'")
    if has_image:
        parts.append(f"-F image=@{examples.PICTURE}")
    if "application/json" not in operation["responses"].get("200", {}).get("content", {"application/json": {}}):
        parts.append("-o picture.jpg")
    named = {each["name"]: each for each in operation.get("parameters", [])}
    filled = {name: each.get("example") for name, each in named.items() if each["in"] == "path"}
    needed = {name: value for name, value in examples.QUERY_PARAMETERS.items() if name in named}
    url = server.rstrip("/") + path.format(**filled)
    return " ".join([*parts, f"'{url}?{urlencode(needed, doseq=True)}'" if needed else url])


def add_summaries(result: Any, **_: object) -> Any:
    """Give each operation the first sentence of its description as its summary."""
    for operations in result["paths"].values():
        for operation in operations.values():
            first, _, rest = operation["description"].partition(".")
            operation["summary"], operation["description"] = first.replace("\n", " "), rest.lstrip(". \n")
    return result


def add_examples(result: Any, **_: object) -> Any:
    """Show answers and errors as they come, and fill the forms with what finds something."""
    for name, schema in result["components"]["schemas"].items():
        _show_fields(name, schema.get("properties", {}))
    for operations in result["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", []):
                if parameter["name"] in _FILLED_IN:
                    parameter["example"] = _FILLED_IN[parameter["name"]]
            _show_errors(operation)
    return result


def _show_fields(schema: str, fields: dict[str, Any]) -> None:
    """Give the fields of a form, which drf-spectacular calls Request, or of an answer their examples."""
    known = _FILLED_IN if schema.endswith("Request") else examples.FIELDS
    for name, field in fields.items():
        example = known.get(f"{schema}.{name}", known.get(name, _NONE))
        if example is not _NONE and "$ref" not in field and "items" not in field:
            field["example"] = example


def _show_errors(operation: dict[str, Any]) -> None:
    codes = {**_CODES, **_CODES_OF.get(operation["tags"][0], {})}
    for status, answer in operation["responses"].items():
        if status in codes:
            example = {"success": False, "error": answer["description"], "code": codes[status]}
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
