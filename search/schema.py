"""What the OpenAPI document tells that the views do not tell by themselves."""

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema

from search.authentication import SCHEME


class ApiKeyScheme(OpenApiAuthenticationExtension):
    """The two headers that may carry a key; either is enough."""

    target_class = "search.authentication.ApiKeyAuthentication"
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
