"""The contact sheet: slices through the lesions, upright, the same bytes for the same finding."""

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from anomalyd.pipeline.results.contact_sheet import contact_sheet
from findings import DARK, context_of
from phantoms import PLANES, Flip, PhantomWriter, Plane


def pixels(png: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def warm(picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.asarray((picture[..., 0].astype(int) - picture[..., 2] > 90) & (picture[..., 1] < 200))


@pytest.mark.parametrize("plane", PLANES)
def test_it_is_made_for_every_plane_and_twice_the_same(plane: Plane, tmp_path: Path) -> None:
    context = context_of(PhantomWriter(plane=plane, spacing_mm=(6.0, 3.0, 3.0)).write(tmp_path), [DARK])
    first = contact_sheet(context.volume, context.finding)
    assert first == contact_sheet(context.volume, context.finding)
    picture = pixels(first)
    assert picture.shape[1] > 900
    assert warm(picture[250:550, :-80]).sum() > 100


@pytest.mark.parametrize(
    "flips", [(), ("rows",), ("columns",), ("rows", "columns")], ids=lambda f: "+".join(f) or "none"
)
def test_slices_are_turned_upright_however_they_were_stored(flips: tuple[Flip, ...], tmp_path: Path) -> None:
    """The nose is above in an axial slice: the same sheet for every direction of rows and columns."""
    plain = context_of(PhantomWriter(spacing_mm=(9.0, 3.0, 3.0)).write(tmp_path / "plain"), [DARK])
    turned = context_of(PhantomWriter(spacing_mm=(9.0, 3.0, 3.0), flips=flips).write(tmp_path / "turned"), [DARK])
    sheets = [pixels(contact_sheet(c.volume, c.finding)) for c in (plain, turned)]
    heights = [float(np.mean(warm(sheet[330:560, :-80]).nonzero()[0])) for sheet in sheets]
    assert heights[0] == pytest.approx(heights[1], abs=2.0)


def test_nothing_found_makes_a_sheet_too(tmp_path: Path) -> None:
    context = context_of(PhantomWriter(spacing_mm=(9.0, 4.0, 4.0)).write(tmp_path, lesion_at=None), ())
    assert not warm(pixels(contact_sheet(context.volume, context.finding))[330:560, :-80]).any()
