"""A disk that loses what was not flushed: from a trace of system calls (faults/disk_layer.c) to what is left of it.

    layer = DiskLayer(tmp_path / "disk", tmp_path / "trace", library)
    ... run roles with layer.environment, storage.root below layer.folder ...
    for cut in layer.cuts(numbers): cut.leave(random.Random(seed), folder)

A write is on disk when a flush of its file that began after it has ended; a name is there when its folder was flushed.
Of the rest each cut chooses: nothing, all, any part of it in any order, a write broken off at any disk sector.
"""

import mmap
import random
import shutil
import struct
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TypeVar

from raw_scu import P_DATA, command_elements, status_of

SECTOR = 512
SOURCE = Path(__file__).parent / "faults" / "disk_layer.c"
_HEAD = struct.Struct("=6L2Q")
_MAGIC = 0x4B534944
_STORE_RESPONSE = 0x8001
Change = TypeVar("Change")


class Op(IntEnum):
    """What a record of the trace tells; the numbers are those of disk_layer.c."""

    CREATED = 1
    WRITTEN = 2
    TRUNCATED = 3
    SYNC_BEGINS = 4
    SYNC_ENDS = 5
    RENAMED = 6
    UNLINKED = 7
    MADE_FOLDER = 8
    REMOVED_FOLDER = 9
    SENT = 10


@dataclass(frozen=True, slots=True)
class Step:
    """One record."""

    number: int
    op: Op
    thread: int
    path: str
    second: str
    data: bytes
    inode: int
    offset: int


def built_library(folder: Path) -> Path:
    """disk_layer.c, compiled."""
    library = folder / "disk_layer.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", library, SOURCE], check=True)
    return library


