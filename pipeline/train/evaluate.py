"""How well a bundle finds what experts marked, beside simpler maps in the same run."""

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anomalyd.errors import AnomalydError, ConfigError
from anomalyd.pipeline.analyse import Judged, Runtime, judge, onto_source, place
from anomalyd.pipeline.bundle import Bundle, load_bundle
from anomalyd.pipeline.nifti import read_nifti
from anomalyd.pipeline.settings import AnalysisSettings
from anomalyd.pipeline.stages.measure import measure
from anomalyd.pipeline.stages.orient import resample
from anomalyd.pipeline.stages.score import paper_score
from anomalyd.pipeline.stages.threshold import choose_cut
from anomalyd.pipeline.train.cohort import NIFTI_SUFFIXES
from anomalyd.pipeline.volume import BoolMap, FloatMap, Volume

SHIPPED, PAPER, RESIDUAL, INTENSITY = "bundle's score", "SSIM-ens as published", "l1 residual", "dark intensity"
BOOTSTRAPS = 1000


@dataclass(frozen=True, slots=True)
class ScanResult:
    """One scan. auprc and best_dice by map; dice, findings and false_ml at the bundle's threshold."""

    name: str
    lesion_ml: float
    dice: float
    findings: int
    false_ml: float
    auprc: dict[str, float] = field(default_factory=dict)
    best_dice: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """Results of all scans that could be judged; skipped: (file name, reason)."""

    scans: tuple[ScanResult, ...]
    skipped: tuple[tuple[str, str], ...]
    table: Path


def evaluate_bundle(
    bundle: Path,
    images: Path,
    masks: Path,
    out: Path,
    *,
    device: str = "cpu",
    on_progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> EvaluationReport:
    """results.csv and results.md in `out`, from images and masks of the same file names (no mask: healthy).

    Raises ConfigError where there is no image, or `out` cannot be written.
    """
    loaded = load_bundle(bundle)
    paths = sorted(path for path in images.iterdir() if path.name.endswith(NIFTI_SUFFIXES))
    if not paths:
        raise ConfigError(f"no NIFTI file in {images}")
    results: list[ScanResult] = []
    skipped: list[tuple[str, str]] = []
    for number, path in enumerate(paths):
        on_progress(number, len(paths))
        try:
            results.append(_evaluate(loaded, path, masks / path.name, device))
        except AnomalydError as exc:
            skipped.append((path.name, str(exc)))
    on_progress(len(paths), len(paths))
    try:
        out.mkdir(parents=True, exist_ok=True)
        _write_csv(out / "results.csv", results)
        (out / "results.md").write_text(_markdown(loaded, results, skipped), encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"{out} cannot be written: {exc.strerror}") from exc
    return EvaluationReport(tuple(results), tuple(skipped), out / "results.md")


def _evaluate(bundle: Bundle, image: Path, mask: Path, device: str) -> ScanResult:
    """One scan through the very analysis that patients get."""
    volume = read_nifti(image)
    runtime = Runtime("cuda" if device == "cuda" else "cpu")
    judged = judge(place(volume, bundle), bundle, runtime=runtime, seed_text=image.name)
    maps = onto_source(volume, judged, bundle)
    cut = choose_cut(bundle.calibration, AnalysisSettings())
    found = measure(maps, volume.grid, cut.threshold, ())
    marked = found.labels > 0
    lesion = _lesion(mask, volume) if mask.exists() else np.zeros(volume.grid.shape, dtype=np.bool_)
    voxel_ml = volume.grid.voxel_volume_mm3 / 1000.0
    result = ScanResult(
        image.name,
        float(lesion.sum()) * voxel_ml,
        dice(marked, lesion),
        len(found.lesions),
        float((marked & ~lesion).sum()) * voxel_ml,
    )
    if lesion.any():
        for name, score in _maps(volume, judged, bundle, maps.score).items():
            values = np.where(maps.brain, score, np.float32(-np.inf))
            inside = maps.brain | lesion
            result.auprc[name], result.best_dice[name] = precision_recall(values[inside], lesion[inside])
    return result


def _lesion(mask: Path, volume: Volume) -> BoolMap:
    """The expert's mask on the scan's grid."""
    drawn = read_nifti(mask)
    binary = Volume((drawn.voxels > 0).astype(np.float32), drawn.grid)
    return np.asarray(resample(binary, volume.grid) >= 0.5)  # noqa: PLR2004 - half of the voxel


def _maps(volume: Volume, judged: Judged, bundle: Bundle, shipped: FloatMap) -> dict[str, FloatMap]:
    """What is compared, on the source's grid."""
    placed = judged.placed
    image, healthy, mask = placed.normalised.image, judged.reconstruction, placed.box.mask
    to_template = np.linalg.inv(placed.registration.template_to_source).astype(np.float64)
    boxes = {
        PAPER: paper_score(image, healthy, mask),
        RESIDUAL: np.abs(image - healthy).astype(np.float32),
        INTENSITY: np.where(mask, 2.0 - image, 0.0).astype(np.float32),
    }
    moved = {name: resample(Volume(box, bundle.box), volume.grid, to_template) for name, box in boxes.items()}
    return {SHIPPED: shipped, **moved}


def dice(first: BoolMap, second: BoolMap) -> float:
    """2 |A and B| / (|A| + |B|); 1 where both are empty."""
    total = int(first.sum()) + int(second.sum())
    return 2.0 * int((first & second).sum()) / total if total else 1.0


def precision_recall(values: NDArray[np.float32], truth: NDArray[np.bool_]) -> tuple[float, float]:
    """Average precision and the best Dice over all thresholds; equal values count as one threshold."""
    order = np.argsort(-values, kind="stable")
    hits = np.cumsum(truth[order])
    count = np.arange(1, len(values) + 1)
    ends = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)
    hits, count = hits[ends], count[ends]
    positives = int(truth.sum())
    precision = hits / count
    recall_steps = np.diff(hits, prepend=0) / positives
    return float((precision * recall_steps).sum()), float((2.0 * hits / (count + positives)).max())


