"""`send` and `check` against real receivers on loopback."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage, SegmentationStorage
from pynetdicom.events import Event

from anomalyd.daemon import cli
from anomalyd.pipeline.results.objects import SOP_CLASSES
from pacs import Pacs, data_set_of

PacsMaker = Callable[..., Pacs]
Check = Callable[..., tuple[int, str]]
RESULTS = (SegmentationStorage, *(one for one in SOP_CLASSES.values() if one != SegmentationStorage))


@pytest.fixture
def pacs(free_port: int) -> Iterator[PacsMaker]:
    """`pacs(classes=...)`: a receiver that runs until the end of the test."""
    with ExitStack() as stack:
        yield lambda **more: stack.enter_context(Pacs(free_port, require_called_aet=True, **more))


def breaking_after(count: int) -> Callable[[Event], int]:
    """An answer that aborts the association under one image, once."""
    seen = []

    def answer(event: Event) -> int:
        seen.append(event)
        if len(seen) == count + 1:
            event.assoc.abort()
            return 0xC000
        return 0x0000

    return answer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two series of three images; the meta group of one image names another object; one file is no DICOM."""
    made = tmp_path / "in"
    for series in (1, 2):
        for number in (1, 2, 3):
            write_image(made / f"s{series}" / f"{number}.dcm", f"1.2.3.{series}", f"1.2.3.{series}.{number}")
    write_image(made / "s2" / "3.dcm", "1.2.3.2", "1.2.3.2.3", named="9.9.9")
    (made / "notes.txt").write_text("nothing")
    return made


def write_image(path: Path, series: str, instance: str, named: str | None = None) -> None:
    image = pydicom.Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = MRImageStorage
    image.file_meta.MediaStorageSOPInstanceUID = UID(named or instance)
    image.SOPClassUID, image.SOPInstanceUID, image.SeriesInstanceUID = MRImageStorage, instance, series
    image.PatientName, image.PixelData = "Nobody", bytes(1000)
    image["PixelData"].VR = "OW"
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, image, enforce_file_format=True, overwrite=True)
    if named:
        written = path.read_bytes().replace(instance.encode(), named.encode().ljust(len(instance), b"\0"), 1)
        path.write_bytes(written)


def send(folder: Path, port: int, *more: str) -> int:
    return cli.run(["send", str(folder), "--to", f"127.0.0.1:{port}", "--called-aet", "PACS", *more])


@pytest.mark.parametrize(("more", "associations"), [((), 2), (("--associations", "3"), 3)])
def test_every_file_arrives_byte_for_byte_and_the_exit_code_is_0(
    more: tuple[str, ...], associations: int, folder: Path, pacs: PacsMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    peer = pacs(classes=[MRImageStorage])
    assert send(folder, peer.port, *more) == 0
    assert sorted(peer.objects) == [f"1.2.3.{s}.{n}" for s in (1, 2) for n in (1, 2, 3)]
    assert {received.data_set for received in peer.objects.values()} == {
        data_set_of(path.read_bytes()) for path in folder.rglob("*.dcm")
    }
    assert peer.associations == associations
    captured = capsys.readouterr()
    assert captured.out.split() == ["6", "0x0000", "stored"]
    assert "notes.txt: no DICOM file" in captured.err


def test_a_failure_status_is_counted_and_the_exit_code_is_1(
    folder: Path, pacs: PacsMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    peer = pacs(classes=[MRImageStorage], answer=lambda _: 0xA700)
    assert send(folder, peer.port) == 1
    assert "6  0xA700  out of resources" in capsys.readouterr().out


def test_an_association_that_breaks_is_opened_again(folder: Path, pacs: PacsMaker) -> None:
    peer = pacs(classes=[MRImageStorage], answer=breaking_after(2))
    assert send(folder, peer.port) == 0
    assert len(peer.objects) == 6


def test_nobody_there_is_a_sentence_and_1(folder: Path, free_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert send(folder, free_port) == 1
    assert f"127.0.0.1:{free_port} cannot be reached: Connection refused" in capsys.readouterr().out


@pytest.mark.parametrize("to", ["127.0.0.1", "127.0.0.1:0", "127.0.0.1:99999", ":"])
def test_an_address_that_is_none_is_2(to: str, folder: Path) -> None:
    assert cli.run(["send", str(folder), "--to", to, "--called-aet", "PACS"]) == 2


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Check:
    def run(daemon: str, port: int = 0) -> tuple[int, str]:
        config = tmp_path / "config.yaml"
        config.write_text(
            f"daemon:\n  {daemon.replace('PORT', str(port))}\nstorage: {{root: {tmp_path}, disk_floor: 1 MB}}\n"
        )
        code = cli.run(["check", "--config", str(config)])
        return code, capsys.readouterr().out

    return run


DESTINATION = "destinations: [{name: pacs, ae_title: PACS, host: localhost, port: PORT}]"


def test_check_tells_every_step_to_a_destination(check: Check, pacs: PacsMaker) -> None:
    _, out = check(DESTINATION, pacs(classes=RESULTS).port)
    steps = ("localhost is ", "accepts the association", "answers C-ECHO", "takes seg (Segmentation", "takes heatmap (")
    assert all(words in out for words in steps)
    assert "WRONG  destination" not in out


@pytest.mark.parametrize(
    ("peer", "words", "mend"),
    [
        ({"ae_title": "OTHER"}, "Called AE title not recognised", "correct ae_title of the destination"),
        ({"classes": RESULTS[1:]}, "it does not take seg (Segmentation", "leave seg out"),
    ],
)
def test_check_names_what_is_wrong_and_the_mend(
    peer: dict[str, object], words: str, mend: str, check: Check, pacs: PacsMaker
) -> None:
    code, out = check(DESTINATION, pacs(**peer).port)
    assert code == 1
    assert words in out
    assert mend in out


def test_check_tells_a_closed_port_from_a_name_that_is_none(check: Check, free_port: int) -> None:
    code, out = check(DESTINATION, free_port)
    assert code == 1
    assert f"port {free_port} at" in out
    assert "start the PACS, correct port, or open the firewall" in out
    assert "cannot be resolved" in check(DESTINATION.replace("localhost", "no-such-host.invalid"), free_port)[1]


@pytest.mark.parametrize(
    ("daemon", "words"),
    [
        ("accept_from: []", "WRONG  accept_from: the list is empty: every sender is refused"),
        ("accept_from: [any]", "note   accept_from: every AE title from any address (accept_from: any), on 127.0.0.1"),
        ("{accept_from: [any], host: 0.0.0.0}", "ANYBODY WHO REACHES 0.0.0.0:11112 MAY STORE IMAGES HERE"),
        ("{accept_from: [MR1], return_to_sender: true}", "MR1 may send, and is no destination: it gets nothing back"),
    ],
)
def test_check_says_loudly_who_may_send(daemon: str, words: str, check: Check) -> None:
    assert words in check(daemon)[1]


def test_check_of_a_root_that_cannot_be_written_names_path_and_user(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("storage: {root: /proc/anomalyd}\n")
    assert cli.run(["check", "--config", str(config)]) == 1
    assert "/proc cannot be written by uid" in capsys.readouterr().out
