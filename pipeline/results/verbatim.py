"""Attributes copied from received headers byte for byte, also invalid ones and those in any character set."""

from collections.abc import Iterable

from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_has_tag, dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from anomalyd.pipeline.elements import Elements
from anomalyd.pipeline.results.attributes import PATIENT_AND_STUDY, PATIENT_GROUP, TYPE_2

_BINARY = frozenset({"US", "SS", "UL", "SL", "FL", "FD", "UV", "SV", "AT", "OB", "OW", "OF", "OD", "OL", "OV"})


def copy_patient_and_study(source: Dataset, target: Dataset) -> None:
    """Patient, study and clinical-trial attributes as they were received, byte for byte; character set and time zone.

    Missing Type 2 attributes are added empty; empty sequences are dropped (dciodvfy refuses them; none is Type 2).
    To be called last: from here on the target is written in Explicit VR Little Endian with the source's character set.
    """
    tags = [tag for tag in source.keys() if tag.group == PATIENT_GROUP or tag in PATIENT_AND_STUDY]  # noqa: SIM118 - a Dataset iterates over elements
    copy_verbatim(source, target, tags)
    for keyword in TYPE_2:
        if keyword not in target:
            setattr(target, keyword, None)


def copy_verbatim(source: Dataset, target: Dataset, tags: Iterable[int]) -> None:
    """Copies the attributes that are present, without decoding text: an invalid value stays as invalid as it was.

    pydicom writes raw elements as they are only in a data set that claims to have been read in the same encoding.
    """
    for tag in tags:
        element = _encodable(source, BaseTag(tag)) if tag in source else None
        if element is not None:
            target[tag] = element
    terms = Elements(target).texts("SpecificCharacterSet")
    target.set_original_encoding(
        is_implicit_vr=False, is_little_endian=True, character_encoding=convert_encodings(list(terms) or "iso8859")
    )


def tags_of(*keywords: str) -> list[int]:
    """The tags of keywords of PS3.6."""
    return [tag for tag in map(tag_for_keyword, keywords) if tag is not None]


def _encodable(source: Dataset, tag: BaseTag) -> DataElement | RawDataElement | None:
    """The element as Explicit VR Little Endian holds it: raw bytes where they are text; None for an empty sequence."""
    element: DataElement | RawDataElement = source.get_item(tag)
    stated = str(element.VR) if element.VR and element.VR != "UN" else ""
    representation = stated or (dictionary_VR(tag) if dictionary_has_tag(tag) else "UN")
    if representation == "SQ":
        return _items_verbatim(source, tag)
    if not isinstance(element, RawDataElement) or representation in _BINARY:
        return source[tag]
    value = element.value or b""
    value += (b"\0" if representation in ("UI", "UN") else b" ") * (len(value) % 2)
    return RawDataElement(tag, representation, len(value), value, 0, False, True)  # noqa: FBT003 - a named tuple


def _items_verbatim(source: Dataset, tag: BaseTag) -> DataElement | None:
    items = []
    for received in source[tag].value or ():
        item = Dataset()
        copy_verbatim(received, item, list(received.keys()))
        items.append(item)
    return DataElement(tag, "SQ", items) if items else None
