"""Whether a patient is of the age of the healthy people that a bundle knows; the age itself is told to nobody."""

import re
from collections.abc import Sequence

from pydicom.dataset import Dataset

_AGE = re.compile(r"(\d{3})([DWMY])")  # PS3.5 6.2, value representation AS
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}
_DATE = re.compile(r"(\d{4})(\d{2})(\d{2})")


def years(age: str, birth_date: str, study_date: str) -> float | None:
    """Years: PatientAge, else from birth to study; None where neither is stated, or they cannot be."""
    stated = _AGE.fullmatch(age.strip().upper())
    if stated:
        return int(stated[1]) * _YEARS[stated[2]]
    born, studied = _DATE.match(birth_date.strip()), _DATE.match(study_date.strip())
    if not born or not studied:
        return None
    then, now = (int(d[1]) + (int(d[2]) - 1) / 12 + (int(d[3]) - 1) / 365.25 for d in (born, studied))
    return round(now - then, 1) if now >= then else None


def outside_reference(headers: Sequence[Dataset], reference: tuple[float, float] | None) -> tuple[str, ...]:
    """A warning where the patient is younger or older than the healthy reference; none where an age is not known.

    reference: least and greatest age in years of the people who trained the bundle.
    """
    if reference is None:
        return ()
    for header in headers:
        age = years(*(str(header.get(key) or "") for key in ("PatientAge", "PatientBirthDate", "StudyDate")))
        if age is not None:
            low, high = reference
            if low <= age < high + 1:  # whole years: somebody of 52 may be nearly 53
                return ()
            how = "younger" if age < low else "older"
            return (
                f"the patient is {how} than the healthy reference, which is of {low:.0f} to {high:.0f} years of age",
            )
    return ()
