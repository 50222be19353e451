import os
import platform
from pathlib import Path
from typing import Any


def set_up(scratch: Path, weights: str, **environment: str) -> None:
    """Make this process, and the servers it starts, an installation whose data lies in scratch."""
    os.environ.update(
        DJANGO_SETTINGS_MODULE="imagesearch.settings",
        IMAGESEARCH_EMBEDDINGS_DIR=str(scratch / "embeddings"),
        IMAGESEARCH_MEDIA_DIR=str(scratch / "media"),
        IMAGESEARCH_WEIGHTS=weights,
        LOG_LEVEL="WARNING",
        **{"DATABASE_URL": f"sqlite:///{scratch / 'db.sqlite3'}", **environment},
    )
    (scratch / "embeddings").mkdir()
    (scratch / "media").mkdir()
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)


def machine() -> dict[str, Any]:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }
