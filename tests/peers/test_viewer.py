"""A reader's own eyes: OHIF in a real browser shows the results of the daemon where the lesion is, pixel by pixel.

Orthanc holds the study, storescu sends it to the daemon, the daemon sends its results to Orthanc. Screenshots are kept
in `artefacts/viewer`.
"""

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from playwright.sync_api import BrowserContext, sync_playwright
from pydicom.pixels.utils import pack_bits
from pydicom.uid import generate_uid

from anomalyd.pipeline.volume import FloatMap
from conftest import CHECKOUT, RequirePeer
from intensity_bundle import intensity_bundle
from phantoms import PhantomWriter, Plane, PointLPS, WrittenSeries, insert_lesion
from running import RunningDaemon
from screen import Mapping2D, Overlay, ReadingRoom, likeness, misplaced, warm
from tiny_bundle import made_up_brain
from viewer import Viewer, WebArchive, viewer_pages

pytestmark = pytest.mark.peer
SCREENSHOTS = CHECKOUT / "artefacts" / "viewer"
LESION: PointLPS = (31.0, -27.0, 24.0)  # no turn or mirror image of the head has it at the same place
RADIUS_MM = 10.0
SPACING_MM = (4.0, 2.5, 2.5)
# Odd rows and columns in two of them: frames of the SEG then end within a byte (test_seg_length.py).
SHAPES: dict[Plane, tuple[int, int, int]] = {"axial": (40, 80, 64), "sagittal": (40, 63, 79), "oblique": (46, 87, 71)}
SEG, HEATMAP, SCORE_MAP, PARAMETRIC_MAP, LABELMAP = 301, 302, 304, 306, 307
KINDS = ["heatmap", "summary", "seg", "sr", "score_map", "parametric_map", "labelmap"]
LIMIT_S = 250.0


@dataclass(frozen=True)
class Study:
    """One study as it lies in Orthanc, its results in it."""

    series: WrittenSeries
    voxels: FloatMap
    """[slice, row, column] of the source, in geometric order."""
    slice_of: dict[int, int]
    """InstanceNumber to slice."""
    slice_of_uid: dict[str, int]


@dataclass(frozen=True)
class Room:
    """A browser in front of the archive."""

    archive: WebArchive
    viewer: Viewer
    browser: BrowserContext
    studies: dict[Plane, Study]

    def open(self, plane: Plane) -> ReadingRoom:
        page = self.browser.new_page()
        page.set_default_timeout(60_000)
        reading = ReadingRoom(page)
        reading.open(self.viewer.study_address(self.studies[plane].series.study_uid))
        return reading


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, requires_peer: RequirePeer) -> Iterator[Room]:
    pages = viewer_pages(requires_peer("npm"))
    chromium, storescu = requires_peer("chromium"), requires_peer("storescu")
    folder = tmp_path_factory.mktemp("viewer")
    archive = WebArchive(folder / "orthanc", requires_peer("Orthanc"))
    with archive, Viewer(archive, pages) as viewer:
        studies = analysed(folder, archive, storescu)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, headless=True)
            context = browser.new_context(viewport={"width": 1100, "height": 700})  # one: pages are kept in its cache
            yield Room(archive, viewer, context, studies)
            browser.close()


def analysed(folder: Path, archive: WebArchive, storescu: str) -> dict[Plane, Study]:
    """Three studies of a head with one lesion, sent to Orthanc and to the daemon; its results have come to Orthanc."""
    intensity_bundle(folder / "bundle")
    head = insert_lesion(made_up_brain(noise=5.0), LESION, RADIUS_MM, 60.0)
    daemon = RunningDaemon(
        folder / "daemon",
        daemon={"destinations": [{**archive.destination, "send": KINDS}]},
        pipeline={"bundles": [str(folder / "bundle")], "threads": 1},
    )
    studies = {}
    with daemon:
        for plane, shape in SHAPES.items():
            writer = PhantomWriter(plane, order="shuffled", spacing_mm=SPACING_MM, shape=shape, seed="viewer")
            series = writer.write_volume(head, folder / plane)
            for port, title in ((archive.dicom_port, "ORTHANC"), (daemon.port, "ANOMALYD")):
                command = [storescu, "-aec", title, "127.0.0.1", str(port), *map(str, series.files)]
                subprocess.run(command, check=True, capture_output=True, timeout=LIMIT_S)
            studies[plane] = _study(series)
        daemon.wait_until_ended(*(study.series.series_uid for study in studies.values()), limit_s=LIMIT_S)
    return studies


