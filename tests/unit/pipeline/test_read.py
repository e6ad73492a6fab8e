"""Pixels onto the source's own grid: every transfer syntax, rescaling, order, missing slices, lies about sizes."""

import dataclasses
import io
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from anomalyd.errors import Ineligible
from anomalyd.ids import InstanceUID
from anomalyd.pipeline import read
from anomalyd.pipeline.finding import Contrast
from anomalyd.pipeline.read import read_folder, read_volume
from anomalyd.pipeline.selection import VolumeChoice, choose
from anomalyd.pipeline.settings import PipelineSettings
from anomalyd.pipeline.volume import FloatMap, Grid, Volume
from phantoms import PLANES, Flip, Order, PhantomWriter, Plane

HEAD = PhantomWriter(spacing_mm=(8.0, 4.0, 4.0))
T1W = frozenset({Contrast.T1W})


def chosen(folder: Path) -> tuple[VolumeChoice, dict[InstanceUID, Path]]:
    """The one volume of the one series below a folder."""
    ((header, files),), unreadable = read_folder(folder)
    assert unreadable == []
    found = choose(header, PipelineSettings(), T1W)
    assert found.volume is not None, found.reason
    return found.volume, files


def read_back(folder: Path) -> Volume:
    choice, files = chosen(folder)
    return read_volume(choice, lambda uid: files[uid].read_bytes())


def known(grid: Grid) -> FloatMap:
    """Another value in every voxel, of 12 bits."""
    rng = np.random.default_rng(7)
    return rng.integers(0, 4096, grid.shape).astype(np.float32)


def rewritten(path: Path, change: Callable[[Dataset], Any]) -> None:
    ds = pydicom.dcmread(path)
    change(ds)
    ds.save_as(path)


SYNTAXES = [
    ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless,
    JPEGLSLossless, JPEG2000Lossless, JPEGLosslessSV1, JPEGLossless,
]  # fmt: skip


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("enhanced", [False, True], ids=["classic", "enhanced"])
def test_every_lossless_transfer_syntax_gives_the_same_voxels(
    enhanced: bool,  # noqa: FBT001 - a parameter of the test
    syntax: pydicom.uid.UID,
    tmp_path: Path,
    requires_peer: Callable[[str], str],
) -> None:
    if syntax in (JPEGLosslessSV1, JPEGLossless):
        requires_peer("dcmcjpeg")
    writer = dataclasses.replace(HEAD, enhanced=enhanced, transfer_syntax=syntax)
    grid = writer.grid()
    writer.write_voxels(known(grid), grid, tmp_path)
    volume = read_back(tmp_path)
    np.testing.assert_array_equal(volume.voxels, known(grid))
    np.testing.assert_allclose(volume.grid.index_to_lps, grid.index_to_lps, atol=1e-6)


@pytest.mark.parametrize(
    ("order", "enhanced"),
    [("shuffled", False), ("reversed", True)],
    ids=["classic-shuffled", "enhanced-reversed"],
)
@pytest.mark.parametrize("flips", [(), ("rows",), ("columns",), ("rows", "columns")], ids=str)
@pytest.mark.parametrize("plane", PLANES)
def test_voxels_and_grid_come_back_in_every_plane_order_and_flip(
    plane: Plane,
    flips: tuple[Flip, ...],
    order: Order,
    enhanced: bool,  # noqa: FBT001 - a parameter of the test
    tmp_path: Path,
) -> None:
    writer = dataclasses.replace(HEAD, plane=plane, order=order, flips=flips, enhanced=enhanced)
    grid = writer.grid()
    writer.write_voxels(known(grid), grid, tmp_path)
    volume = read_back(tmp_path)
    np.testing.assert_array_equal(volume.voxels, known(grid))
    np.testing.assert_allclose(volume.grid.index_to_lps, grid.index_to_lps, atol=1e-6)
    assert len({source for source in volume.sources if source}) == grid.shape[0]


