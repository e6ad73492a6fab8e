"""The one line that says which program and which model made a result, and what it ran with."""

import platform
from importlib import metadata
from typing import Final

from anomalyd import __version__
from anomalyd.pipeline.finding import Model

PRODUCT: Final = "anomalyd"
RESEARCH_USE: Final = "RESEARCH USE ONLY"
_LONG_STRING = 64  # PS3.5 table 6.2-1, VR LO: Software Versions and Algorithm Version hold the line
_DIGEST_SHOWN = 16
_PACKAGES = ("anomalyd", "torch", "numpy", "scipy", "SimpleITK", "highdicom", "pydicom", "diffusers", "deepbet")


def version_line(model: Model | None) -> str:
    """`anomalyd 0.1.0, bundle ID DIGEST`: the same text in every result, the report and the audit; None: no bundle.

    ASCII, since it must stand in objects of any character set; at most 64 characters: a longer bundle id is cut, the
    first 16 digits of the digest never are.
    """
    if model is None:
        return f"{PRODUCT} {__version__}"
    head, tail = f"{PRODUCT} {__version__}, bundle ", f" {model.digest[:_DIGEST_SHOWN]}"
    ascii_id = model.bundle_id.encode("ascii", "replace").decode().replace("\\", "?")
    return head + ascii_id[: _LONG_STRING - len(head) - len(tail)] + tail


def package_versions() -> dict[str, str]:
    """Versions of what computes: python and the packages that decide the numbers; "absent" where not installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"
