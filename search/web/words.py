"""What pages say of errors, to people who know nothing of the server."""

_UNAVAILABLE = "Searching does not work at the moment. Try again in a few minutes."
_TOO_LARGE = "What you sent is larger than 16 MB. Choose a smaller picture, or fewer."

# By the error's code, see search/http/errors.py; what is not here is said in the API's words.
_WORDS = {
    "index_not_built": "This company has no pictures to search yet.",
    "image_not_found": "This picture is no longer there. Search with another one.",
    "image_unreadable": "This file can't be read as a picture. Try another one, or save it as JPEG or PNG.",
    "crop_invalid": "This part of the picture is too small to search with. Draw a larger box.",
    "picture_gone": "The file of this picture is missing, so no part of it can be searched with.",
    "image_too_large": _TOO_LARGE,
    "body_too_large": _TOO_LARGE,
    "body_incomplete": "The picture did not arrive whole. Check the connection and try again.",
    "busy": "Many people are searching right now. Try again in a moment.",
    "rate_exceeded": "There were too many searches in a short time.",
    "quota_exceeded": "Today's searches of this company are used up.",
    "permission_denied": "This page has been open for too long. Reload it and try again.",
    "index_damaged": _UNAVAILABLE,
    "index_unusable": _UNAVAILABLE,
    "index_on_its_way": "The pictures of this company are being made ready. Try again in a few seconds.",
    "store_unavailable": _UNAVAILABLE,
    "disk_full": _UNAVAILABLE,
    "model_mismatch": _UNAVAILABLE,
    "weights_unavailable": _UNAVAILABLE,
    "device_unavailable": _UNAVAILABLE,
    "database_unavailable": _UNAVAILABLE,
}


_LIMITS = ("rate_exceeded", "quota_exceeded")


def plain_words(code: str, message: str, *, retry_after: str = "") -> str:
    """Return what a page says of an error. message: the API's words. retry_after: seconds, where they are known."""
    words = _WORDS.get(code, f"{message}.")
    return f"{words} Try again in {_duration(int(retry_after))}." if code in _LIMITS and retry_after else words


def _duration(seconds: int) -> str:
    """Return seconds as people say them, rounded up."""
    for unit, length in (("hour", 3600), ("minute", 60)):
        if seconds > 2 * length:
            return f"{-(-seconds // length)} {unit}s"
    return f"{seconds} second{'' if seconds == 1 else 's'}"
