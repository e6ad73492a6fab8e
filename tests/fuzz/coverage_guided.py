"""Coverage-guided fuzzing of the parsing edge with atheris (libFuzzer): `make fuzz-guided TARGET=peek SECONDS=60`.

atheris is in no lock file: it has wheels for a few Pythons on Linux x86-64 alone, and nothing else here needs it. What
it finds becomes a test of its own, or a seed of `kept_seeds.txt`.
"""

import argparse
import importlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

SYNTAXES = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")


class Wire:
    """Bytes of one PDU, as MessageReader reads them; ends as a connection does."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if count > len(self._body):
            raise ConnectionResetError
        taken, self._body = self._body[:count], self._body[count:]
        return taken

    def fill(self, view: memoryview) -> None:
        """The next bytes."""
        view[:] = self.take(len(view))


def targets() -> dict[str, Callable[[bytes], None]]:
    """Each takes any bytes, and lets pass only what is an answer; imports here, so that they are instrumented."""
    from anomalyd.daemon.gateway.dataset import Budget, IncomingDataSet  # noqa: PLC0415
    from anomalyd.daemon.gateway.dimse import ProtocolError  # noqa: PLC0415
    from anomalyd.daemon.gateway.messages import MessageReader  # noqa: PLC0415
    from anomalyd.errors import Refused  # noqa: PLC0415
    from anomalyd.pipeline.codestream import stated_sizes  # noqa: PLC0415
    from anomalyd.pipeline.series import parse_instance  # noqa: PLC0415
    from anomalyd.storage.peek import Unreadable, peek  # noqa: PLC0415

    folder = Path(tempfile.mkdtemp())

    class Desk:
        def refusal_in_advance(self, *_: object) -> str:
            return ""

        def serve(self, *_: object) -> None:
            return

        pass_on = serve

    def on_peek(data: bytes) -> None:
        try:
            peek(data[1:], SYNTAXES[data[0] % 4] if data else SYNTAXES[0])
        except Unreadable:
            return

    def on_messages(data: bytes) -> None:
        incoming = IncomingDataSet(
            Budget(1 << 24), max_bytes=1 << 20, spill_directory=folder, check_room=lambda _: None
        )
        try:
            MessageReader(Desk(), incoming).read_pdu(Wire(data), len(data))
        except (ProtocolError, ConnectionResetError):
            return

    def on_file(data: bytes) -> None:
        try:
            parse_instance(data)
        except Refused:
            return

    return {
        "peek": on_peek,
        "messages": on_messages,
        "file": on_file,
        "codestream": lambda data: _used(stated_sizes(data)),
    }


def _used(_: object) -> None:
    return


def _corpus(folder: Path) -> Path:
    """Sound objects, which coverage goes out from."""
    from anomalyd.storage.part10 import file_prefix  # noqa: PLC0415
    from fuzz.spoiling import bases, encoded  # noqa: PLC0415
    from raw_scu import store_message  # noqa: PLC0415

    for number, base in enumerate(bases()):
        data = encoded(list(base.elements), base.syntax)
        prefix = file_prefix(
            sop_class="1.2", instance_uid="1.2", transfer_syntax=base.syntax, calling_ae=None, called_ae=None
        )
        (folder / f"data-{number}").write_bytes(bytes([number % 4]) + data)
        (folder / f"file-{number}").write_bytes(prefix + data)
    (folder / "message").write_bytes(store_message(b"\0" * 100, "1.2.3")[6:])
    return folder


def main() -> None:
    """Runs libFuzzer on one target; it ends the process itself: with 77, and the bytes in a file, for a finding."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.coverage_guided", description=__doc__)
    parser.add_argument("target", choices=("peek", "messages", "file", "codestream"))
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args()
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["anomalyd"]):
        target = targets()[options.target]
    with tempfile.TemporaryDirectory() as folder:
        found = f"-artifact_prefix={tempfile.gettempdir()}/anomalyd-fuzz-"
        limits = [f"-max_total_time={options.seconds}", "-timeout=10", "-rss_limit_mb=1500", "-max_len=40000", found]
        atheris.Setup([sys.argv[0], *limits, str(_corpus(Path(folder)))], target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
