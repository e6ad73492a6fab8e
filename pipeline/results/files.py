"""Results as files in a folder, as `anomalyd analyse` leaves them."""

import json
from collections.abc import Collection
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
from anomalyd.pipeline.terms import DEFAULT_KINDS

REPORT: Final = "report.json"
SINGLE: Final = {
    ResultKind.SEG: "segmentation.dcm",
    ResultKind.SR: "structured-report.dcm",
    ResultKind.SUMMARY: "summary.dcm",
    ResultKind.PARAMETRIC_MAP: "parametric-map.dcm",
    ResultKind.LABELMAP: "labelmap.dcm",
}
"""Kinds of one object; of the others there is one for each slice, in a folder of its own."""
FOLDERS: Final = {ResultKind.HEATMAP: "heatmap", ResultKind.SCORE_MAP: "score-map"}
CONTACT_SHEET: Final = "contact-sheet.png"
NIFTI_NAMES: Final = ("anomaly-map", "anomaly-sign", "anomaly-mask", "brain-mask", "reconstruction")


def clear(folder: Path) -> None:
    """Makes the folder, and removes what an earlier run left under our names: nothing stale lies beside new results."""
    folder.mkdir(parents=True, exist_ok=True)
    names = (REPORT, CONTACT_SHEET, *SINGLE.values(), *(f"{name}.nii.gz" for name in NIFTI_NAMES))
    slices = [folder / name for name in FOLDERS.values()]
    for path in (*(folder / name for name in names), *(one for at in slices for one in at.glob("*.dcm"))):
        path.unlink(missing_ok=True)
    for at in slices:
        if at.is_dir() and not any(at.iterdir()):
            at.rmdir()


def write_objects(folder: Path, context: ResultContext, kinds: Collection[ResultKind] = DEFAULT_KINDS) -> None:
    """segmentation.dcm if anything was found, structured-report.dcm, and heatmap/NNNN.dcm in geometric order.

    Raises Ineligible.
    """
    for one in build_results(context, kinds):
        name = SINGLE.get(one.kind) or f"{FOLDERS[one.kind]}/{one.instance_number:04d}.dcm"
        (folder / name).parent.mkdir(exist_ok=True)
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