def test_missing_slices_are_interpolated_and_have_no_source(tmp_path: Path) -> None:
    writer = dataclasses.replace(HEAD, missing=(5, 6), expected_count="absent")
    grid = writer.grid()
    voxels = known(grid)
    writer.write_voxels(voxels, grid, tmp_path)
    volume = read_back(tmp_path)
    assert volume.interpolated_slices == (5, 6)
    np.testing.assert_allclose(volume.voxels[5], (2 * voxels[4] + voxels[7]) / 3, rtol=1e-5)
    np.testing.assert_allclose(volume.voxels[6], (voxels[4] + 2 * voxels[7]) / 3, rtol=1e-5)


def test_rescaling_is_applied_slice_by_slice(tmp_path: Path) -> None:
    grid = HEAD.grid()
    written = HEAD.write_voxels(known(grid), grid, tmp_path)
    for k, path in enumerate(written.files):

        def scaled(ds: Dataset, k: int = k) -> None:
            ds.RescaleSlope, ds.RescaleIntercept = str(1 + k), str(-100 * k)

        rewritten(path, scaled)
    expected = (
        known(grid) * (1 + np.arange(grid.shape[0]))[:, None, None] - 100 * np.arange(grid.shape[0])[:, None, None]
    )
    np.testing.assert_allclose(read_back(tmp_path).voxels, expected)


def test_enhanced_frames_are_rescaled_each_by_its_own_group(tmp_path: Path) -> None:
    writer = dataclasses.replace(HEAD, enhanced=True)
    grid = writer.grid()
    (path,) = writer.write_voxels(known(grid), grid, tmp_path).files

    def scaled(ds: Dataset) -> None:
        del ds.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
        for k, frame in enumerate(ds.PerFrameFunctionalGroupsSequence):
            item = Dataset()
            item.RescaleSlope, item.RescaleIntercept, item.RescaleType = str(k + 1), "7", "US"
            frame.PixelValueTransformationSequence = [item]

    rewritten(path, scaled)
    np.testing.assert_allclose(
        read_back(tmp_path).voxels, known(grid) * (1 + np.arange(grid.shape[0]))[:, None, None] + 7
    )


def test_signed_values_and_overlay_bits(tmp_path: Path) -> None:
    grid = HEAD.grid()
    files = HEAD.write_voxels(known(grid), grid, tmp_path).files

    def signed(ds: Dataset) -> None:
        stored = np.frombuffer(ds.PixelData, "<u2") & 0x0FFF
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 12, 11, 1
        ds.PixelData = (stored | 0x6000).tobytes()  # bits above the stored ones hold an overlay

    for path in files:
        rewritten(path, signed)
    values = known(grid)
    np.testing.assert_array_equal(read_back(tmp_path).voxels, np.where(values >= 2048, values - 4096, values))


def test_monochrome1_is_inverted_with_a_warning(tmp_path: Path) -> None:
    grid = HEAD.grid()
    for path in HEAD.write_voxels(known(grid), grid, tmp_path).files:
        rewritten(path, lambda ds: setattr(ds, "PhotometricInterpretation", "MONOCHROME1"))
    volume = read_back(tmp_path)
    assert "MONOCHROME1" in volume.warnings[0]
    np.testing.assert_array_equal(volume.voxels, known(grid).max() - known(grid) + known(grid).min())


def test_a_broken_code_stream_is_refused_in_words(tmp_path: Path) -> None:
    writer = dataclasses.replace(HEAD, transfer_syntax=JPEG2000Lossless)
    writer.write(tmp_path)
    choice, files = chosen(tmp_path)

    def load(uid: InstanceUID) -> bytes:
        whole = files[uid].read_bytes()
        at = whole.index(b"\xe0\x7f\x10\x00") + 100  # in the code stream
        return whole[:at] + bytes(len(whole) - at - 8) + whole[-8:]

    with pytest.raises(Ineligible, match="cannot be decoded") as refused:
        read_volume(choice, load)
    assert refused.value.criterion == "pixels"


