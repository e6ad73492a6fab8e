"""The files of a new bundle, and the step that puts all of them in place at once."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml
from safetensors.torch import save_file
from torch import Tensor

from anomalyd.errors import ConfigError
from anomalyd.pipeline.bundle import DESCRIPTION, SUMS, WEIGHTS, BundleDescription, Calibration, seal

UNCALIBRATED = Calibration(scans=0, subjects=(), note="not calibrated yet", modes={})


@contextmanager
def fresh_bundle(out: Path) -> Iterator[Path]:
    """A folder for the files; at the end it is sealed and stands at `out`, also where an older bundle stood.

    After an error `out` is as it was. Raises ConfigError where `out` holds something that is no bundle.
    """
    if out.exists() and not (out / SUMS).exists() and any(out.iterdir()):
        raise ConfigError(f"{out} exists and is no bundle: give another path")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        fresh = Path(scratch) / out.name
        fresh.mkdir()
        yield fresh
        seal(fresh)
        if out.exists():
            shutil.rmtree(out)
        fresh.rename(out)


def write_description(folder: Path, description: BundleDescription) -> None:
    """bundle.yaml."""
    text = yaml.safe_dump(description.model_dump(mode="json"), sort_keys=False, width=118, allow_unicode=True)
    (folder / DESCRIPTION).write_text(text, encoding="utf-8")


def write_weights(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """model.safetensors, float32."""
    save_file({name: value.detach().float().contiguous().cpu() for name, value in weights.items()}, folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)  # safetensors makes it private; a bundle is read by the service's user
