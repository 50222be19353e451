"""What the schema tells of the refusals that views have in common."""

from drf_spectacular.utils import OpenApiResponse

from search.api.answers import ErrorBody

NOT_FOUND = OpenApiResponse(ErrorBody, "The company is unknown, switched off, or not the caller's")
NO_KEY = OpenApiResponse(ErrorBody, "The API key is wrong, expired or revoked; or there is none, and one is required")
UNAUTHORISED = OpenApiResponse(ErrorBody, "Neither a staff user nor the holder of a valid API key")
FORBIDDEN = OpenApiResponse(ErrorBody, "A staff user without the permission, or a key that cannot write")
FAULT = OpenApiResponse(ErrorBody, "A fault of the service's own; its log tells more")
UNUSABLE = OpenApiResponse(ErrorBody, "The index or the model cannot be used until an operator acts")
