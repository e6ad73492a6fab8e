"""What a viewer shows, read from the pixels of its screenshots, and whether an overlay lies on a known lesion."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Locator, Page, Response
from scipy import ndimage

from anomalyd.pipeline.volume import BoolMap, FloatMap, Grid
from phantoms import PointLPS
from waiting import wait_until

LIMIT_S: Final = 90.0  # a software renderer on a loaded machine
SEEN: Final = 150  # pixels of the screen; fewer are a rest of something else
WARM: Final = 60  # red over blue, of 255: the viewer's own colours are cold
PLACE: Final = re.compile(r"I:\s*(\d+) \((\d+)/(\d+)\)")
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Shown:
    """InstanceNumber, place in the viewer's own order and length of a stack, as the corner of a pane says."""

    instance_number: int
    place: int
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class Overlay:
    """Which pixels of each slice are coloured, in the source's own index space.

    slices: by slice index, (n, 2) row and column of each coloured pixel of the screen.
    pixel_area: of one pixel of the screen, in pixels of the source.
    """

    slices: Mapping[int, NDArray[np.float64]]
    pixel_area: float


class ReadingRoom:
    """One browser page on the viewer; a failed answer of the server fails the test at `close`."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self._failed: list[str] = []
        page.on("response", self._note)

    def open(self, address: str) -> None:
        """Opens a study; returns when its first series is shown."""
        self.page.goto(address)
        self.page.wait_for_selector(_THUMBNAIL, timeout=LIMIT_S * 1000)
        self._wait(self.places, "an image is shown")
        tour = self.page.get_by_text("Skip all")  # it covers the page on the first visit
        if tour.is_visible():
            tour.click()
        self._wait(lambda: np.ptp(self.picture()) > 100, "the first image is drawn")

    def load(self, series_number: int) -> None:
        """Puts a series into the active pane."""
        self.thumbnail(series_number).dblclick()

    def thumbnail(self, series_number: int) -> Locator:
        """The series in the list at the left; a number that no other there begins with."""
        return self.page.locator(_THUMBNAIL, has_text=f"S:{series_number}").first

    def load_segmentation(self, series_number: int) -> None:
        """Returns when it is drawn; the viewer goes to a slice of it by itself."""
        assert warm(self.picture()).sum() < SEEN
        self.load(series_number)
        self._wait(lambda: warm(self.picture()).sum() >= SEEN and "Loading" not in self._text(), "the SEG is drawn")

    def load_overlay(self, series_number: int) -> None:
        """Returns when something else is drawn than before, and stands still; of overlays in any colour."""
        before = self.settle()
        self.load(series_number)
        self._wait(
            lambda: "Loading" not in self._text() and not np.array_equal(self.picture(), before), "the overlay is drawn"
        )
        self.settle()

    def places(self) -> list[Shown]:
        """Of each pane, from left to right."""
        return [Shown(*map(int, found)) for found in PLACE.findall(self._text())]

    def wheel(self, notches: int, pane: int = 0) -> Pixels:
        """Scrolls a pane by slices, one after the other; its picture, as soon as it stands still."""
        box = self._box(pane)
        self.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        for _ in range(abs(notches)):
            before = self.places()
            self.page.mouse.wheel(0, 100 if notches > 0 else -100)
            self._wait(lambda before=before: self.places() != before, "the next slice")  # type: ignore[misc]  # bound
        return self.settle(pane)

    def settle(self, pane: int = 0) -> Pixels:
        """The pane's picture, as soon as two in a row are the same."""
        last = [self.picture(pane)]

        def stands() -> bool:
            last.append(self.picture(pane))
            return np.array_equal(last[-2], last[-1])

        self._wait(stands, "the picture stands still")
        return last[-1]

    def picture(self, pane: int = 0) -> Pixels:
        """(height, width, 3) of a pane's canvas, as on the screen."""
        box = self._box(pane)
        clip = {"x": round(box["x"]), "y": round(box["y"]), "width": int(box["width"]), "height": int(box["height"])}
        with Image.open(BytesIO(self.page.screenshot(clip=clip))) as image:  # type: ignore[arg-type]  # a TypedDict
            return np.asarray(image.convert("RGB"))

    def side_by_side(self, series_number: int) -> None:
        """A second pane at the right with another series, linked by place."""
        self.page.locator('[data-cy="Layout"]').click()
        self.page.locator('[data-cy="Layout-1-0"]').click()
        self._wait(lambda: self.page.locator('[data-cy="viewport-pane"]').count() == _TWO, "two panes")
        self.page.locator('[data-cy="viewport-pane"]').nth(1).click()
        self.load(series_number)
        self._wait(lambda: len(self.places()) == _TWO, "both panes show an image")
        self.page.locator('[data-cy="MoreTools-split-button-secondary"]').click()
        self.page.locator('[data-cy="ImageSliceSync"]').click()

    def panes_agree(self) -> bool:
        """Whether both panes are at the same place."""
        left, right = self.places()
        return (left.place, left.count) == (right.place, right.count)

    def wait_until_panes_agree(self) -> None:
        """Returns when both panes are at the same place and drawn."""
        self._wait(self.panes_agree, "both panes at one place")
        self.settle(0)
        self.settle(1)

    def save(self, path: Path) -> None:
        """The whole page as PNG."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path)

    def close(self) -> None:
        """Closes the page."""
        self.page.close()
        assert self._failed == []

    def _note(self, response: Response) -> None:
        if response.status >= 400:
            self._failed.append(f"{response.status} {response.url}")

    def _text(self) -> str:
        return self.page.inner_text("body").replace("\n", "")

    def _box(self, pane: int) -> Mapping[str, float]:
        boxes: list[Mapping[str, float]] = []

        def is_there() -> bool:  # it goes and comes while a segmentation is loaded
            box = self.page.locator(".cornerstone-canvas").nth(pane).bounding_box()
            boxes.extend(
                [{"x": box["x"], "y": box["y"], "width": box["width"], "height": box["height"]}] if box else []
            )
            return bool(boxes)

        self._wait(is_there, "the pane")
        return boxes[-1]

    def _wait(self, condition: Callable[[], object], what: str) -> None:
        wait_until(condition, limit_s=LIMIT_S, what=what, step_s=0.1)


_THUMBNAIL: Final = '[data-cy^="study-browser-thumbnail"]'
_TWO: Final = 2


def warm(picture: Pixels) -> BoolMap:
    """Pixels that are coloured as segments and heatmaps are."""
    return np.asarray(picture[..., 0].astype(np.int16) - picture[..., 2] > WARM)


@dataclass(frozen=True, slots=True)
class Mapping2D:
    """From pixels of a pane to rows and columns of a slice: the viewer fits the slice into the pane, in the middle."""

    pane: tuple[int, int]
    slice: tuple[int, int]
    spacing_mm: tuple[float, float]

    @property
    def per_mm(self) -> float:
        """Pixels of the screen for one mm."""
        extent = [count * mm for count, mm in zip(self.slice, self.spacing_mm, strict=True)]
        return min(self.pane[0] / extent[0], self.pane[1] / extent[1])

    @property
    def pixel_area(self) -> float:
        """Of a pixel of the screen, in pixels of the slice."""
        return 1.0 / (self.per_mm**2 * self.spacing_mm[0] * self.spacing_mm[1])

    def to_slice(self, pixels: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n, 2) row, column of the screen to row, column of the slice."""
        from_middle = pixels - (np.array(self.pane) - 1) / 2
        return np.asarray(from_middle / self.per_mm / np.array(self.spacing_mm) + (np.array(self.slice) - 1) / 2)

    def drawn(self, voxels: FloatMap) -> FloatMap:
        """The slice as it must look on the screen, linear between pixels; 0 around it."""
        rows, columns = np.indices(self.pane)
        at = self.to_slice(np.stack([rows.ravel(), columns.ravel()], axis=1)).T
        return np.asarray(ndimage.map_coordinates(voxels, at, order=1, cval=0.0), dtype=np.float32).reshape(self.pane)


