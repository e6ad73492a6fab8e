"""Written phantoms read by the product, and Findings that a perfect model would give for them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from anomalyd.ids import Digest
from anomalyd.pipeline.finding import Contrast, Finding, Lesion, Model, Sign
from anomalyd.pipeline.part10 import open_part10, read_header
from anomalyd.pipeline.read import read_folder, read_volume
from anomalyd.pipeline.results.objects import (
    NoticeContext,
    Rejected,
    RejectionContext,
    ResultContext,
    ResultKind,
    ResultObject,
)
from anomalyd.pipeline.selection import VolumeChoice, choose
from anomalyd.pipeline.settings import PipelineSettings
from anomalyd.pipeline.volume import BoolMap, FloatMap, Grid, Volume
from phantoms import LEFT_FRONTAL, PhantomWriter, PointLPS, WrittenSeries

MODEL = Model("t1w-test", hashlib.sha256(b"bundle").hexdigest(), Contrast.T1W)
JOB_TIME = datetime(2026, 1, 5, 11, 22, 33, 456789, tzinfo=UTC)
THRESHOLD = 2.0

Ball = tuple[PointLPS, float, Sign]
DARK: Ball = (LEFT_FRONTAL, 9.0, Sign.HYPO)
BRIGHT: Ball = ((-22.0, 30.0, 9.0), 7.0, Sign.HYPER)


@dataclass(frozen=True, slots=True, eq=False)
class ReadSeries:
    """A series as the product chose and read it."""

    choice: VolumeChoice
    volume: Volume
    headers: tuple[Dataset, ...]
    warnings: tuple[str, ...]


def read_series(folder: Path) -> ReadSeries:
    """The one series of a folder, through selection and reader; fails where it is not eligible."""
    ((header, paths),) = read_folder(folder)[0]
    chosen = choose(header, PipelineSettings(), frozenset(Contrast))
    assert chosen.volume is not None, chosen.reason
    volume = read_volume(chosen.volume, lambda uid: paths[uid].read_bytes())
    headers = tuple(read_header(open_part10(paths[uid]))[0] for uid, _ in chosen.volume.instances)  # as the worker
    return ReadSeries(chosen.volume, volume, headers, chosen.warnings)


def only(results: Sequence[ResultObject], kind: ResultKind) -> ResultObject:
    """The one result of a kind."""
    (found,) = (one for one in results if one.kind is kind)
    return found


def finding_of(volume: Volume, balls: Sequence[Ball]) -> Finding:
    """Balls (centre, radius in mm, sign) as lesions with scores 4 in the middle to the threshold at the edge."""
    scores = np.zeros(volume.grid.shape, dtype=np.float32)
    labels = np.zeros(volume.grid.shape, dtype=np.uint16)
    for number, (centre, radius_mm, _) in enumerate(balls, start=1):
        distance = distances(volume.grid, centre)
        scores = np.maximum(scores, (THRESHOLD * np.clip(2.0 - distance / radius_mm, 0, None)).astype(np.float32))
        labels[distance <= radius_mm] = number
    return finding_from(volume, labels, scores, [sign for _, _, sign in balls])


def finding_by_difference(volume: Volume, healthy: Volume) -> Finding:
    """What differs between two scans with the same noise: follows the pixels, knows nothing of any geometry."""
    difference = np.abs(volume.voxels - healthy.voxels)
    scores = (difference / 100.0).astype(np.float32)
    return finding_from(volume, (scores >= THRESHOLD).astype(np.uint16), scores, [Sign.HYPO])


def finding_from(volume: Volume, labels: NDArray[np.uint16], scores: FloatMap, signs: Sequence[Sign]) -> Finding:
    """A finding with these labels, nothing on interpolated slices, the brain where the picture is bright."""
    labels = labels.copy()
    labels[list(volume.interpolated_slices)] = 0
    lesions = tuple(
        _lesion(number, labels == number, scores, volume.grid, sign) for number, sign in enumerate(signs, 1)
    )
    sign_map = np.zeros(volume.grid.shape, dtype=np.int8)
    for lesion in lesions:
        sign_map[labels == lesion.number] = 1 if lesion.sign is Sign.HYPER else -1
    brain = np.asarray(distances(volume.grid, (0.0, 4.0, 4.0)) < 68.0)
    return Finding(
        grid=volume.grid,
        model=MODEL,
        score_map=scores,
        sign_map=sign_map,
        labels=labels,
        brain_mask=brain,
        reconstruction=np.where(brain, volume.voxels, 0).astype(np.float32),
        lesions=lesions,
        score=float(scores.max()),
        score_percentile=97.0 if lesions else 41.0,
        threshold=THRESHOLD,
        threshold_text="1 false finding per healthy scan",
        score_mode="normative",
        reference_ages=(19.0, 52.0),
        warnings=(),
        device="cpu",
        seeds=(1, 2),
        noise_levels=(499, 499),
    )


def context_of(
    series: WrittenSeries, balls: Sequence[Ball] = (DARK, BRIGHT), *, job_time: datetime = JOB_TIME
) -> ResultContext:
    """All that results are made of, for a written series with these balls as its finding."""
    read = read_series(series.folder)
    return ResultContext(
        headers=read.headers,
        volume=read.volume,
        finding=finding_of(read.volume, balls),
        job_time=job_time,
        instance_set=Digest("a" * 64),
        settings=Digest("b" * 64),
        warnings=read.warnings,
    )


def notice_context_of(series: WrittenSeries, reason: str, model: Model | None = MODEL) -> NoticeContext:
    """All that a notice is made of, for a written series that was not judged; model None: that was not even chosen."""
    context = context_of(series, ())
    return NoticeContext(context.headers, model, reason, context.job_time, context.instance_set, context.settings)


def rejection_context_of(context: ResultContext, results: Sequence[ResultObject]) -> RejectionContext:
    """All that the note is made of that withdraws these results."""
    rejected = [Rejected(one.sop_class_uid, one.sop_instance_uid, one.series_uid) for one in results]
    return RejectionContext(
        context.headers[0], rejected, context.model, context.job_time, Digest("d" * 64), context.settings
    )


def difference_context(writer: PhantomWriter, folder: Path, lesion_at: PointLPS, radius_mm: float) -> ResultContext:
    """A phantom with a lesion whose mask is found in the pixels that the product read."""
    series = writer.write(folder / "with", lesion_at=lesion_at, radius_mm=radius_mm)
    healthy = read_series(writer.write(folder / "without", lesion_at=None).folder).volume
    context = context_of(series, ())
    return replace(context, finding=finding_by_difference(context.volume, healthy))


def distances(grid: Grid, centre: PointLPS) -> FloatMap:
    """mm from a point, at each voxel."""
    away = np.empty(grid.shape, dtype=np.float32)
    in_plane = np.moveaxis(np.indices((1, *grid.shape[1:])), 0, -1)
    for k in range(grid.shape[0]):
        away[k] = np.linalg.norm(grid.to_lps(in_plane + np.array((k, 0, 0)))[0] - np.array(centre), axis=-1)
    return away


def _lesion(number: int, inside: BoolMap, scores: FloatMap, grid: Grid, sign: Sign) -> Lesion:
    points = grid.to_lps(np.argwhere(inside))
    low, middle, high = (_point(values) for values in (points.min(axis=0), points.mean(axis=0), points.max(axis=0)))
    return Lesion(
        number,
        float(inside.sum() * grid.voxel_volume_mm3),
        middle,
        (low, high),
        sign,
        float(scores[inside].mean()),
        float(scores[inside].max()),
    )


def _point(values: NDArray[np.float64]) -> PointLPS:
    return float(values[0]), float(values[1]), float(values[2])
