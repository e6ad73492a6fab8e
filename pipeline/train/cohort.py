"""Which scans of a folder train, which are held out: by contrast, by licence, split by subject."""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anomalyd.errors import ConfigError

HELD_OUT_SHARE = 0.2
NIFTI_SUFFIXES = (".nii.gz", ".nii")


@dataclass(frozen=True, slots=True)
class Scan:
    """One file of one subject. site: the subject's name up to its number, used to spread what is held out."""

    path: Path
    subject: str
    source: str
    licence: str
    age: float | None

    @property
    def site(self) -> str:
        """`ds002748` of `ds002748-52`, `ixi` of `ixi012`."""
        return self.subject.split("-")[0] if "-" in self.subject else re.sub(r"\d+$", "", self.subject)


@dataclass(frozen=True, slots=True)
class Split:
    """Scans by use; no subject is in both."""

    train: tuple[Scan, ...]
    held_out: tuple[Scan, ...]


def list_scans(data: Path, contrast: str, exclude_subject_prefixes: tuple[str, ...] = ()) -> tuple[Scan, ...]:
    """Scans of one contrast, in order of file name.

    With an index.csv (columns file, subject, contrast) it decides; without one every NIfTI file is one subject.
    Raises ConfigError where nothing is left.
    """
    index = data / "index.csv"
    scans = _indexed(data, index, contrast) if index.exists() else _every_file(data)
    kept = tuple(s for s in scans if not s.subject.startswith(exclude_subject_prefixes or ("\0",)))
    if not kept:
        raise ConfigError(f"no {contrast} scan in {data}: NIfTI files, or an index.csv with file, subject, contrast")
    return kept


def _indexed(data: Path, index: Path, contrast: str) -> tuple[Scan, ...]:
    with index.open(newline="", encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if row.get("contrast", "").lower() == contrast.lower()]
    return tuple(
        Scan(
            data / row["file"],
            row["subject"],
            row.get("source_repository") or "",
            row.get("licence") or "",
            float(row["age"]) if row.get("age") else None,
        )
        for row in sorted(rows, key=lambda row: row["file"])
    )


def _every_file(data: Path) -> tuple[Scan, ...]:
    paths = sorted(path for path in data.rglob("*") if path.name.endswith(NIFTI_SUFFIXES))
    return tuple(Scan(path, path.name.split(".nii")[0], "", "", None) for path in paths)


def split_by_subject(scans: tuple[Scan, ...], seed: int) -> Split:
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
    )
