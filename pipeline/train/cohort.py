"""Which scans of a folder train, which are held out: by contrast, by licence, split by subject."""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anomalyd.errors import ConfigError
from anomalyd.pipeline.finding import Contrast
from anomalyd.pipeline.nifti import read_nifti
from anomalyd.pipeline.train.dicom_scans import DicomSeries, find_series
from anomalyd.pipeline.volume import Volume

HELD_OUT_SHARE = 0.2
NIFTI_SUFFIXES = (".nii.gz", ".nii")
INDEX = "index.csv"
_BIDS_SUBJECT = re.compile(r"(sub-[A-Za-z0-9]+)_")
_BIDS_CONTRAST = re.compile(r"_(T1w|T2w|FLAIR|PDw|bold|dwi|T2star|angio)\.nii(\.gz)?$")

Skipped = tuple[tuple[str, str], ...]
"""(what, why) of scans that are not used."""


@dataclass(frozen=True, slots=True)
class Scan:
    """One scan of one subject: a NIfTI file or a DICOM series.

    path: the file, for a series the folder that holds it; only a name for a scan that is known from a cache file.
    is_synthetic: made from another contrast of the subject, whose file this is.
    """

    path: Path
    subject: str
    source: str
    licence: str
    age: float | None
    series: DicomSeries | None = None
    is_synthetic: bool = False

    @property
    def name(self) -> str:
        """What it is called in a bundle: the file's name; of a series a name without any of the patient's."""
        return self.series.name if self.series else self.path.name

    @property
    def site(self) -> str:
        """`ds002748` of `ds002748-52`, `ixi` of `ixi012`, the scanner of a DICOM series; spreads what is held out."""
        if self.series:
            return self.source
        return self.subject.split("-")[0] if "-" in self.subject else re.sub(r"\d+$", "", self.subject)

    @property
    def byte_count(self) -> int:
        """Size of its files."""
        return self.series.byte_count if self.series else self.path.stat().st_size

    def read(self) -> Volume:
        """The volume; raises Refused or Ineligible where it cannot be had."""
        return self.series.read() if self.series else read_nifti(self.path)


@dataclass(frozen=True, slots=True)
class Found:
    """What a folder holds. skipped: what lies there and cannot be used; left_out: subjects that are not wanted."""

    scans: tuple[Scan, ...]
    skipped: Skipped = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Split:
    """Scans by use; no subject is in both. seed: what drew them."""

    train: tuple[Scan, ...]
    held_out: tuple[Scan, ...]
    seed: int | None = None
    skipped: Skipped = ()


def list_scans(data: Path, contrast: str, exclude_subject_prefixes: tuple[str, ...] = ()) -> tuple[Scan, ...]:
    """Scans of one contrast in a folder, as find_scans finds them."""
    return find_scans(data, contrast, exclude_subject_prefixes).scans


def find_scans(data: Path, contrast: str, exclude_subject_prefixes: tuple[str, ...] = ()) -> Found:
    """Scans of one contrast in a folder, and what cannot be used.

    With an index.csv (columns file, subject, contrast; of use: source_repository, licence, age) its rows decide; `file`
    may name a folder with DICOM series. Without one every NIfTI file is a scan of a subject of its own (of its `sub-`
    part where its name has one), and every DICOM series is asked for its contrast, subject and age.
    Raises ConfigError where no scan is left, or a row has no subject or no file.
    """
    index = data / INDEX
    found = _indexed(data, index, contrast) if index.exists() else _everything(data, contrast)
    kept = tuple(s for s in found.scans if not s.subject.startswith(exclude_subject_prefixes or ("\0",)))
    if not kept:
        told = "".join(f"; {what}: {why}" for what, why in found.skipped[:5])
        raise ConfigError(
            f"no {contrast} scan in {data}: NIfTI files, DICOM series, or an {INDEX} with file, subject, contrast{told}"
        )
    left_out = {scan.subject for scan in found.scans} - {scan.subject for scan in kept}
    return Found(kept, found.skipped, tuple(sorted(left_out)))


def _indexed(data: Path, index: Path, contrast: str) -> Found:
    with index.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        columns = set(reader.fieldnames or ())
        if not {"file", "subject", "contrast"} <= columns:
            raise ConfigError(
                f"{index} has the columns {', '.join(sorted(columns))}: file, subject, contrast are needed"
            )
        rows = [row for row in reader if (row["contrast"] or "").strip().lower() == contrast.lower()]
    scans: list[Scan] = []
    skipped: list[tuple[str, str]] = []
    for row in sorted(rows, key=lambda row: row["file"]):
        path = data / row["file"]
        facts = (row["subject"], row.get("source_repository") or "", row.get("licence") or "", _age(index, row))
        if not row["subject"] or not row["file"]:
            raise ConfigError(f"{index}: the row {dict(row)} has no file or no subject")
        if path.is_dir():
            series = find_series(path, Contrast(contrast), row["subject"])
            scans += [Scan(path, *facts, one.series) for one in series.found]
            skipped += [(f"{row['file']}: {what}", why) for what, why in series.skipped]
        elif path.exists():
            scans.append(Scan(path, *facts))
        else:
            skipped.append((row["file"], f"{INDEX} names it, and it is not there"))
    return Found(tuple(scans), tuple(skipped))


def _age(index: Path, row: dict[str, str]) -> float | None:
    try:
        return float(row["age"]) if row.get("age") else None
    except ValueError as exc:
        raise ConfigError(f"{index}: {row['file']} has the age {row['age']!r}, a number of years is needed") from exc


def _everything(data: Path, contrast: str) -> Found:
    paths = sorted(path for path in data.rglob("*") if path.name.lower().endswith(NIFTI_SUFFIXES))
    scans: list[Scan] = []
    for path in paths:
        named = _BIDS_CONTRAST.search(path.name)
        if named and named[1].lower() != contrast.lower():
            continue  # of another kind by its own name: not wrong
        subject = _BIDS_SUBJECT.match(path.name)
        scans.append(Scan(path, subject[1] if subject else path.name.split(".nii")[0], "", "", None))
    series = find_series(data, Contrast(contrast), passed_over=(*NIFTI_SUFFIXES, ".csv", ".json", ".md", ".txt"))
    scans += [Scan(one.folder, one.subject, one.source, "", one.age, one.series) for one in series.found]
    return Found(tuple(scans), series.skipped)


def split_by_subject(scans: tuple[Scan, ...], seed: int, skipped: Skipped = ()) -> Split:
    """A fifth of each site's subjects held out, drawn with the seed; sites of fewer than three all train."""
    rng = np.random.default_rng(seed)
    held: set[str] = set()
    for site in sorted({scan.site for scan in scans}):
        subjects = sorted({scan.subject for scan in scans if scan.site == site})
        drawn = rng.permutation(len(subjects))[: round(HELD_OUT_SHARE * len(subjects))]
        held.update(subjects[int(k)] for k in drawn)
    if not held and len(scans) > 1:
        subjects = sorted({scan.subject for scan in scans})
        drawn = rng.permutation(len(subjects))[: max(1, round(HELD_OUT_SHARE * len(subjects)))]
        held.update(subjects[int(k)] for k in drawn)
    return Split(
        tuple(scan for scan in scans if scan.subject not in held),
        tuple(scan for scan in scans if scan.subject in held),
        seed,
        skipped,
    )
