"""Real servers, and those who call them."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import requests
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client

from tests.conftest import Colour, picture
from tests.support.processes import ROOT, Site
from tests.support.waiting import eventually

_SECONDS = 90  # for an answer


class Server:
    """What answers at a URL."""

    def __init__(self, url: str) -> None:
        self.url = url

    def found(self, company: str, colour: Colour) -> list[str]:
        """Return the paths that a search finds, closest first."""
        answer = self.search(company, colour)
        assert answer.status_code == 200, answer.text
        return [entry["fullPath"] for entry in answer.json()["results"]]

    def search(self, company: str, colour: Colour) -> requests.Response:
        files = {"image": ("query.png", picture(colour), "image/png")}
        return requests.post(f"{self.url}/api/search/{company}", files=files, data={"top_k": 50}, timeout=_SECONDS)

    def get(self, path: str) -> Any:
        answer = requests.get(self.url + path, timeout=_SECONDS)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def status(self, path: str) -> int:
        return requests.get(self.url + path, timeout=_SECONDS).status_code

    def put(self, company: str, path: str, colour: Colour, key: str) -> None:
        headers = {"X-API-Key": key, "Content-Type": "image/png"}
        address = f"{self.url}/api/images/{company}/{path}"
        answer = requests.put(address, picture(colour).getvalue(), headers=headers, timeout=_SECONDS)
        assert answer.status_code in (200, 201), answer.text

    def delete(self, company: str, path: str, key: str) -> None:
        address = f"{self.url}/api/images/{company}/{path}"
        answer = requests.delete(address, headers={"X-API-Key": key}, timeout=_SECONDS)
        assert answer.status_code == 200, answer.text


def environment_of(site: Site) -> dict[str, str]:
    """Return the environment of processes that share the database and the directories of a site."""
    return {
        "PATH": os.environ["PATH"],
        "SECRET_KEY": settings.SECRET_KEY,  # sessions made in the test are valid here
        "DATABASE_URL": site.database_url,
        "IMAGESEARCH_EMBEDDINGS_DIR": str(site.directory / "embeddings"),
        "IMAGESEARCH_MEDIA_DIR": str(site.directory / "media"),
        "WEB_PROCESSES": "1",
    }


class Gunicorn(Server):
    """gunicorn with one process on the database and the directories of a site, with a model that needs no weights."""

    CONFIGURATION = "tests/support/gunicorn_conf.py"

    def __init__(self, site: Site, number: int = 0, *, bound: Sequence[str] = (), **environment: str) -> None:
        """bound: a command that runs another one, with less rights."""
        self.log = site.directory / f"server-{number}.log"
        options = ["--config", self.CONFIGURATION, "--bind", "127.0.0.1:0"]
        command = [*bound, sys.executable, "-m", "gunicorn", *options, "imagesearch.asgi"]
        with self.log.open("wb") as stderr:
            self._master = subprocess.Popen(
                command, cwd=ROOT, env={**environment_of(site), **environment}, stderr=stderr
            )
        listens = eventually(lambda: re.search(r"http://127\.0\.0\.1:\d+", self.log.read_text()), "gunicorn listens")
        super().__init__(listens[0])

    def stop(self) -> None:
        self._master.terminate()
        self._master.wait(60)


def forked_server(site: Site, machine: str = "") -> Server:
    """Start Django's own server, which is there sooner than gunicorn; the site stops it. machine: see Site.manage."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    process = site.manage("runserver", "--noreload", address, machine=machine)
    eventually(lambda: process.status is not None or _answers(address), "the server answers")
    assert process.status is None, process.output
    return Server(f"http://{address}")


def _answers(address: str) -> bool:
    try:
        return requests.get(f"http://{address}/api/health/live", timeout=_SECONDS).ok
    except requests.ConnectionError:
        return False


class Browser:
    """A superuser in a server's admin."""

    def __init__(self, server: Server, name: str = "ann") -> None:
        self._server = server
        client = Client()
        client.force_login(User.objects.get_or_create(username=name, is_staff=True, is_superuser=True)[0])
        self._session = requests.Session()
        self._session.cookies.set("sessionid", client.cookies["sessionid"].value)

    def status(self, page: str) -> int:
        return self._session.get(self._server.url + page, timeout=_SECONDS).status_code

    def press(self, address: str) -> int:
        """Post to an address as a page's button does, and return the status."""
        token = self._session.cookies.get("csrftoken") or ""
        form = {"csrfmiddlewaretoken": token}
        return self._session.post(self._server.url + address, form, timeout=_SECONDS).status_code

    def submit(self, page: str, **form: str) -> str:
        """Fill in the form of a page, what is ticked in it included, and return the page that it leads to."""
        address = self._server.url + page
        asked = self._session.get(address, timeout=_SECONDS)
        assert asked.status_code == 200, asked.text
        answer = self._session.post(address, _filled_in(asked.text) | form, timeout=_SECONDS)
        assert answer.status_code == 200, answer.text
        return answer.text

    def press_and_confirm(self, page: str, address: str) -> str:
        """Press a page's button that posts to an address, and the one that confirms it; return where that leads."""
        text = self._session.get(self._server.url + page, timeout=_SECONDS).text
        for _ in range(2):
            answer = self._session.post(self._server.url + address, _filled_in(text), timeout=_SECONDS)
            assert answer.status_code == 200, answer.text
            text = answer.text
        return text


def _filled_in(page: str) -> dict[str, str]:
    """Return what a browser would send of the page's hidden fields and ticked boxes."""
    tags = [dict(re.findall(r'(\w+)="([^"]*)"', tag)) | {"tag": tag} for tag in re.findall(r"<input[^>]*>", page)]
    sent = [tag for tag in tags if tag.get("type") == "hidden" or re.search(r"\bchecked\b", tag["tag"])]
    return {tag["name"]: tag.get("value", "on") for tag in sent if "name" in tag}
