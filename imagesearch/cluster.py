"""python -m imagesearch.cluster [DIRECTORY]: start what supervisord-cluster.conf names, until Ctrl-C.

What docs/scaling.md spreads over machines, on this one, for trying: two web servers and two workers with nothing in
common but PostgreSQL, Redis, an S3 server and the pictures. Each start begins anew, because the S3 server, moto's,
keeps its objects in memory.
"""

import fcntl
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from imagesearch.environment import ERRORS, read, whole_number

_CODE = Path(__file__).resolve().parent.parent
_BUCKET = "imagesearch"
_WAIT_SECONDS = 60
# Beside PORT, at which nginx answers.
_PORTS = {"PORT_WRITER": 1, "PORT_READER": 2, "PORT_STORE": 3, "PORT_POSTGRES": 4, "PORT_REDIS": 5}
_DIRECTORIES = ("media", "embeddings", "writer", "reader", "worker-1", "worker-2", "prepare", "redis", "nginx")


def main() -> None:
    directory = Path(sys.argv[1] if sys.argv[1:] else _CODE / ".cluster").absolute()
    port = read("PORT", "5000", whole_number(1, 65535 - len(_PORTS)), f"a port number with {len(_PORTS)} behind it")
    if ERRORS:
        sys.exit("\n".join(ERRORS))
    ports = _ports(port)
    postgres = _postgres()
    if not (postgres and shutil.which("redis-server")):
        sys.exit(
            "PostgreSQL and Redis are not installed here: on Debian, apt install postgresql redis-server nginx-light"
        )
    if _is_in_use(directory):
        sys.exit(f"What was started in {directory} still runs: end it first, or name another directory")
    if taken := [each for each in (port, *map(int, ports.values())) if _listens(each)]:
        sys.exit(f"Port {taken[0]} is in use: set PORT to the first of {1 + len(ports)} that are free")
    if directory.exists() and not (directory / "nginx.conf").exists():
        sys.exit(f"{directory} is not what an earlier start has left: it would be removed")
    shutil.rmtree(directory, ignore_errors=True)
    for name in _DIRECTORIES:
        (directory / name).mkdir(parents=True)
    (directory / "nginx.conf").write_text(_nginx_conf(port, ports))
    held = (directory / "nginx.conf").open()  # as long as we run; see _is_in_use()
    fcntl.flock(held, fcntl.LOCK_EX)
    os.environ.update(
        _settings(directory, ports),
        **ports,
        PORT=str(port),
        CLUSTER=str(directory),
        PYTHON=sys.executable,
        POSTGRES=str(postgres / "postgres"),
        AS_POSTGRES=" ".join(_as_postgres()),
        FRONT=shutil.which("nginx") or "",  # not NGINX, which nginx takes for the sockets of an earlier one
    )
    _make_database(postgres, directory / "postgres")
    from imagesearch import supervise  # late: it reads the settings

    supervise.main(Path(__file__).with_name("supervisord-cluster.conf"))


def _is_in_use(directory: Path) -> bool:
    with suppress(FileNotFoundError), (directory / "nginx.conf").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _postgres() -> Path | None:
    """Return the directory with initdb and postgres."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    initdb = debian[-1] if debian else shutil.which("initdb")
    return Path(initdb).parent if initdb else None


def _as_postgres() -> list[str]:
    """Return what starts a command as the user postgres if we are root, as whom PostgreSQL refuses to run."""
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []


def _settings(directory: Path, ports: dict[str, str]) -> dict[str, str]:
    return {
        "SECRET_KEY": secrets.token_urlsafe(64),
        "DATABASE_URL": f"postgres://postgres@127.0.0.1:{ports['PORT_POSTGRES']}/postgres",
        "CACHE_URL": f"redis://127.0.0.1:{ports['PORT_REDIS']}/0",
        "IMAGESEARCH_STORE": f"s3://{_BUCKET}/indexes",
        "IMAGESEARCH_STORE_ENDPOINT": f"http://127.0.0.1:{ports['PORT_STORE']}",
        "AWS_ACCESS_KEY_ID": "imagesearch",
        "AWS_SECRET_ACCESS_KEY": "imagesearch",
        "AWS_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "IMAGESEARCH_MEDIA_DIR": str(directory / "media"),
        "IMAGESEARCH_EMBEDDINGS_DIR": str(directory / "embeddings"),
        "HOST": "127.0.0.1",
        "NUM_PROXIES": "1",
        "WEB_PROCESSES": "1",
    }


def _make_database(postgres: Path, data: Path) -> None:
    data.mkdir()
    if os.geteuid() == 0:
        shutil.chown(data, "postgres", "postgres")
    command = [*_as_postgres(), str(postgres / "initdb"), "--auth=trust", "--username=postgres", "--no-sync"]
    subprocess.run([*command, f"--pgdata={data}"], check=True, stdout=subprocess.DEVNULL, cwd=data)


def _nginx_conf(port: int, ports: dict[str, str]) -> str:
    """Return deploy/nginx.conf for the two servers here, without TLS."""
    example = (_CODE / "deploy/nginx.conf").read_text().partition("\nserver {\n    listen 80;")[0]
    example = re.sub(r"^.*(\[::\]|ssl_certificate).*\n", "", example, flags=re.MULTILINE)
    for there, here in {
        "10.0.0.11:5000": f"127.0.0.1:{ports['PORT_WRITER']}",
        "10.0.0.12:5000": f"127.0.0.1:{ports['PORT_READER']}",
        "listen 443 ssl": f"listen 127.0.0.1:{port}",
    }.items():
        example = example.replace(there, here)
    user = "user root;\n" if os.geteuid() == 0 else ""  # its own would not be let into our directory
    places = "".join(
        f"{kind}_temp_path nginx/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"{user}pid nginx/pid;\nevents {{}}\nhttp {{\naccess_log nginx/access.log;\n{places}\n{example}\n}}\n"


def prepare(directory: Path, port: int) -> None:
    """Make the bucket, the tables and the demo, and let the servers and workers start."""
    ports = _ports(port)
    for name in ("PORT_POSTGRES", "PORT_STORE"):
        _wait_for(int(ports[name]), directory)
    bucket = f"http://127.0.0.1:{ports['PORT_STORE']}/{_BUCKET}"
    with urllib.request.urlopen(urllib.request.Request(bucket, method="PUT")):
        pass
    subprocess.run([sys.executable, "manage.py", "prepare"], check=True, cwd=_CODE)
    where = {name: f"http://localhost:{ports[name]}/" for name in ("PORT_WRITER", "PORT_READER")}
    sys.stdout.write(f"Takes writes: {where['PORT_WRITER']}\nRead-only:    {where['PORT_READER']}\n")
    (directory / "ready").touch()


def _ports(port: int) -> dict[str, str]:
    return {name: str(port + beside) for name, beside in _PORTS.items()}


def _wait_for(port: int, directory: Path) -> None:
    deadline = time.monotonic() + _WAIT_SECONDS
    while not _listens(port):
        if time.monotonic() > deadline:
            sys.exit(f"Nothing listens at port {port}: see the logs in {directory}")
        time.sleep(0.1)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["prepare"]:
        prepare(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
