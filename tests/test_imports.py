"""What a process loads, seen in fresh interpreters: the model is for those that embed, Django is not for the engine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODEL_LIBRARIES = ("torch", "torchvision", "onnx", "onnxruntime", "openvino")


def loaded_by(code: str, tmp_path: Path) -> set[str]:
    """Return the names of all modules that a fresh interpreter has after running code."""
    listing = tmp_path / "modules"
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; open({str(listing)!r}, 'w').write(' '.join(sys.modules))"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "SECRET_KEY": "x", "DATABASE_URL": f"sqlite:///{tmp_path}/db.sqlite3"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    return set(listing.read_text().split())


COMMANDS = """
import os; os.environ['DJANGO_SETTINGS_MODULE'] = 'imagesearch.settings'
from django.core.management import execute_from_command_line as run
run(['manage.py', 'check'])
run(['manage.py', 'migrate', '--plan'])
"""


@pytest.mark.parametrize(
    ("code", "module"),
    [
        (COMMANDS, "imagesearch.urls"),
        ("import imagesearch.wsgi", "search.api.urls"),
        ("import search.engine.model.embedder", "search.engine.model.embedder"),
    ],
    ids=["commands", "wsgi", "embedder"],
)
def test_the_model_is_not_loaded_before_somebody_embeds(code: str, module: str, tmp_path: Path) -> None:
    modules = loaded_by(code, tmp_path)
    assert module in modules
    assert modules.isdisjoint(MODEL_LIBRARIES)


def command(*words: str) -> str:
    """Return code that runs manage.py, as far as to a query of a table, since none has been made."""
    return (
        f"import runpy, sys; sys.argv = ['manage.py', *{words}]\n"
        "from contextlib import suppress; from django.db import OperationalError\n"
        "with suppress(OperationalError): runpy.run_path('manage.py', run_name='__main__')"
    )


@pytest.mark.parametrize("words", [("help",), ("builds",), ("revoke_api_key", "0a1b")], ids=" ".join)
def test_a_command_that_needs_no_index_loads_neither_engine_nor_pages(words: tuple[str, ...], tmp_path: Path) -> None:
    modules = loaded_by(command(*words), tmp_path)
    assert "search.checks" in modules
    assert modules.isdisjoint({*MODEL_LIBRARIES, "numpy", "faiss", "PIL"})
    assert modules.isdisjoint({"imagesearch.urls", "drf_spectacular.openapi", "rest_framework.views", "tenants.admin"})


def test_a_check_of_the_admin_covers_the_pages_of_all_apps(tmp_path: Path) -> None:
    modules = loaded_by(command("check", "--tag", "admin"), tmp_path)
    assert {"tenants.admin", "search.admin.companies"} <= modules


def test_the_engine_works_without_django(tmp_path: Path) -> None:
    files = [path.relative_to(ROOT) for path in (ROOT / "search/engine").rglob("[a-z]*.py")]
    late = ("torch_model", "network", "export")
    names = sorted(".".join(file.with_suffix("").parts) for file in files if file.stem not in late)
    assert {"search.engine.pictures.decode", "search.engine.index.index", "search.engine.build.builder"} <= set(names)
    modules = loaded_by(f"import {', '.join(names)}", tmp_path)
    assert not {name for name in modules if name.partition(".")[0] in {"django", "rest_framework", "tenants"}}
    assert modules.isdisjoint(MODEL_LIBRARIES)


@pytest.mark.parametrize("module", ["search.engine.vectors", "search.engine.index.index", "search.engine.storage"])
def test_vectors_and_indexes_are_read_without_pillow(module: str, tmp_path: Path) -> None:
    modules = loaded_by(f"import {module}", tmp_path)
    assert module in modules
    assert "PIL" not in modules


def test_vectors_need_numpy_alone(tmp_path: Path) -> None:
    modules = loaded_by("import search.engine.vectors", tmp_path)
    assert "numpy" in modules
    assert not {name for name in modules if name.partition(".")[0] in {"faiss", "filelock", "onnxruntime"}}


def test_the_rows_work_without_the_engine(tmp_path: Path) -> None:
    code = (
        "import django; from django.conf import settings\n"
        "settings.configure(INSTALLED_APPS=['django.contrib.contenttypes', 'django.contrib.auth', 'tenants'])\n"
        "django.setup(); import tenants.models"
    )
    modules = loaded_by(code, tmp_path)
    assert not {name for name in modules if name.partition(".")[0] in {"search", "rest_framework", "faiss", "numpy"}}
