"""Whose scans trained a network, by source and licence: credits are due to them, and none of them may judge it."""

from collections import defaultdict
from collections.abc import Iterable

from anomalyd.pipeline.bundle import SourceFacts
from anomalyd.pipeline.train.cohort import Scan

People = tuple[SourceFacts, ...]


def people_of(scans: Iterable[Scan]) -> People:
    """The subjects of scans, by source and licence."""
    return together([SourceFacts(source=s.source, licence=s.licence, subjects=(s.subject,)) for s in scans])


def together(facts: Iterable[SourceFacts]) -> People:
    """All of them, each source and licence once, each subject once in it; in order of name."""
    subjects: dict[tuple[str, str], set[str]] = defaultdict(set)
    for one in facts:
        subjects[one.source, one.licence].update(one.subjects)
    return tuple(
        SourceFacts(source=source, licence=licence, subjects=tuple(sorted(names)))
        for (source, licence), names in sorted(subjects.items())
    )


def names_of(people: People) -> frozenset[str]:
    """Every subject."""
    return frozenset(name for one in people for name in one.subjects)
