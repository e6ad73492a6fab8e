"""A set of scans with made-up lesions, ready for `anomalyd evaluate`: images, masks, a table of what was put where."""

import csv
import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from anomalyd.errors import AnomalydError, ConfigError
from anomalyd.pipeline.bundle import read_description
from anomalyd.pipeline.nifti import write_nifti
from anomalyd.pipeline.stages.orient import resample
from anomalyd.pipeline.stages.prepare import upright
from anomalyd.pipeline.terms import Contrast
from anomalyd.pipeline.train.baselines import lesion_sign
from anomalyd.pipeline.train.cohort import Scan, list_scans
from anomalyd.pipeline.train.insert import STRENGTHS, Look, insert_lesion, tissue_levels
from anomalyd.pipeline.train.lesion_shapes import Place, Shape, draw_volumes, find_place, read_shapes
from anomalyd.pipeline.volume import BoolMap, FloatMap, Volume

PUSH_FROM_ML, PUSH_MM = 5.0, (1.0, 3.0)  # every second lesion from this volume on moves its surroundings
APART_MM = 4.0
COLUMNS = (
    "image", "subject", "lesion", "shape", "mirrored", "scale", "volume_ml", "centre_x_lps_mm", "centre_y_lps_mm",
    "centre_z_lps_mm", "strength", "sign", "push_mm",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class InsertReport:
    """What was written. images: with lesions and without; skipped: (name, reason)."""

    images: int
    lesions: int
    skipped: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Planned:
    """One lesion before it has a strength. seed: of its texture, the same in every strength."""

    place: Place
    weight: FloatMap
    push_mm: float
    seed: int


def insert_lesions(
    healthy: Path,
    shapes: Path,
    out: Path,
    *,
    contrast: Contrast,
    per_scan: int,
    seed: int,
    subjects: Collection[str] = (),
    exclude_trained: Path | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> InsertReport:
    """images/, masks/ and lesions.csv in `out`, from the healthy scans of a folder.

    Of each subject one image without lesions (and without a mask: healthy) and one for each of STRENGTHS, with the same
    lesions at the same places. subjects: these alone; exclude_trained: a bundle, none of whose training subjects is
    taken. What a subject gets depends on seed, subject and shapes alone, not on who else is there.
    Raises ConfigError where there is no scan, no shape, no room for the lesions, or `out` is not empty or cannot be
    written.
    """
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} holds something already: two sets in one folder would be judged as one; give another")
    scans = _chosen(list_scans(healthy, contrast), subjects, exclude_trained)
    known = read_shapes(shapes)
    rows: list[dict[str, object]] = []
    skipped: list[tuple[str, str]] = []
    written = 0
    try:
        for folder in ("images", "masks"):
            (out / folder).mkdir(parents=True, exist_ok=True)
        for number, scan in enumerate(scans):
            on_progress(number, len(scans))
            try:
                rows += _insert(scan, known, out, contrast=contrast, per_scan=per_scan, seed=seed)
            except ConfigError:
                raise
            except AnomalydError as exc:
                skipped.append((scan.name, str(exc)))
                continue
            written += 1 + len(STRENGTHS)
        with (out / "lesions.csv").open("w", newline="", encoding="utf-8") as lines:
            writer = csv.DictWriter(lines, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    except OSError as exc:
        raise ConfigError(f"{out} cannot be written: {exc.strerror}") from exc
    on_progress(len(scans), len(scans))
    return InsertReport(written, len(rows), tuple(skipped))


def _chosen(scans: Sequence[Scan], subjects: Collection[str], exclude_trained: Path | None) -> list[Scan]:
    """One scan of each subject that is asked for and did not train; raises ConfigError where none is left."""
    trained: set[str] = set()
    if exclude_trained is not None:
        facts = read_description(exclude_trained).training
        trained = {subject for source in facts.sources for subject in source.subjects}
    asked = [scan for scan in scans if not subjects or scan.subject in subjects]
    kept = {scan.subject: scan for scan in reversed(asked) if scan.subject not in trained}
    absent = sorted(set(subjects) - {scan.subject for scan in asked})
    if absent or not kept:
        why = f"unknown subjects {', '.join(absent)}" if absent else "every subject trained the bundle"
        raise ConfigError(f"no scans to put lesions into: {why}")
    return list(reversed(kept.values()))


def _insert(
    scan: Scan, shapes: tuple[Shape, ...], out: Path, *, contrast: Contrast, per_scan: int, seed: int
) -> list[dict[str, object]]:
    """All images of one subject; the rows of the table."""
    volume = scan.read()
    head = upright(volume)
    share = resample(Volume(head.brain.mask.astype(np.float32), head.volume.grid), volume.grid)
    brain = np.asarray(share >= 0.5)  # noqa: PLR2004 - half of the voxel
    planned = _plan(shapes, volume, brain, per_scan, _number(f"{seed}\n{scan.subject}"))
    write_nifti(out / "images" / f"{scan.subject}-healthy.nii.gz", _as_stored(volume, volume), volume.grid)
    rows: list[dict[str, object]] = []
    for strength in STRENGTHS:
        name = f"{scan.subject}-{strength}.nii.gz"
        changed, mask = volume, np.zeros(volume.grid.shape, dtype=np.bool_)
        levels = tissue_levels(volume, brain, contrast)
        for number, one in enumerate(planned, start=1):
            look = Look(lesion_sign(contrast), strength, one.push_mm)
            made = insert_lesion(changed, brain, one.weight, look, levels=levels, rng=np.random.default_rng(one.seed))
            changed, mask = made.volume, mask | made.mask
            rows.append({"image": name, "subject": scan.subject, "lesion": number, **_facts(one, made.mask, volume),
                         "strength": strength, "sign": look.sign, "push_mm": f"{one.push_mm:.1f}"})  # fmt: skip
        write_nifti(out / "images" / name, _as_stored(changed, volume), volume.grid)
        write_nifti(out / "masks" / name, mask.astype(np.uint8), volume.grid)
    return rows


def _plan(shapes: tuple[Shape, ...], volume: Volume, brain: BoolMap, per_scan: int, seed: int) -> list[_Planned]:
    rng = np.random.default_rng(seed)
    taken = np.zeros(brain.shape, dtype=np.bool_)
    planned = []
    for volume_ml in draw_volumes(per_scan, rng):
        place, weight = find_place(shapes, volume_ml, brain, taken, volume.grid, rng=rng)
        pushes = volume_ml >= PUSH_FROM_ML and rng.random() < 0.5  # noqa: PLR2004 - a coin
        push_mm = float(rng.uniform(*PUSH_MM)) if pushes else 0.0
        planned.append(_Planned(place, weight, push_mm, int(rng.integers(1 << 62))))
        spacing_mm = tuple(float(mm) for mm in volume.grid.spacing_mm)
        taken |= ndimage.distance_transform_edt(weight <= 0, sampling=spacing_mm) < APART_MM
    return planned


def _facts(one: _Planned, mask: BoolMap, volume: Volume) -> dict[str, object]:
    points = volume.grid.to_lps(np.argwhere(mask))
    centre = points.mean(axis=0) if len(points) else one.place.centre_lps_mm
    x, y, z = (f"{value:.1f}" for value in centre)
    return {
        "shape": one.place.shape.name, "mirrored": int(one.place.is_mirrored), "scale": f"{one.place.scale:.3f}",
        "volume_ml": f"{mask.sum() * volume.grid.voxel_volume_mm3 / 1000.0:.3f}",
        "centre_x_lps_mm": x, "centre_y_lps_mm": y, "centre_z_lps_mm": z,
    }  # fmt: skip


def _as_stored(volume: Volume, original: Volume) -> NDArray[np.generic]:
    """Whole numbers where the original has them, as a scanner stores; else float32."""
    whole = np.maximum(np.rint(volume.voxels), original.voxels.min())
    limits = np.iinfo(np.int16)
    is_whole = bool((original.voxels == np.rint(original.voxels)).all())
    fits = limits.min <= float(whole.min()) and float(whole.max()) <= limits.max
    return whole.astype(np.int16) if is_whole and fits else volume.voxels


def _number(text: str) -> int:
    """63 bits of SHA-256."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
