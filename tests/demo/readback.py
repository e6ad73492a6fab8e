"""What the PACS holds, read by independent readers (highdicom, pydicom): never from the daemon's own files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import highdicom
import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.uid import Comprehensive3DSRStorage, SecondaryCaptureImageStorage, SegmentationStorage

from anomalyd.ids import SeriesUID

SHEET_COLUMNS, SHEET_TILES = 6, 24


@dataclass(frozen=True, slots=True, eq=False)
class ReadSegment:
    """One candidate region as the SEG has it; points_lps: (n, 3) centres of its voxels in mm."""

    label: str
    volume_ml: float
    centroid_lps: tuple[float, float, float]
    points_lps: NDArray[np.float64]

    def distance_mm(self, point_lps: Sequence[float]) -> float:
        """From a point to the nearest marked voxel's centre."""
        return float(np.linalg.norm(self.points_lps - np.asarray(point_lps), axis=1).min())


@dataclass(slots=True)
class ReadResults:
    """What came back for one sent series."""

    seg: Path | None = None
    segments: tuple[ReadSegment, ...] = ()
    heatmaps: list[Path] = field(default_factory=list)
    summary: Path | None = None
    report: Path | None = None


def read_results(folder: Path, series_of: Mapping[str, SeriesUID]) -> dict[SeriesUID, ReadResults]:
    """By source series; series_of: SOP Instance UID of each sent image -> its series.

    A notice that a scan was not analysed is left out. Any other object that refers to nothing that was sent
    is an error of the daemon: KeyError.
    """
    results: dict[SeriesUID, ReadResults] = {}
    for path in sorted(folder.glob("*.dcm")):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        if "NOT ANALYSED" in header.SeriesDescription:
            continue
        result = results.setdefault(_source_series(header, series_of), ReadResults())
        if header.SOPClassUID == SegmentationStorage:
            result.seg, result.segments = path, read_segments(path)
        elif header.SOPClassUID == Comprehensive3DSRStorage:
            result.report = path
        elif header.SOPClassUID == SecondaryCaptureImageStorage and "ImagePositionPatient" in header:
            result.heatmaps.append(path)
        elif header.SOPClassUID == SecondaryCaptureImageStorage:
            result.summary = path
        else:
            raise KeyError(f"{path.name}: {header.SOPClassUID.name} was not expected")
    for result in results.values():
        result.heatmaps.sort(key=lambda p: int(pydicom.dcmread(p, specific_tags=["InstanceNumber"]).InstanceNumber))
    return results


def read_segments(path: Path) -> tuple[ReadSegment, ...]:
    """Volume and centroid of each segment."""
    seg = highdicom.seg.segread(path)
    read = []
    for number in seg.segment_numbers:
        volume = seg.get_volume(segment_numbers=[number])
        voxels = np.argwhere(volume.array[..., 0] > 0)
        points = volume.map_indices_to_reference(voxels)
        x, y, z = points.mean(axis=0)
        millilitres = len(voxels) * float(np.prod(volume.spacing)) / 1000.0
        read.append(
            ReadSegment(
                str(seg.get_segment_description(number).segment_label),
                millilitres,
                (float(x), float(y), float(z)),
                points,
            )
        )
    return tuple(read)


def write_contact_sheet(heatmaps: Sequence[Path], out: Path) -> None:
    """Every n-th heatmap as received, in one picture, from first to last."""
    margin = len(heatmaps) // 8  # the outer slices show air
    chosen = np.linspace(margin, len(heatmaps) - 1 - margin, min(SHEET_TILES, len(heatmaps))).round().astype(int)
    tiles = [Image.fromarray(pydicom.dcmread(heatmaps[k]).pixel_array) for k in dict.fromkeys(chosen.tolist())]
    width, height = max(t.width for t in tiles), max(t.height for t in tiles)
    rows = -(-len(tiles) // SHEET_COLUMNS)
    sheet = Image.new("RGB", (SHEET_COLUMNS * width, rows * height))
    for k, tile in enumerate(tiles):
        sheet.paste(tile, ((k % SHEET_COLUMNS) * width, (k // SHEET_COLUMNS) * height))
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)


def _source_series(header: pydicom.Dataset, series_of: Mapping[str, SeriesUID]) -> SeriesUID:
    """The sent series of an image that the object refers to, at whatever depth."""
    for element in header.iterall():
        if element.keyword == "ReferencedSOPInstanceUID" and str(element.value) in series_of:
            return series_of[str(element.value)]
    raise KeyError(f"{header.SOPInstanceUID} ({header.SOPClassUID.name}) refers to no image that was sent")
