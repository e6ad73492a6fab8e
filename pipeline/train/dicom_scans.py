"""DICOM series of healthy people as training scans: told apart by their headers, named so that no name enters a bundle.

A subject is called by 16 bits of the SHA-256 of its PatientID. That keeps the scans of one person together, here and in
a later calibration; it is shared by so many possible numbers that it does not lead back to one. Two people who share it
by chance (one pair among 360) count as one.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from anomalyd.ids import InstanceUID
from anomalyd.pipeline.age import years
from anomalyd.pipeline.finding import Contrast
from anomalyd.pipeline.read import read_folder, read_volume
from anomalyd.pipeline.selection import VolumeChoice, choose
from anomalyd.pipeline.series import InstanceHeader, counted
from anomalyd.pipeline.settings import PipelineSettings
from anomalyd.pipeline.volume import Volume

_AGE_KEYWORDS = ("PatientAge", "PatientBirthDate", "StudyDate")
_KEYWORDS = frozenset({"PatientID", *_AGE_KEYWORDS})
SUBJECT_DIGITS = 4  # hexadecimal: 16 bits
SERIES_DIGITS = 8


@dataclass(frozen=True, slots=True, eq=False)
class DicomSeries:
    """The chosen volume of one series and the files of its instances. name: without anything of the patient's."""

    name: str
    choice: VolumeChoice
    files: Mapping[InstanceUID, Path]

    @property
    def byte_count(self) -> int:
        """Size of all its files."""
        return sum(path.stat().st_size for path in self.files.values())

    def read(self) -> Volume:
        """The volume; raises Ineligible where pixels do not decode."""
        return read_volume(self.choice, lambda uid: self.files[uid].read_bytes())


@dataclass(frozen=True, slots=True, eq=False)
class SeriesOfSubject:
    """A series that can be used. source: the scanner; age in years, where stated."""

    series: DicomSeries
    folder: Path
    subject: str
    source: str
    age: float | None


@dataclass(frozen=True, slots=True, eq=False)
class SeriesFound:
    """skipped: (what, why) of series of this contrast that cannot be used; those of other kinds are counted."""

    found: tuple[SeriesOfSubject, ...]
    skipped: tuple[tuple[str, str], ...]


def find_series(
    folder: Path, contrast: Contrast, subject: str | None = None, passed_over: tuple[str, ...] = ()
) -> SeriesFound:
    """The series of one contrast below a folder, as the service would choose them (pipeline/selection.py).

    subject: whose they are, where it is known; else PatientID tells. passed_over: ends of names of files that are no
    DICOM objects by design.
    """
    series, unreadable = read_folder(folder, _KEYWORDS)
    found: list[SeriesOfSubject] = []
    skipped: list[tuple[str, str]] = []
    others: list[str] = []
    for header, files in series:
        first = header.instances[0]
        owner = subject or subject_of(first.attributes["PatientID"])
        name = f"{owner or 'unknown'} series {_digest(header.series_uid, SERIES_DIGITS)}"
        chosen = choose(header, PipelineSettings(), frozenset({contrast}))
        if chosen.volume is None:
            why = chosen.reason.text if chosen.reason else "no volume was chosen"
            if chosen.contrast is contrast:
                skipped.append((name, why))
            else:
                others.append(chosen.reason.criterion.replace("_", " ") if chosen.reason else why)
        elif owner is None:
            text = "no PatientID tells whose it is: name its folder and subject in index.csv"
            skipped.append((name, text))
        else:
            one = DicomSeries(name, chosen.volume, files)
            where = files[first.instance_uid].parent
            age = years(*(first.attributes[keyword] for keyword in _AGE_KEYWORDS))
            found.append(SeriesOfSubject(one, where, owner, _scanner(first), age))
    if others:
        skipped.append((f"{len(others)} other series", "; ".join(counted(others))))
    foreign = [why for path, why in unreadable if not path.name.lower().endswith(passed_over or ("\0",))]
    if foreign:
        skipped.append(("1 file" if len(foreign) == 1 else f"{len(foreign)} files", "; ".join(counted(foreign)[:3])))
    return SeriesFound(tuple(found), tuple(skipped))


def subject_of(patient_id: str) -> str | None:
    """`dicom-` and 16 bits of the number's SHA-256 (see above); None where there is no number."""
    number = patient_id.strip()
    return f"dicom-{_digest(number, SUBJECT_DIGITS)}" if number else None


def _digest(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def _scanner(first: InstanceHeader) -> str:
    """`Siemens Prisma`, as the header names it."""
    return f"{first.manufacturer} {first.model}".strip() or "scanner not stated"
