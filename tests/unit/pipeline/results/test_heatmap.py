"""Heatmaps as pictures and as images in space: colours where the score is, everything legible, the brain left free."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from anomalyd.pipeline.results.build import build_results
from anomalyd.pipeline.results.colour import ScoreScale, colour_table
from anomalyd.pipeline.results.legend import Legend
from anomalyd.pipeline.results.objects import ResultContext, ResultKind
from anomalyd.pipeline.results.paint import Painter, Window, choose_window, outline
from anomalyd.pipeline.results.place import place_of
from findings import DARK, context_of, distances
from phantoms import PLANES, PhantomWriter, Plane


def heatmaps_of(context: ResultContext) -> list[Dataset]:
    results = build_results(context)
    return [pydicom.dcmread(io.BytesIO(one.data)) for one in results if one.kind is ResultKind.HEATMAP]


def warm(picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.asarray(picture[..., 0].astype(int) - picture[..., 2] > 60)


@pytest.mark.parametrize("plane", PLANES)
def test_each_lies_where_its_source_lies(plane: Plane, tmp_path: Path) -> None:
    series = PhantomWriter(plane=plane, spacing_mm=(9.0, 3.0, 4.0), order="shuffled").write(tmp_path)
    context = context_of(series)
    sources = {header.SOPInstanceUID: header for header in context.headers}
    heatmaps = heatmaps_of(context)
    assert [heatmap.InstanceNumber for heatmap in heatmaps] == list(range(1, len(sources) + 1))
    for index, heatmap in enumerate(heatmaps):
        (reference,) = heatmap.SourceImageSequence
        source = sources.pop(reference.ReferencedSOPInstanceUID)
        assert reference.SpatialLocationsPreserved == "YES"
        assert reference.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
        for keyword in (
            "FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
            "SpacingBetweenSlices", "Rows", "Columns",
        ):  # fmt: skip
            assert heatmap[keyword].value == source[keyword].value
        assert context.volume.grid.to_lps(np.array([index, 0, 0])) == pytest.approx(
            np.array(heatmap.ImagePositionPatient, dtype=float), abs=1e-4
        )
    assert not sources


def test_the_form_is_plain_rgb_that_every_viewer_shows(tmp_path: Path) -> None:
    heatmap = heatmaps_of(context_of(PhantomWriter(spacing_mm=(9.0, 3.0, 3.0)).write(tmp_path)))[0]
    assert heatmap.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert (heatmap.PhotometricInterpretation, heatmap.SamplesPerPixel, heatmap.PlanarConfiguration) == ("RGB", 3, 0)
    assert (heatmap.BitsAllocated, heatmap.BitsStored, heatmap.HighBit, heatmap.PixelRepresentation) == (8, 8, 7, 0)
    assert list(heatmap.ImageType) == ["DERIVED", "SECONDARY", "OTHER"]
    assert (heatmap.ConversionType, heatmap.BurnedInAnnotation, heatmap.RecognizableVisualFeatures) == (
        "WSD",
        "NO",
        "YES",
    )
    assert not {"WindowCenter", "WindowWidth", "PresentationIntentType"} & set(heatmap.dir())
    assert [code.CodeValue for code in heatmap.DerivationCodeSequence] == ["113076", "113085"]


def test_the_lesion_is_warm_and_the_rest_of_the_brain_grey(tmp_path: Path) -> None:
    context = context_of(PhantomWriter(spacing_mm=(6.0, 1.5, 1.5)).write(tmp_path), [DARK])
    pictures = np.stack([heatmap.pixel_array for heatmap in heatmaps_of(context)])
    away = distances(context.volume.grid, DARK[0])
    in_brain = distances(context.volume.grid, (0.0, 4.0, 4.0)) < 55
    assert warm(pictures)[away < 8].all()
    grey = in_brain & (away > 20)
    assert (np.ptp(pictures[grey].astype(int), axis=-1) == 0).all()


def test_a_colour_means_the_same_part_of_the_threshold_in_every_scan() -> None:
    for threshold in (0.02, 1.0, 37.5):
        scale = ScoreScale(threshold)
        parts = np.array([0.0, 0.5, 1.0, 2.0, 9.0], dtype=np.float32) * np.float32(threshold)
        assert scale.levels(parts).tolist() == pytest.approx([0, 63, 127, 255, 255], abs=1)


def test_colours_are_warm_and_low_scores_transparent() -> None:
    table, opacity = colour_table()
    assert (table[:, 0].astype(int) >= table[:, 2]).all()
    assert opacity[:50].max() == 0
    assert (np.diff(opacity.astype(int)) >= 0).all()


def test_a_higher_score_is_a_lighter_colour_by_even_steps() -> None:
    table, _ = colour_table()
    linear = (table / 255.0) ** 2.2
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    steps = np.diff(np.cbrt(luminance)[::16])  # CIE lightness, up to a factor
    assert (steps > 0).all()
    assert steps.max() < 2 * steps.min()


def test_what_is_marked_stands_out_from_what_is_just_below_the_threshold() -> None:
    _, opacity = colour_table()
    below, above = ScoreScale(2.0).levels(np.array([1.95, 2.05], dtype=np.float32))
    assert opacity[above] - opacity[below] > 40


def test_a_threshold_of_zero_does_not_divide_by_it() -> None:
    assert ScoreScale(0.0).levels(np.array([0.0, 2.0], dtype=np.float32)).tolist() == [0, 255]


def test_the_outline_runs_outside_the_mask() -> None:
    mask = np.zeros((7, 7), dtype=bool)
    mask[3, 3] = True
    mask[0, 6] = True
    assert sorted(map(tuple, np.argwhere(outline(mask)))) == [(0, 5), (1, 6), (2, 3), (3, 2), (3, 4), (4, 3)]


@pytest.mark.parametrize(
    ("stated", "expected"),
    [((500.0, 1000.0), (0.0, 1000.0)), (None, None), ((5.0, 2.0), None), ((9000.0, 100.0), None)],
)
def test_the_source_window_is_used_unless_it_shows_nothing(
    stated: tuple[float, float] | None, expected: tuple[float, float] | None
) -> None:
    voxels = np.linspace(0, 1000, 1000, dtype=np.float32).reshape(10, 10, 10)
    window = choose_window(stated, voxels, np.ones(voxels.shape, dtype=bool))
    if expected is not None:
        assert (window.black, window.white) == expected
    else:
        assert window.black == pytest.approx(0, abs=20)
        assert window.white == pytest.approx(1000, abs=20)


def test_an_empty_picture_has_a_window_too() -> None:
    voxels = np.zeros((2, 3, 4), dtype=np.float32)
    window = choose_window(None, voxels, np.zeros(voxels.shape, dtype=bool))
    assert Painter(window, ScoreScale(1.0)).overlay(voxels[0], voxels[0], voxels[0] > 0).max() == 0


def test_grey_runs_from_black_to_white() -> None:
    grey = Window(100.0, 300.0).grey(np.array([0, 100, 200, 300, 900], dtype=np.float32))
    assert grey.tolist() == [0, 0, 127, 255, 255]


@pytest.mark.parametrize("side", [256, 320, 512])
@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_text_stands_where_the_brain_is_not(side: int, corner: tuple[int, int]) -> None:
    """A brain that fills all but the opposite corner's edges: the legend leaves it free."""
    brain = np.zeros((3, side, side), dtype=bool)
    margin = side // 5
    brain[:, margin if corner[0] else 0 : side if corner[0] else side - margin, :] = True
    brain[:, :, : side // 3] = False
    picture = np.zeros((side, side, 3), dtype=np.uint8)
    lines = ["score 1.23, percentile 97, 2 found", "anomalyd 0.1.0, bundle t1w-2026 0123456789abcdef"]
    Legend((side, side), lines, ScoreScale(1.0), brain).draw(picture, "slice 1/3  S 0.0 mm", 1.5)
    written = picture.any(axis=-1)
    assert written.sum() > 800
    assert (written & brain[0]).sum() < 0.35 * written.sum()


@pytest.mark.parametrize("shape", [(16, 16), (64, 64), (96, 512), (512, 96), (1024, 1024)])
def test_pictures_of_any_shape_get_what_has_room(shape: tuple[int, int]) -> None:
    picture = np.zeros((*shape, 3), dtype=np.uint8)
    brain = np.zeros((1, *shape), dtype=bool)
    Legend(shape, ["score 1", "anomalyd 0.1.0, bundle x 0123456789abcdef"], ScoreScale(1.0), brain).draw(
        picture, "slice 1/1", 0.5
    )
    assert (min(shape) < 64) or picture.any()


@pytest.mark.parametrize("shape", [(64, 80), (96, 96), (128, 128), (256, 256), (512, 512)])
def test_the_research_notice_is_the_last_to_find_no_room(shape: tuple[int, int]) -> None:
    lines = ["scan score 1.25, percentile 38, 3 found", "anomalyd 0.1.0, bundle t1w-compact 0123456789abcdef"]
    legend = Legend(shape, lines, ScoreScale(1.0), np.ones((1, *shape), dtype=bool))
    pictures = np.zeros((2, *shape, 3), dtype=np.uint8)
    for picture, place in zip(pictures, ("slice 61/170", "slice 62/170"), strict=True):
        legend.draw(picture, place, 17.8)
    assert (pictures[0] != pictures[1]).any()  # the place stands in one block with the notice


def warm_pixels(shape: tuple[int, int], place: str = "slice 61/170  S -12.5 mm") -> int:
    """Pixels of the warning, in a picture that has no room for the colour bar, which is warm too."""
    picture = np.zeros((*shape, 3), dtype=np.uint8)
    brain = np.zeros((1, *shape), dtype=bool)
    Legend(shape, ["score 1"], ScoreScale(1.0), brain).draw(picture, place, 17.8)
    return int(warm(picture).sum())


@pytest.mark.parametrize("shape", [(64, 64), (64, 80), (40, 64), (40, 80), (40, 96)])
def test_a_narrow_picture_has_the_whole_research_notice(shape: tuple[int, int]) -> None:
    whole = warm_pixels((40, 128))
    assert whole > 100
    assert warm_pixels(shape) == whole


def test_a_notice_that_has_no_room_is_left_out_whole() -> None:
    assert warm_pixels((40, 40)) == 0


def test_a_place_that_has_no_room_is_not_cut_in_the_middle_of_a_number() -> None:
    def drawn(place: str) -> bytes:
        picture = np.zeros((64, 64, 3), dtype=np.uint8)
        legend = Legend((64, 64), ["score 1"], ScoreScale(1.0), np.zeros((1, 64, 64), dtype=bool))
        legend.draw(picture, place, 17.8)
        return picture.tobytes()

    assert drawn("slice 61/170  S -12.5 mm") == drawn("slice 61/170")
    assert drawn("slice 61/170") != drawn("slice 62/170")


def test_the_place_is_told_along_the_main_axis() -> None:
    grids = {plane: PhantomWriter(plane=plane, shape=(11, 20, 21)).grid() for plane in PLANES}
    assert place_of(grids["axial"], 0) == "slice 1/11  I 15.0 mm"
    assert place_of(grids["axial"], 10) == "slice 11/11  S 15.0 mm"
    assert place_of(grids["sagittal"], 0) == "slice 1/11  L 15.0 mm"
    assert place_of(grids["coronal"], 0) == "slice 1/11  A 15.0 mm"
    assert place_of(grids["coronal"], 5) == "slice 6/11  P 0.0 mm"


def test_no_name_is_drawn_nor_anything_that_differs_with_the_patient(tmp_path: Path) -> None:
    series = PhantomWriter(spacing_mm=(9.0, 2.0, 2.0)).write(tmp_path)
    context = context_of(series)
    others = [pydicom.dcmread(path, stop_before_pixels=True) for path in series.files]
    for other in others:
        other.PatientName, other.PatientID, other.AccessionNumber, other.StudyDate = "Q^Q", "0", "1", "20200101"
    pixels = [[ds.PixelData for ds in heatmaps_of(c)] for c in (context, dataclasses.replace(context, headers=others))]
    assert pixels[0] == pixels[1]
