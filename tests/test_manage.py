"""manage.py in processes of its own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

SCRIPT = """
import gc
out = open({path!r}, "w")
def write(line):
    out.write(line)
write("42 pictures")
gc.collect()  # as a longer script does without asking
"""


def test_a_script_in_the_shell_may_leave_its_file_to_python_to_close(tmp_path: Path) -> None:
    written = tmp_path / "written"
    result = subprocess.run(
        [sys.executable, "manage.py", "shell", "--verbosity=0", "--command", SCRIPT.format(path=str(written))],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "SECRET_KEY": "x", "DATABASE_URL": f"sqlite:///{tmp_path}/db.sqlite3"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert written.read_text() == "42 pictures"
