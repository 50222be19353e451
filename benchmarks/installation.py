import os
from pathlib import Path


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
