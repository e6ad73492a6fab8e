"""Results as files in a folder, as `anomalyd analyse` leaves them."""

import json
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from anomalyd.pipeline.finding import Finding
from anomalyd.pipeline.nifti import write_nifti
from anomalyd.pipeline.results.build import build_results
from anomalyd.pipeline.results.contact_sheet import contact_sheet
from anomalyd.pipeline.results.header import read_source
from anomalyd.pipeline.results.objects import ResultContext, ResultKind
from anomalyd.pipeline.results.report import Report

REPORT: Final = "report.json"
SEGMENTATION: Final = "segmentation.dcm"
HEATMAPS: Final = "heatmap"
CONTACT_SHEET: Final = "contact-sheet.png"
NIFTI_NAMES: Final = ("anomaly-map", "anomaly-sign", "anomaly-mask", "brain-mask", "reconstruction")


def clear(folder: Path) -> None:
    """Makes the folder, and removes what an earlier run left under our names: nothing stale lies beside new results."""
    folder.mkdir(parents=True, exist_ok=True)
    names = (REPORT, SEGMENTATION, CONTACT_SHEET, *(f"{name}.nii.gz" for name in NIFTI_NAMES))
    for path in (*(folder / name for name in names), *(folder / HEATMAPS).glob("*.dcm")):
        path.unlink(missing_ok=True)
    if (folder / HEATMAPS).is_dir() and not any((folder / HEATMAPS).iterdir()):
        (folder / HEATMAPS).rmdir()


def write_objects(folder: Path, context: ResultContext) -> None:
    """segmentation.dcm if anything was found, and heatmap/NNNN.dcm in geometric order. Raises Ineligible."""
    (folder / HEATMAPS).mkdir(exist_ok=True)
    for one in build_results(context):
        name = SEGMENTATION if one.kind is ResultKind.SEG else f"{HEATMAPS}/{one.instance_number:04d}.dcm"
        (folder / name).write_bytes(one.data)


def write_contact_sheet(folder: Path, context: ResultContext) -> None:
    """contact-sheet.png, in the window that the source states."""
    window = read_source(context.headers, context.volume).window if context.headers else None
    (folder / CONTACT_SHEET).write_bytes(contact_sheet(context.volume, context.finding, window))


def write_maps(folder: Path, finding: Finding) -> None:
    """The finding's maps as NIfTI on the input's own grid; anomaly-map is exactly what was thresholded."""
    maps: tuple[NDArray[Any], ...] = (
        finding.score_map,
        finding.sign_map,
        finding.mask,
        finding.brain_mask,
        finding.reconstruction,
    )
    for name, array in zip(NIFTI_NAMES, maps, strict=True):
        write_nifti(folder / f"{name}.nii.gz", array, finding.grid)


def write_report(folder: Path, report: Report) -> None:
    """report.json, whole or not at all: programs wait for it."""
    fresh = folder / f"{REPORT}.new"
    fresh.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    fresh.replace(folder / REPORT)
