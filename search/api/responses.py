"""Schema of the error responses that several views share."""

from drf_spectacular.utils import OpenApiResponse

from search.api.answers import ErrorBody

NOT_FOUND = OpenApiResponse(ErrorBody, "The company is unknown, inactive, or not accessible with this key")
NO_KEY = OpenApiResponse(ErrorBody, "The API key is invalid, expired or revoked, or a required key is missing")
UNAUTHORISED = OpenApiResponse(ErrorBody, "Valid staff credentials or a valid API key are required")
FORBIDDEN = OpenApiResponse(ErrorBody, "The staff user lacks the permission, or the API key is read-only")
FAULT = OpenApiResponse(ErrorBody, "Internal error; see the server log")
UNUSABLE = OpenApiResponse(ErrorBody, "The index or the model is unavailable until an operator acts")
NO_PICTURES = OpenApiResponse(ErrorBody, "The staff user lacks the permission to view the company's pictures")
