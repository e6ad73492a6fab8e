"""Scans made ready for training, once: group template, standard histogram, slices in the box, one compact file."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomalyd.errors import AnomalydError, ConfigError
from anomalyd.pipeline.bundle import Template
from anomalyd.pipeline.nifti import read_nifti
from anomalyd.pipeline.stages.normalise import CEILING
from anomalyd.pipeline.stages.prepare import Boxed, Upright, align, boxed, standardise, upright
from anomalyd.pipeline.train.cohort import Scan, Split
from anomalyd.pipeline.train.template import box_of, build_template
from anomalyd.pipeline.volume import Grid, Volume

LEVELS = 200.0  # grey levels of 1.0 in the cache: 250 for CEILING, finer than any scanner's noise at 2 mm
MIN_TEMPLATE_PEOPLE = 20
MIN_BRAIN_ML = 700.0


@dataclass(frozen=True, slots=True, eq=False)
class Cohort:
    """What training needs of the scans.

    images: (n, slices, rows, columns) uint8, LEVELS per 1.0; masks: the same shape, bool.
    is_train: (n,) bool, False for held out; skipped: (file name, reason) of scans that could not be used.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    scans: tuple[Scan, ...]
    is_train: NDArray[np.bool_]
    template: Template
    box: Grid
    standard_knots: NDArray[np.float64]
    skipped: tuple[tuple[str, str], ...]

    def floats(self, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
        """Chosen images in [0, CEILING]."""
        return np.asarray(self.images[chosen], dtype=np.float32) / np.float32(LEVELS)


def prepare_cohort(
    split: Split, cache: Path, box_shape: tuple[int, int, int], on_scan: Callable[[int, int, str], None]
) -> Cohort:
    """The cohort of a split, from the cache file where it was made from the same files, else made and kept there.

    on_scan(done, of, what) is called as work goes on. Raises ConfigError with fewer than MIN_TEMPLATE_PEOPLE usable
    people to train on.
    """
    key = _key(split, box_shape)
    if cache.exists():
        found = _load(cache, split, key)
        if found is not None:
            return found
    cohort = _make(split, box_shape, on_scan)
    _save(cache, cohort, key)
    return cohort


def _make(split: Split, box_shape: tuple[int, int, int], on_scan: Callable[[int, int, str], None]) -> Cohort:
    scans = (*split.train, *split.held_out)
    heads: list[tuple[Scan, Upright]] = []
    skipped: list[tuple[str, str]] = []
    for number, scan in enumerate(scans):
        on_scan(number, 2 * len(scans), "brain masks")
        try:
            head = upright(read_nifti(scan.path))
        except AnomalydError as exc:
            skipped.append((scan.path.name, str(exc)))
            continue
        brain_ml = float(head.brain.mask.sum()) * head.volume.grid.voxel_volume_mm3 / 1000.0
        if brain_ml < MIN_BRAIN_ML:
            skipped.append(
                (scan.path.name, f"brain mask of {brain_ml:.0f} ml, at least {MIN_BRAIN_ML:.0f} ml expected")
            )
            continue
        heads.append((scan, head))
    trained = {scan.path for scan in split.train}
    people = {scan.subject for scan, _ in heads if scan.path in trained}
    if len(people) < MIN_TEMPLATE_PEOPLE:
        raise ConfigError(
            f"{len(people)} usable people to train on, at least {MIN_TEMPLATE_PEOPLE} are needed: {skipped}"
        )
    on_scan(len(scans), 2 * len(scans), "group template")
    template = build_template([head for scan, head in heads if scan.path in trained])
    box = box_of(template.mask, template.brain.grid, box_shape)
    boxes: list[Boxed] = []
    for number, (scan, head) in enumerate(heads):
        on_scan(len(scans) + number, 2 * len(scans), "registration")
        boxes.append(boxed(read_nifti(scan.path), head, align(head, template), box))
    used = tuple(scan for scan, _ in heads)
    is_train = np.array([scan.path in trained for scan in used])
    straight = [standardise(b, None).standard_knots for b, t in zip(boxes, is_train, strict=True) if t]
    knots = np.mean(straight, axis=0)
    normalised = [standardise(b, knots).image for b in boxes]
    return Cohort(
        np.stack([np.rint(np.clip(image, 0.0, CEILING) * LEVELS).astype(np.uint8) for image in normalised]),
        np.stack([b.mask for b in boxes]),
        used,
        is_train,
        template,
        box,
        knots,
        tuple(skipped),
    )


def _key(split: Split, box_shape: tuple[int, int, int]) -> str:
    """What the cache depends on: files with their sizes, uses, box."""
    files = [(s.path.name, s.path.stat().st_size, s.subject) for s in split.train]
    held = [(s.path.name, s.path.stat().st_size, s.subject) for s in split.held_out]
    text = json.dumps([files, held, box_shape], default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _save(cache: Path, cohort: Cohort, key: str) -> None:
    """One compressed npz without pickles; renamed into place."""
    scans = [{**asdict(scan), "path": str(scan.path)} for scan in cohort.scans]
    fresh = cache.with_suffix(".new.npz")
    cache.parent.mkdir(parents=True, exist_ok=True)
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
    )
    fresh.replace(cache)


def _load(cache: Path, split: Split, key: str) -> Cohort | None:
    """The cached cohort; None where it was made from other files."""
    with np.load(cache, allow_pickle=False) as stored:
        if str(stored["key"]) != key:
            return None
        images = stored["images"]
        masks = np.unpackbits(stored["masks"])[: images.size].reshape(images.shape).astype(np.bool_)
        by_name = {scan.path.name: scan for scan in (*split.train, *split.held_out)}
        rows: list[dict[str, Any]] = json.loads(str(stored["scans"]))
        template = stored["template"]
        grid = Grid(template.shape, stored["template_index_to_lps"])
        return Cohort(
            images,
            masks,
            tuple(by_name[Path(row["path"]).name] for row in rows),
            stored["is_train"],
            Template(Volume(template, grid), stored["template_mask"]),
            Grid(images.shape[1:], stored["box_index_to_lps"]),
            stored["knots"],
            _pairs(json.loads(str(stored["skipped"]))),
        )


def _pairs(rows: Sequence[Sequence[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((str(row[0]), str(row[1])) for row in rows)