def _write_csv(path: Path, results: list[ScanResult]) -> None:
    names = (SHIPPED, PAPER, RESIDUAL, INTENSITY)
    with path.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(
            ["file", "lesion_ml", "dice", "findings", "false_ml"]
            + [f"{what} {name}" for name in names for what in ("auprc", "best_dice")]
        )
        for r in results:
            values = [f"{d.get(name, np.nan):.4f}" for name in names for d in (r.auprc, r.best_dice)]
            writer.writerow([r.name, f"{r.lesion_ml:.2f}", f"{r.dice:.4f}", r.findings, f"{r.false_ml:.2f}", *values])


def _markdown(bundle: Bundle, results: list[ScanResult], skipped: list[tuple[str, str]]) -> str:
    """Means with bootstrap intervals."""
    sick = [r for r in results if r.lesion_ml > 0]
    healthy = [r for r in results if r.lesion_ml == 0]
    lines = [f"# {bundle.model.bundle_id} ({bundle.model.digest[:12]})", ""]
    if sick:
        lines += [f"{len(sick)} scans with lesions: mean [95 % bootstrap interval]", ""]
        lines += ["| map | AUPRC | best Dice |", "|---|---|---|"]
        for name in (SHIPPED, PAPER, RESIDUAL, INTENSITY):
            cells = [_mean([d[name] for d in part]) for part in ([r.auprc for r in sick], [r.best_dice for r in sick])]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines += ["", f"At the bundle's threshold: Dice {_mean([r.dice for r in sick])}, "]
        lines[-1] += f"false-positive volume {_mean([r.false_ml for r in sick])} ml\n"
    if healthy:
        lines += [f"{len(healthy)} healthy scans: {_mean([float(r.findings) for r in healthy])} findings per scan", ""]
    lines += [f"* skipped {name}: {reason}" for name, reason in skipped]
    return "\n".join(lines) + "\n"


def _mean(values: list[float]) -> str:
    """Mean and the middle 95 % of its bootstrap distribution (seed fixed)."""
    rng = np.random.default_rng(0)
    drawn = rng.choice(np.array(values), (BOOTSTRAPS, len(values))).mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return f"{np.mean(values):.3f} [{low:.3f}, {high:.3f}]"
