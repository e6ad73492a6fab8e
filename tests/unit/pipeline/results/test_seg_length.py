"""A binary SEG ends with its last pixel wherever it can: OHIF shows none that has a padding byte."""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest

from anomalyd.pipeline.results.header import read_source
from anomalyd.pipeline.results.seg import build_segmentation
from findings import BRIGHT, DARK, Ball, context_of
from phantoms import PhantomWriter

ODD_SHAPES = [(24, 51, 45), (24, 47, 49), (24, 53, 51), (24, 54, 44), (24, 44, 50)]


@pytest.mark.parametrize("balls", [(DARK,), (DARK, BRIGHT)], ids=["one lesion", "two lesions"])
@pytest.mark.parametrize("shape", ODD_SHAPES, ids=str)
def test_no_padding_byte(shape: tuple[int, int, int], balls: tuple[Ball, ...], tmp_path: Path) -> None:
    series = PhantomWriter(spacing_mm=(6.0, 4.0, 4.0), shape=shape, seed="length").write(tmp_path)
    context = context_of(series, balls)
    found = pydicom.dcmread(io.BytesIO(build_segmentation(read_source(context.headers, context.volume), context).data))
    bits = found.NumberOfFrames * found.Rows * found.Columns
    assert len(found.PixelData) == -(-bits // 8)
    # and it says the same as the finding, whichever frames it has
    labels = context.finding.labels
    marked = np.zeros_like(labels)
    (shared,) = found.SharedFunctionalGroupsSequence  # holds what all frames have alike
    frames = found.pixel_array.reshape(found.NumberOfFrames, found.Rows, found.Columns)
    for frame, groups in zip(frames, found.PerFrameFunctionalGroupsSequence, strict=True):
        of = groups if "SegmentIdentificationSequence" in groups else shared
        number = of.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        at = context.finding.grid.to_index(
            np.array([groups.PlanePositionSequence[0].ImagePositionPatient], dtype=float)
        )
        marked[round(float(at[0, 0]))][frame > 0] = number
    np.testing.assert_array_equal(marked, labels)


def test_only_frames_with_voxels_where_no_padding_is_needed(tmp_path: Path) -> None:
    series = PhantomWriter(spacing_mm=(6.0, 4.0, 4.0), shape=(24, 48, 48), seed="length").write(tmp_path)
    context = context_of(series, (DARK, BRIGHT))
    found = pydicom.dcmread(io.BytesIO(build_segmentation(read_source(context.headers, context.volume), context).data))
    labels = context.finding.labels
    assert found.NumberOfFrames == sum(len(np.unique(one[one > 0])) for one in labels) < 2 * len(labels)
