"""The gateway's process holds neither what computes nor what decodes pixels."""

import subprocess
import sys

HEAVY = ("torch", "SimpleITK", "diffusers", "deepbet", "highdicom", "nibabel", "scipy")
FOR_PIXELS = ("numpy", "PIL", "pylibjpeg", "requests")


def loaded_after(code: str) -> set[str]:
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*(n for n, m in sys.modules.items() if m is not None))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(run.stdout.split())


def test_the_gateway_never_imports_what_computes() -> None:
    loaded = loaded_after("import anomalyd.daemon.gateway.run, anomalyd.daemon.gateway.scp")
    assert "pynetdicom" in loaded
    assert not loaded & set(HEAVY)


def test_the_command_keeps_pixel_libraries_out() -> None:
    loaded = loaded_after(
        "from anomalyd.daemon.gateway.lean import keep_out_pixel_libraries\n"
        "import anomalyd.daemon.cli\n"
        "keep_out_pixel_libraries()\n"
        "import anomalyd.daemon.gateway.run"
    )
    assert "pynetdicom" in loaded
    assert not loaded & {*HEAVY, *FOR_PIXELS}
