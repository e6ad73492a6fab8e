"""Received objects to a Volume: pixels decoded, rescaled, in geometric order, on the source's own grid."""

import struct
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, RLELossless

from anomalyd.errors import Ineligible, Refused
from anomalyd.ids import InstanceUID, SeriesUID, StudyUID
from anomalyd.pipeline.codestream import stated_sizes
from anomalyd.pipeline.elements import Elements
from anomalyd.pipeline.functional_groups import Groups
from anomalyd.pipeline.part10 import Part10, open_part10, read
from anomalyd.pipeline.selection import VolumeChoice
from anomalyd.pipeline.series import InstanceHeader, SeriesHeader, assemble, parse_instance
from anomalyd.pipeline.volume import FloatMap, SliceSource, Volume

MAX_VOLUME_BYTES = 2 << 30  # as float32
_DTYPES = {8: np.uint8, 16: np.uint16, 32: np.uint32}
_SIGNED = {8: np.int8, 16: np.int16, 32: np.int32}
# What codecs raise on broken code streams: they have no common root.
_BROKEN = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    RuntimeError,
    OSError,
    OverflowError,
    MemoryError,
    struct.error,
)

_PANIC = "PanicException"  # of codecs in Rust (RLE): a BaseException, of a module that cannot be imported

Folder = tuple[list[tuple[SeriesHeader, dict[InstanceUID, Path]]], list[tuple[Path, str]]]


def read_volume(choice: VolumeChoice, load: Callable[[InstanceUID], bytes]) -> Volume:
    """The chosen volume, float32 in the modality's units (rescale slope and intercept of each frame applied).

    load: gives the Part 10 bytes of an instance; called once for each. Missing slices are interpolated linearly between
    their neighbours and have no source. Raises Ineligible when pixels do not decode or are not what the header said.
    """
    needed = int(np.prod(choice.grid.shape)) * 4
    if needed > MAX_VOLUME_BYTES:
        raise Ineligible(
            "size",
            needed,
            MAX_VOLUME_BYTES,
            f"the volume needs {needed >> 20} MB, at most {MAX_VOLUME_BYTES >> 20} are read",
        )
    voxels: FloatMap = np.zeros(choice.grid.shape, dtype=np.float32)
    slots: dict[InstanceUID, list[tuple[int, SliceSource]]] = defaultdict(list)
    for k, source in enumerate(choice.slots):
        if source is not None:
            slots[source.instance_uid].append((k, source))
    is_inverted = False
    for uid, wanted in slots.items():
        image = _Image(load(uid))
        is_inverted |= image.photometric == "MONOCHROME1"
        for k, source in wanted:
            voxels[k] = image.frame(source.frame or 1, choice.grid.shape[1:])
    _interpolate(voxels, choice.slots)
    mended: tuple[str, ...] = ()
    if is_inverted:
        voxels = voxels.max() + voxels.min() - voxels
        mended += ("MONOCHROME1: values were inverted, so that bright is bright",)
    if not np.isfinite(voxels).all():
        raise Ineligible("pixels", "not finite", "finite", "rescaling gives values that are not finite")
    return Volume(voxels, choice.grid, choice.slots, mended)


def read_folder(folder: Path, keywords: AbstractSet[str] = frozenset()) -> Folder:
    """(every series below the folder with the file of each instance, every file that is none with the reason).

    keywords: as for parse_instance. DICOMDIR is passed over. Of files with the same SOP Instance UID the first in order
    of path counts, and the others are named.
    """
    headers: dict[tuple[StudyUID, SeriesUID], list[InstanceHeader]] = defaultdict(list)
    files: dict[InstanceUID, Path] = {}
    unreadable: list[tuple[Path, str]] = []
    for path in _files(folder):
        try:
            header = parse_instance(path, keywords)
        except Refused as exc:
            unreadable.append((path, str(exc)))
            continue
        if header.instance_uid in files:
            unreadable.append((path, f"{files[header.instance_uid].name} has the same SOP Instance UID"))
            continue
        files[header.instance_uid] = path
        headers[header.study_uid, header.series_uid].append(header)
    series = [assemble(headers[key]) for key in sorted(headers)]
    return [
        (one, {inst.instance_uid: files[inst.instance_uid] for inst in one.instances}) for one in series
    ], unreadable


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name.upper() != "DICOMDIR":
            yield path


