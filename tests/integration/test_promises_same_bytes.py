"""Promise (DESIGN 6): the same input, bundle and device give the same bytes, in another process and another order."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from anomalyd.pipeline.bundle import shipped_bundles
from demo.head import CENTRE_LPS, make_head
from phantoms import PhantomWriter

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ANALYSE = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from anomalyd.pipeline.analyse import Runtime
from anomalyd.pipeline.offline import Request, analyse_path
from anomalyd.pipeline.settings import PipelineSettings
now = datetime(2026, 1, 5, 10, 15, tzinfo=UTC)
request = Request(PipelineSettings(), now, runtime=Runtime("cpu", threads=1), writes_nifti=True)
done = analyse_path(Path(sys.argv[1]), Path(sys.argv[2]), request)
sys.exit(done.exit_code)
"""
LIMIT_S = 400.0


def begin(source: Path, out: Path, hash_seed: str) -> "subprocess.Popen[bytes]":
    """A fresh process that analyses a folder."""
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.Popen([sys.executable, "-c", ANALYSE, source, out], env=environment)


def made(out: Path) -> dict[str, str]:
    """SHA-256 of every file; of report.json without what took how long."""
    return {str(p.relative_to(out)): digest(p) for p in sorted(out.rglob("*")) if p.is_file()}


def digest(path: Path) -> str:
    content = path.read_bytes()
    if path.name == "report.json":
        report: dict[str, Any] = json.loads(content)
        report["timings_s"] = sorted(report["timings_s"])
        content = json.dumps(report).encode()
    return hashlib.sha256(content).hexdigest()


def test_two_runs_make_the_same_files(tmp_path: Path) -> None:
    assert shipped_bundles()
    series = PhantomWriter(
        plane="sagittal", spacing_mm=(2.0, 2.0, 2.0), shape=(88, 128, 128), centre_lps=CENTRE_LPS
    ).write_volume(make_head().volume, tmp_path / "as-sent")
    other_order = tmp_path / "as-found"
    other_order.mkdir()
    for number, file in enumerate(reversed(series.files)):
        (other_order / f"{number:04d}.dcm").write_bytes(file.read_bytes())

    with (
        begin(series.folder, tmp_path / "first", "1") as one,
        begin(other_order, tmp_path / "second", "2") as other,
    ):
        assert (one.wait(LIMIT_S), other.wait(LIMIT_S)) == (0, 0)
    first, second = made(tmp_path / "first"), made(tmp_path / "second")

    assert {name for name in first if first[name] != second.get(name)} == set()
    assert first.keys() == second.keys()
    assert {"report.json", "contact-sheet.png", "anomaly-map.nii.gz", "anomaly-mask.nii.gz"} <= first.keys()
    assert sum(name.startswith("heatmap/") for name in first) == series.grid.shape[0]
