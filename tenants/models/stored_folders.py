"""Folders in an object store, as URLs: s3://bucket/prefix."""

import re

SCHEME = "s3://"
_LIKE_ONE = re.compile(r"\s*s3:/", re.IGNORECASE)
# What every client writes into an address as it is: two URLs that differ are two folders.
_URL = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/(?P<prefix>\w[\w. +@,()=!~'&-]*(/\w[\w. +@,()=!~'&-]*)*)/?")


def is_stored(folder: str) -> bool:
    """Return whether an image folder, as somebody has written it, is meant to lie in an object store."""
    return bool(_LIKE_ONE.match(folder))


def problem_of(folder: str) -> str:
    """Return in a sentence why a folder in a store cannot be one, "" where it can."""
    found = _URL.fullmatch(folder)
    if found and not any(part.endswith((" ", ".")) for part in found["prefix"].split("/")):
        return ""
    return (
        f"{folder} is not a folder in a store: write s3://bucket/folder, folders of letters, digits, spaces and "
        "._+@,()=!~'&- that begin with a letter, a digit or _ and do not end with a space or a dot."
    )


def is_below(folder: str, other: str) -> bool:
    """Return whether a folder is another, or lies in it."""
    return f"{folder.rstrip('/')}/".startswith(f"{other.rstrip('/')}/")


def overlap(one: str, other: str) -> bool:
    return is_below(one, other) or is_below(other, one)