@pytest.mark.parametrize(
    ("syntax", "marker", "behind"), [(JPEG2000Lossless, b"\xff\x51", 6), (JPEGLSLossless, b"\xff\xf7", 5)]
)
def test_a_code_stream_of_another_size_is_not_decoded(
    syntax: str, marker: bytes, behind: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 KB of JPEG 2000 that stated 30,000 x 30,000 pixels took 5 GB and a minute (found by fuzzing)."""
    dataclasses.replace(HEAD, transfer_syntax=syntax).write(tmp_path)
    choice, files = chosen(tmp_path)

    def load(uid: InstanceUID) -> bytes:
        whole = bytearray(files[uid].read_bytes())
        at = whole.index(marker) + behind
        whole[at : at + 4] = b"\0\0\x75\x30" if syntax == JPEG2000Lossless else b"\x75\x30\x75\x30"
        return bytes(whole)

    def decoder(_: object) -> object:
        raise AssertionError("it is not decoded")

    monkeypatch.setattr(read, "get_decoder", decoder)
    with pytest.raises(Ineligible, match=r"states \d+ x 30000 pixels.*header") as refused:
        read_volume(choice, load)
    assert refused.value.criterion == "pixels"


def test_a_codec_that_panics_refuses_the_image_and_no_more(tmp_path: Path) -> None:
    """The RLE codec raises a BaseException where a segment holds more than the frame (found by fuzzing)."""
    dataclasses.replace(HEAD, transfer_syntax=RLELossless).write(tmp_path)
    choice, files = chosen(tmp_path)
    runs = b"\x81\x00" * 5000
    stream = struct.pack("<16L", 2, 64, 64 + len(runs), *[0] * 13) + runs * 2

    def load(uid: InstanceUID) -> bytes:
        ds = pydicom.dcmread(files[uid])
        ds.PixelData = encapsulate([stream])
        out = io.BytesIO()
        ds.save_as(out)
        return out.getvalue()

    with pytest.raises(Ineligible, match="its codec gave up") as refused:
        read_volume(choice, load)
    assert refused.value.criterion == "pixels"


@pytest.mark.parametrize(
    "lie",
    [
        lambda ds: setattr(ds, "Rows", 3),
        lambda ds: setattr(ds, "BitsAllocated", 64),
        lambda ds: setattr(ds, "PixelData", b"\0\0"),
        lambda ds: ds.__delitem__("PixelData"),
    ],
)
def test_an_object_that_is_not_what_was_chosen_is_refused_in_words(
    lie: Callable[[Dataset], Any], tmp_path: Path
) -> None:
    HEAD.write(tmp_path)
    choice, files = chosen(tmp_path)

    def load(uid: InstanceUID) -> bytes:
        ds = pydicom.dcmread(files[uid])
        lie(ds)
        out = io.BytesIO()
        ds.save_as(out)
        return out.getvalue()

    with pytest.raises(Ineligible) as refused:
        read_volume(choice, load)
    assert refused.value.criterion == "pixels"


def test_the_size_is_checked_before_anything_is_allocated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    HEAD.write(tmp_path)
    choice, _ = chosen(tmp_path)
    monkeypatch.setattr(read, "MAX_VOLUME_BYTES", 1000)

    def load(_: InstanceUID) -> bytes:
        raise AssertionError("nothing is loaded")

    with pytest.raises(Ineligible) as refused:
        read_volume(choice, load)
    assert refused.value.criterion == "size"


def test_a_folder_gives_its_series_and_what_is_none(tmp_path: Path) -> None:
    first = HEAD.write(tmp_path / "a" / "deep")
    second = dataclasses.replace(HEAD, seed="other").write(tmp_path / "b")
    (tmp_path / "b" / "notes.txt").write_text("none")
    (tmp_path / "b" / "empty.dcm").write_bytes(b"")
    (tmp_path / "DICOMDIR").write_bytes(b"whatever")
    (tmp_path / "c.dcm").write_bytes(first.files[0].read_bytes())
    series, unreadable = read_folder(tmp_path)
    assert {header.series_uid for header, _ in series} == {first.series_uid, second.series_uid}
    assert all(len(header.instances) == len(files) == HEAD.grid().shape[0] for header, files in series)
    reasons = {path.name: reason for path, reason in unreadable}
    assert reasons.keys() == {"notes.txt", "empty.dcm", "c.dcm"}
    assert "no DICOM object" in reasons["notes.txt"]
    assert "the same SOP Instance UID" in reasons["c.dcm"]


def test_selection_stays_light() -> None:
    code = (
        "import sys, anomalyd.pipeline.series, anomalyd.pipeline.completeness, anomalyd.pipeline.selection\n"
        "print([name for name in ('torch', 'SimpleITK', 'highdicom', 'scipy', 'pynetdicom') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