class _Image:
    """One opened object whose frames are decoded on demand."""

    def __init__(self, part10: bytes) -> None:
        opened: Part10 = open_part10(part10)
        self._elements = Elements.of(read(opened))
        self._syntax = UID(opened.transfer_syntax)
        self._is_little = opened.is_little_endian
        elements = self._elements
        self._rows, self._columns = elements.integer("Rows") or 0, elements.integer("Columns") or 0
        self._frames = elements.integer("NumberOfFrames") or 1
        self._allocated = elements.integer("BitsAllocated") or 0
        self._stored = elements.integer("BitsStored") or self._allocated
        self._is_signed = elements.integer("PixelRepresentation") == 1
        self.photometric = elements.text("PhotometricInterpretation") or "MONOCHROME2"
        self._pixels = elements.raw("PixelData")

    def frame(self, number: int, shape: tuple[int, int]) -> FloatMap:
        """float32 [row, column] of the 1-based frame, rescaled; raises Ineligible."""
        if (self._rows, self._columns) != shape or self._allocated not in _DTYPES or not 1 <= number <= self._frames:
            raise Ineligible(
                "pixels", [self._rows, self._columns, self._allocated], [*shape],
                f"{self._frames} frames of {self._rows} x {self._columns} pixels with {self._allocated} bits: "
                "not what was chosen",
            )  # fmt: skip
        stored = self._encapsulated(number) if self._syntax.is_encapsulated else self._native(number)
        slope, intercept = self._rescale(number)
        return (stored * np.float64(slope) + np.float64(intercept)).astype(np.float32)

    def _native(self, number: int) -> NDArray[np.integer]:
        dtype = np.dtype(_DTYPES[self._allocated]).newbyteorder("<" if self._is_little else ">")
        count = self._rows * self._columns
        start = (number - 1) * count * dtype.itemsize
        raw = self._pixels[start : start + count * dtype.itemsize]
        if len(raw) < count * dtype.itemsize:
            raise Ineligible("pixels", len(raw), count * dtype.itemsize, "the pixel data are truncated")
        stored = np.frombuffer(raw, dtype).reshape(self._rows, self._columns).astype(_DTYPES[self._allocated])
        return self._without_overlay(stored)

    def _without_overlay(self, stored: NDArray[np.unsignedinteger]) -> NDArray[np.integer]:
        """Bits above BitsStored cut off (old files keep overlays there), the sign extended (PS3.5 8.1.1)."""
        spare = self._allocated - min(self._stored, self._allocated)
        if self._is_signed:
            return np.asarray((stored << spare).view(_SIGNED[self._allocated]) >> spare)
        return stored & stored.dtype.type((1 << (self._allocated - spare)) - 1)

    def _encapsulated(self, number: int) -> NDArray[np.integer]:
        try:
            self._check_stated_size(number)
            decoder = get_decoder(self._syntax)
            with warnings.catch_warnings():  # a code stream that disagrees with its header is judged by its shape
                warnings.simplefilter("ignore")
                array, _ = decoder.as_array(self._pixels, index=number - 1, raw=True, **self._decoding())
        except _BROKEN as exc:
            raise Ineligible(
                "pixels", self._syntax.name, "decodable",
                f"the pixel data ({self._syntax.name}) of an image cannot be decoded: {type(exc).__name__}",
            ) from exc  # fmt: skip
        except BaseException as exc:
            if type(exc).__name__ != _PANIC:
                raise
            raise Ineligible(
                "pixels", self._syntax.name, "decodable",
                f"the pixel data ({self._syntax.name}) of an image cannot be decoded: its codec gave up",
            ) from exc  # fmt: skip
        if array.shape != (self._rows, self._columns):
            raise Ineligible(
                "pixels", [*array.shape], [self._rows, self._columns], "the decoded image has another size"
            )
        return np.asarray(array)

    def _check_stated_size(self, number: int) -> None:
        """Before anything is decoded: a decoder allocates what the code stream says, whatever the header said."""
        if self._syntax == RLELossless:  # states no size, and its decoder keeps to that of the header
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stream = get_frame(self._pixels, number - 1, number_of_frames=self._frames)
        for stated in stated_sizes(stream):
            if stated != (self._rows, self._columns, 1):
                raise Ineligible(
                    "pixels", [*stated], [self._rows, self._columns, 1],
                    f"the code stream of an image states {stated[0]} x {stated[1]} pixels in {stated[2]} components, "
                    f"its header {self._rows} x {self._columns} in 1: send it as the scanner made it",
                )  # fmt: skip

    def _decoding(self) -> dict[str, Any]:
        """Image Pixel module as pydicom's decoders want it."""
        return {
            "rows": self._rows, "columns": self._columns, "number_of_frames": self._frames, "samples_per_pixel": 1,
            "bits_allocated": self._allocated, "bits_stored": self._stored, "pixel_keyword": "PixelData",
            "pixel_representation": int(self._is_signed), "photometric_interpretation": self.photometric,
        }  # fmt: skip

    def _rescale(self, number: int) -> tuple[float, float]:
        """(slope, intercept) of a frame; (1, 0) where not stated or the slope is 0."""
        per_frame = self._elements.items("PerFrameFunctionalGroupsSequence")
        shared = next(iter(self._elements.items("SharedFunctionalGroupsSequence")), None)
        groups = Groups(per_frame[number - 1] if number <= len(per_frame) else None, shared, self._elements)
        slope = groups.number("PixelValueTransformationSequence", "RescaleSlope") or 1.0
        return slope, groups.number("PixelValueTransformationSequence", "RescaleIntercept") or 0.0


def _interpolate(voxels: FloatMap, slots: tuple[SliceSource | None, ...]) -> None:
    """Fills slices without a source linearly between the nearest ones that have one."""
    present = [k for k, source in enumerate(slots) if source is not None]
    for k, source in enumerate(slots):
        if source is None:
            below, above = max(p for p in present if p < k), min(p for p in present if p > k)
            share = (k - below) / (above - below)
            voxels[k] = (1 - share) * voxels[below] + share * voxels[above]
