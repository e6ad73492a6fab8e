"""Result files for a peer that takes Implicit VR Little Endian alone: every value stays the bytes that it was.

Text that is decoded and encoded again comes out changed where a scanner wrote what its character set does not allow,
or chose other escape sequences than we would (PS3.5 6.1.2.5); the two forms differ in the heads of elements only.
"""

from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset


def implicit_vr(path: Path) -> Dataset:
    """The data set of a Part 10 file in Explicit VR Little Endian, to be encoded as Implicit VR Little Endian.

    Raises OSError where the file cannot be read.
    """
    dataset = dcmread(path)
    _keep_bytes(dataset)
    return dataset


def _keep_bytes(dataset: Dataset) -> None:
    """Claims that the elements were read as they will be written: pydicom then takes the raw ones as they are."""
    for tag in list(dataset.keys()):
        if dataset.get_item(tag).VR == "SQ":
            for item in dataset[tag].value or ():
                _keep_bytes(item)
    dataset.set_original_encoding(is_implicit_vr=True, is_little_endian=True)
