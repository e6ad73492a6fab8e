"""Headers of received series, each image parsed once and kept while its series is being watched."""

from collections import OrderedDict
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from anomalyd.errors import Broken, Refused
from anomalyd.ids import Digest, InstanceUID
from anomalyd.pipeline.series import InstanceHeader, parse_instance
from anomalyd.storage.engine import Store
from anomalyd.storage.series import InstanceRow, SeriesRow, instances_of, open_instance

HEADERS_KEPT = 20_000
"""Across all series (about 2.5 kB each); beyond it the series looked at longest ago are parsed again when needed."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An image that cannot be used, and why, in words without patient data."""

    instance_uid: InstanceUID
    text: str


@dataclass(frozen=True, slots=True)
class ParsedSeries:
    """All stored images of a series: headers of those that can be read, reasons for the others."""

    headers: tuple[InstanceHeader, ...]
    unreadable: tuple[Unreadable, ...]
    sha256: dict[InstanceUID, Digest] = field(hash=False)


class Headers:
    """A bounded cache; for one thread at a time."""

    def __init__(self, store: Store, keywords: AbstractSet[str] = frozenset(), kept: int = HEADERS_KEPT) -> None:
        """keywords: DICOM attributes that rules of the configuration ask for."""
        self._store, self._keywords, self._kept = store, keywords, kept
        self._known: OrderedDict[int, dict[int, InstanceHeader | Unreadable]] = OrderedDict()

    def of(self, series: SeriesRow) -> ParsedSeries:
        """The series as it is stored now; reads only images that came since the last call."""
        rows = instances_of(self._store, series.study_uid, series.series_uid)
        known = self._known.pop(series.id, {})
        parsed = {row.id: known[row.id] if row.id in known else self._parse(row) for row in rows}
        self._known[series.id] = parsed
        self._forget_oldest()
        return ParsedSeries(
            tuple(one for one in parsed.values() if isinstance(one, InstanceHeader)),
            tuple(one for one in parsed.values() if isinstance(one, Unreadable)),
            {row.instance_uid: row.sha256 for row in rows},
        )

    def forget(self, series: SeriesRow) -> None:
        """Decided: its headers are not needed any more."""
        self._known.pop(series.id, None)

    @property
    def count(self) -> int:
        """Headers held."""
        return sum(map(len, self._known.values()))

    def _parse(self, row: InstanceRow) -> InstanceHeader | Unreadable:
        try:
            return parse_instance(open_instance(self._store, row), self._keywords)
        except (Refused, Broken) as exc:
            return Unreadable(row.instance_uid, str(exc))

    def _forget_oldest(self) -> None:
        while self.count > self._kept and len(self._known) > 1:
            self._known.popitem(last=False)
