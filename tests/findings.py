"""A written phantom as a Volume, and the Finding that a perfect model would give for it."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pydicom

from anomalyd.ids import Digest, InstanceUID
from anomalyd.pipeline.finding import Contrast, Finding, Lesion, Model, Sign
from anomalyd.pipeline.results.objects import ResultContext
from anomalyd.pipeline.volume import FloatMap, Grid, SliceSource, Volume
from phantoms import PointLPS, WrittenSeries

MODEL = Model("t1w-test", hashlib.sha256(b"bundle").hexdigest(), Contrast.T1W)
JOB_TIME = datetime(2026, 1, 5, 11, 22, 33, 456789, tzinfo=UTC)
THRESHOLD = 2.0


def volume_of(series: WrittenSeries) -> Volume:
    """The series read by positions alone, an independent way from that of the product; missing slices are None."""
    grid = series.grid
    voxels = np.zeros(grid.shape, dtype=np.float32)
    sources: list[SliceSource | None] = [None] * grid.shape[0]
    for path in series.files:
        dataset = pydicom.dcmread(path)
        if "PerFrameFunctionalGroupsSequence" in dataset:
            for number, groups in enumerate(dataset.PerFrameFunctionalGroupsSequence, start=1):
                index = _slice_of(grid, groups.PlanePositionSequence[0].ImagePositionPatient)
                voxels[index] = dataset.pixel_array[number - 1]
                sources[index] = SliceSource(InstanceUID(dataset.SOPInstanceUID), number)
        else:
            index = _slice_of(grid, dataset.ImagePositionPatient)
            voxels[index] = dataset.pixel_array
            sources[index] = SliceSource(InstanceUID(dataset.SOPInstanceUID))
    return Volume(voxels, grid, tuple(sources))


def headers_of(series: WrittenSeries) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path, stop_before_pixels=True) for path in series.files]


def finding_of(volume: Volume, balls: Sequence[tuple[PointLPS, float, Sign]]) -> Finding:
    """Balls (centre, radius in mm, sign) as lesions with scores 4 in the middle to the threshold at the edge."""
    grid = volume.grid
    scores = np.zeros(grid.shape, dtype=np.float32)
    signs = np.zeros(grid.shape, dtype=np.int8)
    labels = np.zeros(grid.shape, dtype=np.uint16)
    lesions = []
    for number, (centre, radius_mm, sign) in enumerate(balls, start=1):
        distance = distances(grid, centre)
        inside = distance <= radius_mm
        scores = np.maximum(scores, (THRESHOLD * np.clip(2.0 - distance / radius_mm, 0, None)).astype(np.float32))
        signs[inside] = 1 if sign is Sign.HYPER else -1
        labels[inside] = number
    labels[list(volume.interpolated_slices)] = 0
    for number, (_, _, sign) in enumerate(balls, start=1):
        inside = labels == number
        points = grid.to_lps(np.argwhere(inside))
        lesions.append(
            Lesion(
                number,
                float(inside.sum() * grid.voxel_volume_mm3),
                _point(points.mean(axis=0)),
                (_point(points.min(axis=0)), _point(points.max(axis=0))),
                sign,
                float(scores[inside].mean()),
                float(scores[inside].max()),
            )
        )
    brain = volume.voxels > 100
    return Finding(
        grid,
        MODEL,
        scores,
        signs,
        labels,
        brain,
        np.where(brain, 500, 0).astype(np.float32),
        tuple(lesions),
        score=float(scores.max()),
        score_percentile=97.0 if lesions else 41.0,
        threshold=THRESHOLD,
        threshold_text="1 false finding per healthy scan",
        warnings=(),
        device="cpu",
        seeds=(1, 2),
    )


def context_of(series: WrittenSeries, balls: Sequence[tuple[PointLPS, float, Sign]]) -> ResultContext:
    volume = volume_of(series)
    return ResultContext(
        headers_of(series), volume, finding_of(volume, balls), JOB_TIME, Digest("a" * 64), Digest("b" * 64)
    )


def distances(grid: Grid, centre: PointLPS) -> FloatMap:
    """mm from a point, at each voxel."""
    points = grid.to_lps(np.moveaxis(np.indices(grid.shape), 0, -1))
    return np.asarray(np.linalg.norm(points - np.array(centre), axis=-1), dtype=np.float32)


def _slice_of(grid: Grid, position: Sequence[float]) -> int:
    return round(float(grid.to_index(np.array([float(v) for v in position]))[0]))


def _point(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> PointLPS:
    return float(values[0]), float(values[1]), float(values[2])
