"""What training needs of its scans, in one compact file that needs no scan beside it and leads to none.

An npz without pickles: images as bytes, masks as bits, both exactly 0 outside the brain, so that they pack well.
"""

import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from anomalyd.errors import ConfigError
from anomalyd.pipeline.bundle import Template
from anomalyd.pipeline.finding import Contrast
from anomalyd.pipeline.stages.normalise import PERCENTILES
from anomalyd.pipeline.train.cohort import Scan, Skipped
from anomalyd.pipeline.train.recipe import Preparation
from anomalyd.pipeline.volume import Grid, Volume

LEVELS = 200.0  # grey levels of 1.0 in the file: 250 for CEILING, finer than any scanner's noise at 2 mm
Chosen = NDArray[np.int64] | tuple[int | NDArray[np.int64], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Cohort:
    """What training needs of the scans.

    images: (n, slices, rows, columns) uint8, LEVELS per 1.0; masks: the same shape, bool.
    is_train: (n,) bool, False for held out; skipped: (name, reason) of scans that could not be used.
    split_seed: what drew is_train; None where it is not known. percentiles: what standard_knots are for.
    share: (n,) how often a scan's slices are drawn, compared with others; None: all alike.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    scans: tuple[Scan, ...]
    is_train: NDArray[np.bool_]
    template: Template
    box: Grid
    standard_knots: NDArray[np.float64]
    skipped: Skipped
    contrast: Contrast = Contrast.T1W
    split_seed: int | None = None
    preparation: Preparation = "standard"
    percentiles: tuple[float, ...] = PERCENTILES
    share: NDArray[np.int64] | None = None

    def floats(self, chosen: Chosen) -> NDArray[np.float32]:
        """Chosen images in [0, CEILING]; chosen: an index of `images`."""
        return np.asarray(self.images[chosen], dtype=np.float32) / np.float32(LEVELS)

    @property
    def train_scans(self) -> tuple[Scan, ...]:
        """The scans that train."""
        return tuple(scan for scan, used in zip(self.scans, self.is_train, strict=True) if used)

    @property
    def held_out_scans(self) -> tuple[Scan, ...]:
        """The scans of people who do not."""
        return tuple(scan for scan, used in zip(self.scans, self.is_train, strict=True) if not used)


def save_cohort(path: Path, cohort: Cohort, key: str = "") -> None:
    """One compressed npz, renamed into place: a kill leaves the old one or the whole new one.

    key: what it was made from (see prepare), so that it is made anew when that changes.
    """
    scans = [
        {
            "name": s.name,
            "subject": s.subject,
            "source": s.source,
            "licence": s.licence,
            "age": s.age,
            "is_synthetic": s.is_synthetic,
        }
        for s in cohort.scans
    ]
    fresh = path.with_suffix(".new.npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        fresh,
        key=np.array(key),
        images=cohort.images,
        masks=np.packbits(cohort.masks),
        scans=np.array(json.dumps(scans)),
        is_train=cohort.is_train,
        template=cohort.template.brain.voxels,
        template_mask=cohort.template.mask,
        template_index_to_lps=cohort.template.brain.grid.index_to_lps,
        box_index_to_lps=cohort.box.index_to_lps,
        knots=cohort.standard_knots,
        skipped=np.array(json.dumps(cohort.skipped)),
        contrast=np.array(cohort.contrast.value),
        split_seed=np.array(-1 if cohort.split_seed is None else cohort.split_seed, dtype=np.int64),
        preparation=np.array(cohort.preparation),
        percentiles=np.array(cohort.percentiles),
    )
    fresh.replace(path)


def load_cohort(path: Path) -> Cohort:
    """The cohort of a file; raises ConfigError where it is no such file."""
    with _opened(path) as stored:
        return _cohort(stored)


def key_of(path: Path) -> str:
    """What a file was made from (see save_cohort); raises ConfigError where it is no such file."""
    with _opened(path) as stored:
        return str(stored["key"])


@contextmanager
def _opened(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise TypeError("a single array")  # noqa: TRY301 - one way out
            yield stored
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as exc:
        raise ConfigError(
            f"{path} is no file of prepared scans (cohort.npz of `anomalyd train`), or damaged; scans come as a folder"
        ) from exc


def _cohort(stored: np.lib.npyio.NpzFile) -> Cohort:
    """Files of before there was a contrast in them hold T1w scans in the standard preparation."""
    images = stored["images"]
    template = stored["template"]
    grid = Grid(template.shape, stored["template_index_to_lps"])
    seed = int(stored["split_seed"]) if "split_seed" in stored else -1
    preparation = str(stored["preparation"]) if "preparation" in stored else "standard"
    if preparation not in get_args(Preparation):
        raise ValueError(f"preparation {preparation!r}")
    return Cohort(
        images,
        np.unpackbits(stored["masks"])[: images.size].reshape(images.shape).astype(np.bool_),
        tuple(_scan(row) for row in json.loads(str(stored["scans"]))),
        stored["is_train"],
        Template(Volume(template, grid), stored["template_mask"]),
        Grid(images.shape[1:], stored["box_index_to_lps"]),
        stored["knots"],
        _pairs(json.loads(str(stored["skipped"]))),
        Contrast(str(stored["contrast"])) if "contrast" in stored else Contrast.T1W,
        seed if seed >= 0 else None,
        cast("Preparation", preparation),
        tuple(float(p) for p in stored["percentiles"]) if "percentiles" in stored else PERCENTILES,
    )


def _scan(row: dict[str, Any]) -> Scan:
    """Its name without any folder; older files have the whole path."""
    name = Path(row.get("name") or row["path"]).name
    age = row["age"]
    return Scan(
        Path(name), row["subject"], row["source"], row["licence"], None if age is None else float(age),
        is_synthetic=bool(row.get("is_synthetic")),
    )  # fmt: skip


def _pairs(rows: Sequence[Sequence[str]]) -> Skipped:
    return tuple((str(row[0]), str(row[1])) for row in rows)
