"""Reads multipart/form-data as clients send it: names in any charset, long heads, text after the end.

Django's own parser, which the pages use, loses a part whose head is not UTF-8, refuses heads of more than 1 KB, and
reads on after the last boundary.
"""

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from urllib.parse import unquote_to_bytes

MAX_HEAD_BYTES = 8 * 1024  # of one part

_PARAMETER = re.compile(r';\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;"]*))', re.DOTALL)


class FormBroken(ValueError):
    """The body is no form; the message says why."""


@dataclass(frozen=True, slots=True)
class Part:
    """One field of a form."""

    name: str
    filename: str | None  # as the client sent it, with folders if it sent some; None for a part without one
    content: bytes


def split_form(body: bytes, boundary: bytes) -> Iterator[Part]:
    """Yield the named parts of a form, in their order. Raises FormBroken.

    Lines may end in CRLF or LF. A form that ends without its last boundary ends where the body does.
    """
    delimiter = b"--" + boundary
    start = body.find(delimiter)
    if start < 0:
        raise FormBroken("The body does not contain the boundary that the Content-Type header names")
    while start >= 0:
        start += len(delimiter)
        if body.startswith(b"--", start):
            return
        following = body.find(b"\n" + delimiter, start)
        part = _read_part(body, start, len(body) if following < 0 else following)
        if part:
            yield part
        start = following + 1 if following >= 0 else -1


def _read_part(body: bytes, start: int, stop: int) -> Part | None:
    """Return the part between two boundaries; None where it has no name."""
    last = min(stop + 1, start + MAX_HEAD_BYTES + 4)
    ends = [(at, len(gap)) for gap in (b"\r\n\r\n", b"\n\n") if (at := body.find(gap, start, last)) >= 0]
    end, gap = min(ends, default=(stop, 0))
    if end - start > MAX_HEAD_BYTES:
        raise FormBroken(f"The head of a part is longer than {MAX_HEAD_BYTES} bytes")
    fields = _head_fields(body[start:end])
    disposition = _parameters(fields.get("content-disposition", ""))
    if not disposition.get("name"):
        return None
    content = body[end + gap : stop].removesuffix(b"\r")
    if fields.get("content-transfer-encoding", "").strip().lower() == "base64":
        content = _decode_base64(content)
    return Part(disposition["name"].strip(), _file_name(disposition), content)


def _head_fields(head: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in as_text(head).splitlines())
    return {name.strip().lower(): value for name, colon, value in lines if colon}


def as_text(content: bytes) -> str:
    """Return text of an unknown charset: UTF-8 if it can be that, otherwise that of Western Windows."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def _parameters(value: str) -> dict[str, str]:
    return {
        name.lower(): re.sub(r'\\(["\\])', r"\1", quoted) or plain.strip()
        for name, quoted, plain in _PARAMETER.findall(value)
    }


def _file_name(disposition: dict[str, str]) -> str | None:
    """Return the file name; of two, the one that says its charset (filename*)."""
    charset, quote, extended = disposition.get("filename*", "").partition("'")
    if quote:
        return _decode_name(unquote_to_bytes(extended.partition("'")[2]), charset)
    name = disposition.get("filename")
    if name and name.startswith("=?"):  # an encoded word of e-mail: some libraries send nothing else
        try:
            return str(make_header(decode_header(name)))
        except (HeaderParseError, LookupError, ValueError):
            return name
    return name


def _decode_name(name: bytes, charset: str) -> str:
    try:
        return name.decode(charset)
    except (LookupError, ValueError):
        return as_text(name)


def _decode_base64(content: bytes) -> bytes:
    try:
        return base64.b64decode(content)
    except binascii.Error as error:
        raise FormBroken("A part is not the base64 that its head says it is") from error
