import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search.engine.model.names import BUILTIN
from tests.support.processes import ROOT

pytestmark = pytest.mark.slow


def test_the_benchmark_says_what_a_few_pictures_come_to(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(12):
        blocks = Image.fromarray(rng.integers(0, 256, (5, 4, 3), np.uint8))
        (tmp_path / "photos").mkdir(exist_ok=True)
        blocks.resize((160, 200), Image.Resampling.BICUBIC).save(tmp_path / f"photos/{number}.jpg")
    command = f"-m benchmarks.quality --weights {BUILTIN} --photos {tmp_path / 'photos'} --output {tmp_path} --no-plot"
    subprocess.run(
        [sys.executable, *command.split(), "--most=12", "--searches=2"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
        timeout=300,
    )
    catalogues = json.loads((tmp_path / "quality.json").read_text())["catalogues"]
    assert [(name, of["drawn"]) for name, of in catalogues.items()] == [
        ("photographs", False),
        ("shelf", True),
        ("mixed", True),
    ]
    assert (catalogues["photographs"]["pictures"], catalogues["photographs"]["left_out"]) == (10, 2)
    assert catalogues["photographs"]["copies"]["kinds"]["saved again, JPEG 95"]["found_first"] == 1
    assert catalogues["photographs"]["crops"]["20%"]["with_box"] == 1
