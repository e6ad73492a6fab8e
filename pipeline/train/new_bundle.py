"""The files of a new bundle, and the step that puts all of them in place at once."""

import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import yaml
from safetensors.torch import save_file
from torch import Tensor

from anomalyd.errors import ConfigError
from anomalyd.pipeline.bundle import DESCRIPTION, SUMS, WEIGHTS, BundleDescription, Calibration, seal

_AT_FDCWD: Final = -100  # linux/fcntl.h
_RENAME_EXCHANGE: Final = 2  # linux/fs.h
UNCALIBRATED = Calibration(scans=0, subjects=(), note="not calibrated yet", modes={})


def check_place(out: Path) -> None:
    """Raises ConfigError where no bundle can be put at `out`: before hours of work, not after them."""
    if out.exists() and not (out / SUMS).exists() and any(out.iterdir()):
        raise ConfigError(f"{out} exists and is no bundle: give another path")
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if out.is_mount():
        raise ConfigError(f"{out} is a mount point and cannot be replaced: mount the folder above it")
    for folder in (parent, *([out] if out.exists() else [])):
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ConfigError(
                f"{folder} cannot be written: a bundle is made beside its place, and put there when whole"
            )


@contextmanager
def fresh_bundle(out: Path) -> Iterator[Path]:
    """A folder for the files; at the end it is sealed and stands at `out`, also where an older bundle stood.

    After an error `out` is as it was; killed at any moment, it is the older bundle or the new one, whole. Raises
    ConfigError where `out` holds something that is no bundle, or cannot be written.
    """
    check_place(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        fresh = Path(scratch) / out.name
        fresh.mkdir()
        yield fresh
        seal(fresh)
        os.sync()  # else a power cut may leave the name on files that are not written yet
        if out.exists():
            _exchange(fresh, out)
        else:
            fresh.rename(out)


@contextmanager
def changed_bundle(bundle: Path) -> Iterator[Path]:
    """As fresh_bundle, beginning with the files of the bundle that stands there."""
    with fresh_bundle(bundle) as fresh:
        for path in sorted(bundle.iterdir()):
            if path.is_file():
                shutil.copy2(path, fresh / path.name)
        yield fresh


def _exchange(one: Path, other: Path) -> None:
    """Two folders change names in one step (renameat2(2)); in two where the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    here, there = os.fsencode(one), os.fsencode(other)
    if renameat2 is None or renameat2(_AT_FDCWD, here, _AT_FDCWD, there, _RENAME_EXCHANGE):
        other.rename(one.with_name(f"{one.name}.older"))
        one.rename(other)


def write_description(folder: Path, description: BundleDescription) -> None:
    """bundle.yaml."""
    text = yaml.safe_dump(description.model_dump(mode="json"), sort_keys=False, width=118, allow_unicode=True)
    (folder / DESCRIPTION).write_text(text, encoding="utf-8")


def write_weights(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """model.safetensors, float32."""
    save_file({name: value.detach().float().contiguous().cpu() for name, value in weights.items()}, folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)  # safetensors makes it private; a bundle is read by the service's user
