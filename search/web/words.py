"""What pages say of errors, to people who know nothing of the server."""

_UNAVAILABLE = "Searching does not work at the moment. Try again in a few minutes."

# By the error's code, see search/http/errors.py; what is not here is said in the API's words.
_WORDS = {
    "index_not_built": "This company has no pictures to search yet.",
    "image_not_found": "This picture is no longer there. Search with another one.",
    "image_unreadable": "This file can't be read as a picture. Try another one, or save it as JPEG or PNG.",
    "image_too_large": "The picture is larger than 16 MB. Choose a smaller one.",
    "body_too_large": "The picture is larger than 16 MB. Choose a smaller one.",
    "body_incomplete": "The picture did not arrive whole. Check the connection and try again.",
    "busy": "Many people are searching right now. Try again in a moment.",
    "permission_denied": "This page has been open for too long. Reload it and try again.",
    "index_damaged": _UNAVAILABLE,
    "index_unusable": _UNAVAILABLE,
    "model_mismatch": _UNAVAILABLE,
    "weights_unavailable": _UNAVAILABLE,
    "device_unavailable": _UNAVAILABLE,
    "database_unavailable": _UNAVAILABLE,
}


def plain_words(code: str, message: str) -> str:
    """Return what a page says of an error. message: the API's words."""
    return _WORDS.get(code, f"{message}.")
