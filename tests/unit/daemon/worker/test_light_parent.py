"""The worker's parent holds leases, not models: what is heavy is loaded in the child alone."""

import subprocess
import sys


def test_the_parent_loads_no_pixel_library() -> None:
    code = (
        "import sys, anomalyd.daemon.worker.run; "
        "print(*sorted({'torch', 'SimpleITK', 'highdicom', 'deepbet', 'diffusers'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == ""
