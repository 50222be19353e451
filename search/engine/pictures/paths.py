"""What a picture may be called."""

FORMATS = {  # that a file of this extension has to hold
    "png": "PNG",
    "jpg": "JPEG",
    "jpeg": "JPEG",
    "gif": "GIF",
    "bmp": "BMP",
    "tiff": "TIFF",
    "tif": "TIFF",
    "webp": "WEBP",
}
ALLOWED_EXTENSIONS = tuple(FORMATS)
TYPE_NOT_ALLOWED = f"file type not allowed, allowed types: {', '.join(ALLOWED_EXTENSIONS)}"


def extension(name: str) -> str:
    """Return what follows the last dot of name, in lower case; "" where there is none."""
    _, dot, ending = name.rpartition(".")
    return ending.lower() if dot else ""


def has_allowed_extension(name: str) -> bool:
    """Return whether name ends in one of ALLOWED_EXTENSIONS, in any case."""
    return extension(name) in FORMATS