def likeness(picture: Pixels, expected: FloatMap) -> float:
    """Correlation of what the screen shows with a slice drawn by `Mapping2D`, without what is coloured or text."""
    inside = ndimage.binary_erosion(expected > 0, iterations=3) & ~ndimage.binary_dilation(warm(picture), iterations=4)
    return float(np.corrcoef(picture[..., 1][inside], expected[inside])[0, 1])


def misplaced(overlay: Overlay, grid: Grid, centre: PointLPS, radius_mm: float) -> list[str]:
    """What speaks against an overlay that lies on a ball: how far its middle is off on each axis, and its size.

    Along the stack half a slice is too far, in the plane one pixel and a half.
    """
    points = np.concatenate([np.insert(at, 0, k, axis=1) for k, at in overlay.slices.items() if len(at)])
    off = points.mean(axis=0) - grid.to_index(np.array(centre))
    complaints = [
        f"{axis} off by {distance:+.2f}"
        for axis, distance, limit in zip(("slice", "row", "column"), off, (0.5, 1.5, 1.5), strict=True)
        if abs(distance) > limit
    ]
    volume = len(points) * overlay.pixel_area * grid.voxel_volume_mm3
    ball = 4 / 3 * np.pi * radius_mm**3
    if not 0.5 < volume / ball < 2.0:
        complaints.append(f"{volume:.0f} mm3 for a ball of {ball:.0f}")
    return complaints
