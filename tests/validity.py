"""What the validators of dicom3tools say of results, less what they say of the source already (RESULTS 8)."""

import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from anomalyd.pipeline.results.objects import ResultKind, ResultObject
from conftest import RequirePeer

EXPECTED_IN_OBJECTS = (
    # A Secondary Capture with the geometry of its slice is a Standard Extended SOP class (RESULTS 3).
    "Slice Thickness", "Spacing Between Slices", "Image Position (Patient)", "Image Orientation (Patient)",
    "Frame of Reference UID", "Position Reference Indicator", "this is a Standard Extended SOP Class",
    "Unrecognized defined term <99ANOMALYD>",  # there is no standard code for a score of ours (RESULTS 4)
    "Unrecognized defined term <QUANTITY>",  # of a Parametric Map: PS3.3 C.8.32.2 has it, dicom3tools of 2022 not
)  # fmt: skip
EXPECTED_BETWEEN_OBJECTS = (
    "ProcedureCodeSequence",  # an empty sequence of Type 3 is an error in the source and dropped here (Philips)
    "Element=<AccessionNumber> IE",  # in each set with an SR: dcentvfy counts it to its series there (RESULTS 8)
    "Element=<ReferencedStudySequence> IE",  # the same
)
UNKNOWN_TO_DCIODVFY = (ResultKind.LABELMAP,)
"""dicom3tools of 2022 knows no Label Map Segmentation: dcmqi and highdicom judge it."""


def complaints(program: str, *paths: Path) -> set[str]:
    """Errors and warnings, without the files' names."""
    run = subprocess.run([program, *paths], capture_output=True, text=True, errors="replace", check=False)
    lines = (re.sub(r"<[^<>]*/[^<>]*\.dcm>", "FILE", line) for line in run.stderr.splitlines())
    return {line for line in lines if line.startswith(("Error", "Warning"))}


def assert_valid(
    sources: Sequence[Path], results: Sequence[ResultObject], folder: Path, peer: RequirePeer, *added: str
) -> None:
    """No complaint beyond those of the source and the expected ones: of the first and the last object of each kind, and
    between these and some of the sources. added: attributes of Type 2 that the source lacks, so they are empty in
    results."""
    dciodvfy, dcentvfy = peer("dciodvfy"), peer("dcentvfy")
    paths = [path for kind, path in _first_and_last(results, folder) if kind not in UNKNOWN_TO_DCIODVFY]
    known = complaints(dciodvfy, sources[0])
    for path in paths:
        assert not _unexpected(complaints(dciodvfy, path) - known, EXPECTED_IN_OBJECTS), path.name
    some = list(sources[:: max(1, len(sources) // 4)])  # each is compared with each
    between = complaints(dcentvfy, *some, *paths) - complaints(dcentvfy, *some)
    assert not _unexpected(between, (*EXPECTED_BETWEEN_OBJECTS, *(f"Element=<{name}> IE" for name in added)))


def _first_and_last(results: Sequence[ResultObject], folder: Path) -> list[tuple[ResultKind, Path]]:
    folder.mkdir(parents=True)
    chosen = []
    for kind in dict.fromkeys(one.kind for one in results):
        of_kind = [one for one in results if one.kind is kind]
        for one in of_kind if len(of_kind) == 1 else (of_kind[0], of_kind[-1]):
            path = folder / f"{kind}-{one.instance_number}.dcm"
            path.write_bytes(one.data)
            chosen.append((kind, path))
    return chosen


def _unexpected(lines: set[str], expected: Iterable[str]) -> set[str]:
    return {line for line in lines if not any(words in line for words in expected)}
