"""UIDs of results: the same analysis of the same images has the same ones, so a second sending is no second result."""

import uuid
from dataclasses import dataclass

from anomalyd.ids import Digest, InstanceUID, SeriesUID, StudyUID

_NAMESPACE = uuid.UUID("6f0b6b1e-5d0c-4d55-9a57-1c2d7f7a3e10")  # of this product; never to be changed
_SEPARATOR = "\x1f"


def result_uid(*parts: str) -> str:
    """A UID under 2.25 (PS3.5 B.2) that depends on the parts and on nothing else; at most 44 characters."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, _SEPARATOR.join(parts)).int}"


def device_uid(serial: str) -> str:
    """Of an installation, by its Device Serial Number: alike in all its documents (PS3.16 TID 1004)."""
    return result_uid("device", serial)


IMPLEMENTATION_UID = result_uid("implementation class")


@dataclass(frozen=True, slots=True)
class ResultKey:
    """What a result depends on: these parts are in each of its UIDs, as in the key of its job."""

    study_uid: StudyUID
    series_uid: SeriesUID
    instance_set: Digest
    bundle: Digest
    settings: Digest

    def series(self, kind: str) -> SeriesUID:
        """The result series of this kind."""
        return SeriesUID(self._uid(kind, "series"))

    def instance(self, kind: str, index: int) -> InstanceUID:
        """The instance of this kind at an index of the analysed volume."""
        return InstanceUID(self._uid(kind, str(index)))

    def _uid(self, kind: str, what: str) -> str:
        return result_uid(self.study_uid, self.series_uid, self.instance_set, self.bundle, self.settings, kind, what)