class DiskLayer:
    """The folder that is watched, and the trace of what was done below it."""

    def __init__(self, folder: Path, trace: Path, library: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.trace = folder.resolve(), trace
        self.environment = {
            "LD_PRELOAD": str(library),
            "DISK_LAYER_ROOT": str(self.folder),
            "DISK_LAYER_LOG": str(trace),
        }
        self._before = _Folder.of(self.folder)

    def steps(self) -> tuple[Step, ...]:
        """All that was done; a record that a SIGKILL broke off is left out."""
        return tuple(_steps(self.trace))

    def cuts(self, numbers: Iterable[int]) -> "Iterator[Cut]":
        """The disk at the moment before each of these steps; ascending."""
        disk, at = Cut(self.folder, self._before), 0
        steps = self.steps()
        for number in sorted(numbers):
            for step in steps[at:number]:
                disk.take(step)
            at = number
            yield disk


def answers(steps: Iterable[Step]) -> Iterator[tuple[int, str, int]]:
    """(number of the step, SOP Instance UID, status) of each C-STORE response that left."""
    for step in steps:
        # a P-DATA-TF whose first item holds a command set (PS3.8 E.2)
        if step.op is Op.SENT and step.data[:1] == bytes([P_DATA]) and step.data[11] & 1:
            elements = command_elements(step.data[12:])
            if int.from_bytes(elements.get(0x0100, b""), "little") == _STORE_RESPONSE:
                yield step.number, elements[0x1000].rstrip(b"\0").decode("ascii"), status_of(elements)


@dataclass(slots=True, eq=False)
class _File:
    durable: bytearray = field(default_factory=bytearray)
    inode: int = 0
    pending: list[Step] = field(default_factory=list)

    def flushed(self, begun: int) -> None:
        """All that was done before that step lasts."""
        for step in self.pending:
            if step.number < begun:
                _apply(self.durable, step)
        self.pending = [step for step in self.pending if step.number > begun]

    def leave(self, chance: random.Random) -> bytes:
        """What may be found of it."""
        found = bytearray(self.durable)
        for step in _survivors(chance, self.pending):
            if step.op is Op.WRITTEN and chance.random() < 0.5:
                _apply_torn(found, step, chance)
            else:
                _apply(found, step)
        return bytes(found)


@dataclass(slots=True, eq=False)
class _Folder:
    names: "dict[str, _File | _Folder]" = field(default_factory=dict)
    """As on disk."""
    pending: "list[tuple[int, dict[str, _File | _Folder | None]]]" = field(default_factory=list)
    """(step, names that it sets; None: removes), each all or nothing."""

    @classmethod
    def of(cls, folder: Path) -> "_Folder":
        """A folder as it is, taken as durable."""
        kept = cls()
        for path in folder.iterdir():
            is_folder = path.is_dir()
            kept.names[path.name] = (
                cls.of(path) if is_folder else _File(bytearray(path.read_bytes()), path.stat().st_ino)
            )
        return kept

    def copied(self) -> "_Folder":
        """Another one that may be changed."""
        return _Folder(
            {
                name: entry.copied() if isinstance(entry, _Folder) else _File(bytearray(entry.durable), entry.inode)
                for name, entry in self.names.items()
            }
        )

    def flushed(self, begun: int) -> None:
        for number, names in self.pending:
            if number < begun:
                _set(self.names, names)
        self.pending = [change for change in self.pending if change[0] > begun]

    def leave(self, chance: random.Random, folder: Path) -> None:
        folder.mkdir()
        found = dict(self.names)
        for _, names in _survivors(chance, self.pending):
            _set(found, names)
        for name, entry in found.items():
            if isinstance(entry, _File):
                (folder / name).write_bytes(entry.leave(chance))
            else:
                entry.leave(chance, folder / name)


class Cut:
    """The disk at one moment: what lasts, and what is on its way."""

    def __init__(self, root: Path, before: _Folder) -> None:
        self.at = 0
        self._top = before.copied()
        self._live: dict[str, _File | _Folder] = {str(root): self._top}
        self._inodes: dict[int, _File] = {}
        self._begun: dict[int, int] = {}
        self._find(self._top, root)

    def take(self, step: Step) -> None:
        """One step more."""
        self.at = step.number + 1
        match step.op:
            case Op.CREATED:
                if not isinstance(self._live.get(step.path), _File):
                    self._inodes[step.inode] = _File()
                    self._name(step, {step.path: self._inodes[step.inode]})
            case Op.WRITTEN | Op.TRUNCATED:
                self._inodes[step.inode].pending.append(step)
            case Op.SYNC_BEGINS:
                self._begun[step.thread] = step.number
            case Op.SYNC_ENDS:
                named = self._live.get(step.path)
                flushed = named if isinstance(named, _Folder) else self._inodes[step.inode]
                flushed.flushed(self._begun.pop(step.thread))
            case Op.RENAMED:
                self._name(step, {step.path: None, step.second: self._live[step.path]})
            case Op.UNLINKED | Op.REMOVED_FOLDER:
                self._name(step, {step.path: None})
            case Op.MADE_FOLDER:
                self._name(step, {step.path: _Folder()})

    def leave(self, chance: random.Random, folder: Path) -> None:
        """Writes what a power cut at this moment may leave into a folder, which is emptied before."""
        shutil.rmtree(folder, ignore_errors=True)
        self._top.leave(chance, folder)

    def _name(self, step: Step, names: "dict[str, _File | _Folder | None]") -> None:
        """Names of one folder change, together."""
        (parent,) = {str(Path(path).parent) for path in names}
        owner = self._live[parent]
        assert isinstance(owner, _Folder)
        owner.pending.append((step.number, {Path(path).name: entry for path, entry in names.items()}))
        _set(self._live, names)

    def _find(self, folder: _Folder, path: Path) -> None:
        for name, entry in folder.names.items():
            self._live[str(path / name)] = entry
            if isinstance(entry, _File):
                self._inodes[entry.inode] = entry
            else:
                self._find(entry, path / name)


def _steps(trace: Path) -> Iterator[Step]:
    with trace.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        at = number = 0
        while at + _HEAD.size <= len(raw):
            magic, op, thread, path, second, data, inode, offset = _HEAD.unpack_from(raw, at)
            assert magic == _MAGIC, f"the trace is broken at {at}"
            at += _HEAD.size
            ends = at + path, at + path + second, at + path + second + data
            if ends[2] > len(raw):
                return
            text = raw[at : ends[0]].decode(), raw[ends[0] : ends[1]].decode()
            yield Step(number, Op(op), thread, *text, raw[ends[1] : ends[2]], inode, offset)
            at, number = ends[2], number + 1


def _survivors(chance: random.Random, pending: "list[Change]") -> "list[Change]":
    """Nothing, everything, a beginning, or any part, in their order."""
    kind = chance.randrange(4)
    if kind < 2:
        return pending if kind else []
    if kind == 2:
        return pending[: chance.randint(0, len(pending))]
    return [change for change in pending if chance.random() < 0.5]


def _apply(content: bytearray, step: Step) -> None:
    if step.op is Op.TRUNCATED:
        del content[step.offset :]
        content.extend(bytes(step.offset - len(content)))
        return
    content.extend(bytes(max(0, step.offset - len(content))))
    content[step.offset : step.offset + len(step.data)] = step.data


def _apply_torn(content: bytearray, step: Step, chance: random.Random) -> None:
    """Some of the disk's sectors that it touches; where a later one came, an earlier one reads as zeros."""
    begin, end = step.offset, step.offset + len(step.data)
    while begin < end:
        following = min(end, (begin // SECTOR + 1) * SECTOR)
        if chance.random() < 0.7:
            piece = step.data[begin - step.offset : following - step.offset]
            content.extend(bytes(max(0, begin - len(content))))
            content[begin:following] = piece
        begin = following


def _set(names: "dict[str, _File | _Folder]", changed: "dict[str, _File | _Folder | None]") -> None:
    for name, entry in changed.items():
        if entry is None:
            names.pop(name, None)
        else:
            names[name] = entry
