"""What Django itself makes of a request, which its test client passes by: through the door that gunicorn knocks at."""

import json
from io import BytesIO
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest

pytestmark = pytest.mark.django_db


class BrokenOff(BytesIO):
    """A body of which no more comes."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def read(self, size: int | None = -1) -> bytes:
        raise self._error


@pytest.fixture(name="ask")
def _ask() -> Any:
    from imagesearch.wsgi import application

    def ask(path: str, *, method: str = "GET", body: Any = b"", **environ: Any) -> tuple[int, dict[str, Any]]:
        """Return the status and the body of the answer."""
        statuses: list[str] = []
        path, _, query = path.partition("?")
        stream = BytesIO(body) if isinstance(body, bytes) else body
        request: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "HTTP_HOST": "localhost",
        }
        request |= {"CONTENT_LENGTH": str(len(body)) if isinstance(body, bytes) else "100", "wsgi.input": stream}
        request |= environ
        setup_testing_defaults(request)
        answer = b"".join(application(request, lambda status, headers: statuses.append(status)))
        return int(statuses[0].split()[0]), json.loads(answer)

    return ask


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain; charset=hex",
        "text/plain; charset=idna",
        "text/plain; charset=undefined",
        "text/plain; charset=utf-16",
        "text/plain; charset*=nobody''utf-8",
        "multipart/form-data; boundary*=nobody'x'%41",
    ],
)
def test_no_charset_is_a_fault_of_ours(ask: Any, content_type: str) -> None:
    assert ask("/api/images/nobody?page=%ff", CONTENT_TYPE=content_type)[0] == 400
    status, body = ask("/api/search/nobody", method="POST", body=b"--A--", CONTENT_TYPE=content_type)
    assert (status, body["success"]) == (400, False)


def test_text_is_utf_8_whatever_the_client_calls_it(ask: Any) -> None:
    status, body = ask("/api/stats/nobody", CONTENT_TYPE="text/plain; charset=latin-1")
    assert (status, body["error"]) == (400, "Company 'nobody' not found")


def test_too_many_parameters_are_refused_with_a_charset_too(ask: Any) -> None:
    status, body = ask(f"/api/images/nobody?{'a&' * 1500}", CONTENT_TYPE="text/plain; charset=utf-8")
    assert (status, body["success"]) == (400, False)


@pytest.mark.parametrize("error", [TimeoutError("timed out"), ConnectionResetError(), OSError("broken")])
def test_a_body_that_breaks_off_is_no_fault_of_ours(ask: Any, make_company: Any, error: Exception) -> None:
    make_company("acme", {"red.png": (200, 30, 30)})
    kind = "multipart/form-data; boundary=x"
    status, body = ask("/api/search/acme", method="POST", body=BrokenOff(error), CONTENT_TYPE=kind)
    assert status == 400
    assert body["error"] == "The request ended before its body was complete"
    assert body["code"] == "body_incomplete"
