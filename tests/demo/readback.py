"""What the PACS holds, read by independent readers (highdicom, pydicom): never from the daemon's own files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import highdicom
import numpy as np
import pydicom
from PIL import Image
from pydicom.uid import SecondaryCaptureImageStorage, SegmentationStorage

from anomalyd.ids import SeriesUID

SHEET_COLUMNS, SHEET_TILES = 6, 24


@dataclass(frozen=True, slots=True)
class ReadSegment:
    """One candidate region as the SEG has it."""

    label: str
    volume_ml: float
    centroid_lps: tuple[float, float, float]


@dataclass(slots=True)
class ReadResults:
    """What came back for one sent series."""

    seg: Path | None = None
    segments: tuple[ReadSegment, ...] = ()
    heatmaps: list[Path] = field(default_factory=list)


def read_results(folder: Path, series_of: Mapping[str, SeriesUID]) -> dict[SeriesUID, ReadResults]:
    """By source series; series_of: SOP Instance UID of each sent image -> its series.

    Objects that refer to nothing that was sent are an error of the daemon: KeyError.
    """
    results: dict[SeriesUID, ReadResults] = {}
    for path in sorted(folder.glob("*.dcm")):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        result = results.setdefault(series_of[_one_source(header)], ReadResults())
        if header.SOPClassUID == SegmentationStorage:
            result.seg, result.segments = path, read_segments(path)
        elif header.SOPClassUID == SecondaryCaptureImageStorage:
            result.heatmaps.append(path)
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
        x, y, z = volume.map_indices_to_reference(voxels).mean(axis=0)
        millilitres = len(voxels) * float(np.prod(volume.spacing)) / 1000.0
        read.append(
            ReadSegment(
                str(seg.get_segment_description(number).segment_label), millilitres, (float(x), float(y), float(z))
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


def _one_source(header: pydicom.Dataset) -> str:
    """SOP Instance UID of one image that the object was made from."""
    if header.SOPClassUID == SegmentationStorage:
        return str(header.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID)
    return str(header.SourceImageSequence[0].ReferencedSOPInstanceUID)
