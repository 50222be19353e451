"""What a publication costs in a folder and in a store, turn by turn: CPU, bytes on disk and in the store.

Usage: python -m benchmarks.publishing INDEX_DIRECTORY [--rounds 3]

The store is moto's, in a process of its own, whose CPU does not count; its wall times say little of a real one's.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import installation
from tests.support.object_store import KEYS, StoreServer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("index", type=Path, help="directory of an index, of which nothing is changed")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    os.environ.update(KEYS)
    server = StoreServer()
    try:
        with tempfile.TemporaryDirectory(dir=chosen.index.resolve().parent.parent.parent.parent) as scratch:
            _measure(chosen.index.resolve(), Path(scratch), server, chosen.rounds)
    finally:
        server.stop()


def _measure(index: Path, scratch: Path, server: StoreServer, rounds: int) -> None:
    installation.set_up(scratch, "builtin")
    from django.conf import settings

    from search import replica, stores
    from tenants.models import Company

    settings.KEEP_GENERATIONS = 0
    url = server.make_bucket()
    for name in ("folder", "store"):
        Company.objects.create(name=name)
    for _ in range(rounds):
        for name, store, place in (("folder", "", "embeddings"), ("store", url, "publisher")):
            settings.STORE, settings.STORE_ENDPOINT, settings.INDEX_DIR = store, server.endpoint, scratch / place
            settings.INDEX_DIR.mkdir(exist_ok=True)
            company = Company.objects.get(name=name)
            _tell(f"published into the {name}", partial(_publish, company, index))
        root = stores.root()
        assert root is not None
        print(
            f"  {_bytes(scratch / 'embeddings')} MB in the folder; {_bytes(settings.INDEX_DIR)} MB on the publisher, "
        )
        print(f"  {sum(each.size for each in root.listing()) / 1e6:.0f} MB in the store")
        settings.INDEX_DIR = scratch / "web"
        _tell(
            "fetched by another machine", partial(replica.at_hand, company, str(company.generation), wait_seconds=None)
        )


def _publish(company, index: Path) -> None:  # type: ignore[no-untyped-def]
    from search import publication
    from search.engine import storage

    with storage.Draft(company.embeddings_directory) as draft:
        for file in index.iterdir():
            os.link(file, draft.path / file.name)
        publication.publish(company, draft, made_from=company.generation)


def _tell(what: str, act: Callable[[], object]) -> None:
    cpu, wall = time.process_time(), time.monotonic()
    act()
    print(f"{what}: {time.process_time() - cpu:.2f} s of CPU, {time.monotonic() - wall:.1f} s")


def _bytes(place: Path) -> str:
    return f"{sum(file.stat().st_size for file in place.rglob('*') if file.is_file()) / 1e6:.0f}"


if __name__ == "__main__":
    main()