def _study(series: WrittenSeries) -> Study:
    voxels = np.zeros(series.grid.shape, dtype=np.float32)
    study = Study(series, voxels, {}, {})
    for path in series.files:
        image = pydicom.dcmread(path)
        index = series.grid.to_index(np.array(image.ImagePositionPatient, dtype=np.float64))[0]
        k = round(float(index))
        study.slice_of[int(image.InstanceNumber)] = study.slice_of_uid[image.SOPInstanceUID] = k
        voxels[k] = image.pixel_array
    return study


def mapping(study: Study, pane: tuple[int, ...]) -> Mapping2D:
    _, rows, columns = study.series.grid.shape
    return Mapping2D((pane[0], pane[1]), (rows, columns), study.series.grid.spacing_mm[1:])


def scrolled_through(reading: ReadingRoom, study: Study) -> Overlay:
    """The overlay on each of its slices: up to its end, and down to the other one."""
    slices = {}
    picture = reading.settle()
    to_source = mapping(study, picture.shape)
    for step in (-1, 1):
        while True:
            k = study.slice_of[reading.places()[0].instance_number]
            slices[k] = to_source.to_slice(np.argwhere(warm(picture)))
            assert likeness(picture, to_source.drawn(study.voxels[k])) > 0.97  # turned, mirrored, another slice: less
            if not len(slices[k]):
                break
            picture = reading.wheel(step)
        picture = reading.wheel(-step)
    return Overlay({k: at for k, at in slices.items() if len(at)}, to_source.pixel_area)


@pytest.mark.parametrize("plane", SHAPES)
def test_the_overlay_lies_on_the_lesion(room: Room, plane: Plane) -> None:
    study = room.studies[plane]
    reading = room.open(plane)
    reading.load_segmentation(SEG)
    reading.settle()
    reading.save(SCREENSHOTS / f"seg-{plane}.png")
    overlay = scrolled_through(reading, study)
    assert misplaced(overlay, study.series.grid, LESION, RADIUS_MM) == []
    seen_otherwise(overlay, study)
    reading.close()


def seen_otherwise(overlay: Overlay, study: Study) -> None:
    """The judge is worth something: the same pixels mirrored, turned or a slice further on are called misplaced."""
    _, rows, columns = study.series.grid.shape
    last = np.array([rows - 1, columns - 1], dtype=np.float64)
    turns: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
        "left and right": lambda at: np.stack([at[:, 0], last[1] - at[:, 1]], axis=1),
        "top and bottom": lambda at: np.stack([last[0] - at[:, 0], at[:, 1]], axis=1),
        "half a turn": lambda at: last - at,
        "a quarter": lambda at: np.stack([at[:, 1], last[0] - at[:, 0]], axis=1),
    }
    for how, turn in turns.items():
        turned = Overlay({k: turn(at) for k, at in overlay.slices.items()}, overlay.pixel_area)
        assert misplaced(turned, study.series.grid, LESION, RADIUS_MM), how
    for step in (-1, 1):
        further = Overlay({k + step: at for k, at in overlay.slices.items()}, overlay.pixel_area)
        assert any("slice" in text for text in misplaced(further, study.series.grid, LESION, RADIUS_MM))


@pytest.mark.parametrize(
    ("fault", "number", "complaint"), [("a slice further on", 391, "slice off"), ("mirrored", 392, "column off")]
)
def test_a_wrong_segmentation_is_seen_to_be_wrong(room: Room, fault: str, number: int, complaint: str) -> None:
    """A SEG with one fault, made of the daemon's own, goes the same way through archive, browser and judge."""
    study = room.studies["axial"]
    room.archive.store([wrong(room.archive.objects(study.series.study_uid, SEG)[0], study, fault, number)])
    reading = room.open("axial")
    reading.load_segmentation(number)
    reading.settle()
    complaints = misplaced(scrolled_through(reading, study), study.series.grid, LESION, RADIUS_MM)
    assert any(complaint in text for text in complaints), complaints
    reading.close()


