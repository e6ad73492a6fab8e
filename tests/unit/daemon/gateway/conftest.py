"""Doors on stock and on fast classes: every test here that takes one runs on both."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from doors import MakeDoor, OpenDoor, open_door


@pytest.fixture(params=[True, False], ids=["fast", "stock"])
def is_fast(request: pytest.FixtureRequest) -> bool:
    """Whose classes receive."""
    return bool(request.param)


@pytest.fixture
def make_door(tmp_path: Path, is_fast: bool) -> Iterator[MakeDoor]:  # noqa: FBT001 - a fixture's value
    """`make_door(max_associations=2, gateway={"stall_timeout": 1}, disk_floor=...)`."""
    opened: list[OpenDoor] = []

    def make(**options: object) -> OpenDoor:
        opened.append(open_door(tmp_path / f"store-{len(opened)}", is_fast=is_fast, **options))  # type: ignore[arg-type]  # keys of the configuration
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture
def door(make_door: MakeDoor) -> OpenDoor:
    """With default settings; `any` may send."""
    return make_door()