def wrong(part10: bytes, study: Study, fault: str, number: int) -> bytes:
    """Another object and series: each frame on the next slice, or its columns in reverse."""
    segmentation = pydicom.dcmread(BytesIO(part10))
    if fault == "mirrored":
        segmentation.PixelData = pack_bits(segmentation.pixel_array[..., ::-1].ravel(), pad=True)
    else:
        grid, images = study.series.grid, {k: uid for uid, k in study.slice_of_uid.items()}
        for groups in segmentation.PerFrameFunctionalGroupsSequence:
            (source,) = groups.DerivationImageSequence[0].SourceImageSequence
            k = study.slice_of_uid[source.ReferencedSOPInstanceUID] + 1
            source.ReferencedSOPInstanceUID = images[k]
            position = grid.to_lps(np.array([k, 0, 0]))
            groups.PlanePositionSequence[0].ImagePositionPatient = [f"{mm:.6f}" for mm in position]
    segmentation.SOPInstanceUID, segmentation.SeriesInstanceUID = generate_uid(), generate_uid()
    segmentation.file_meta.MediaStorageSOPInstanceUID = segmentation.SOPInstanceUID
    segmentation.SeriesNumber, segmentation.SeriesDescription = number, fault
    with BytesIO() as file:
        segmentation.save_as(file)
        return file.getvalue()


def test_the_heatmaps_scroll_with_the_source(room: Room) -> None:
    study = room.studies["sagittal"]
    middle = round(float(study.series.grid.to_index(np.array(LESION))[0]))
    reading = room.open("sagittal")
    reading.side_by_side(HEATMAP)
    begin = study.slice_of[reading.places()[0].instance_number]
    reading.wheel(1)
    step = study.slice_of[reading.places()[0].instance_number] - begin  # viewers sort either way
    reading.wheel((middle - begin) * step - 1)
    reading.wait_until_panes_agree()
    source, heatmap = reading.places()
    assert study.slice_of[source.instance_number] == middle == heatmap.instance_number - 1
    reading.save(SCREENSHOTS / "heatmap-sagittal.png")
    picture = reading.picture(1)
    seen = mapping(study, picture.shape).to_slice(np.argwhere(warm(picture)))
    at = study.series.grid.to_index(np.array(LESION))[1:]
    near = np.linalg.norm((seen - at) * study.series.grid.spacing_mm[1:], axis=1) < RADIUS_MM
    assert near.sum() * mapping(study, picture.shape).pixel_area > 20  # the lesion is coloured where it lies
    reading.close()


@pytest.mark.parametrize("number", [LABELMAP, PARAMETRIC_MAP], ids=["label map", "parametric map"])
def test_what_is_optional_is_drawn_over_the_source_too(room: Room, number: int) -> None:
    """OHIF 3.13.2 has a label map in the background's colour: judged by what it changes on a slice of the lesion."""
    study = room.studies["axial"]
    plain, drawn = room.open("axial"), room.open("axial")
    drawn.load_overlay(number)
    drawn.save(SCREENSHOTS / f"{number}.png")
    picture = at_the_lesion(drawn, study)
    changed = np.abs(picture.astype(np.int16) - at_the_lesion(plain, study)).max(axis=2) > 30  # of 255
    seen = mapping(study, picture.shape).to_slice(np.argwhere(changed))
    middle, *lesion = study.series.grid.to_index(np.array([LESION]))[0]
    inner = np.argwhere(study.voxels[round(float(middle))] > 0)  # the viewer's texts beside the head come and go
    seen = seen[((seen >= inner.min(axis=0)) & (seen <= inner.max(axis=0))).all(axis=1)]
    near = np.linalg.norm((seen - lesion) * study.series.grid.spacing_mm[1:], axis=1) < RADIUS_MM + 2 * max(SPACING_MM)
    assert near.sum() > 100
    if number == LABELMAP:
        assert near.mean() > 0.95
    plain.close()
    drawn.page.close()


def at_the_lesion(reading: ReadingRoom, study: Study) -> NDArray[np.uint8]:
    """The picture of the slice that the lesion's centre lies on."""
    middle = round(float(study.series.grid.to_index(np.array(LESION))[0]))
    shown = reading.places()[0]
    is_forward = study.slice_of[shown.instance_number] == shown.place - 1  # viewers sort either way
    return reading.wheel((middle + 1 if is_forward else shown.count - middle) - shown.place)
