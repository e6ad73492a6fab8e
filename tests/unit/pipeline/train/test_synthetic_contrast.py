"""T2w and FLAIR made from T1w: what must be bright is bright, and it resembles the real thing."""

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from scipy.stats import spearmanr

from anomalyd.pipeline.bundle import bundle_identity, load_bundle, shipped_bundles
from anomalyd.pipeline.nifti import read_nifti
from anomalyd.pipeline.stages.prepare import align, boxed, standardise, upright
from anomalyd.pipeline.stages.score import erode
from anomalyd.pipeline.terms import Contrast
from anomalyd.pipeline.train.synthetic_contrast import SYNTHETIC, synthesise, typical
from anomalyd.pipeline.volume import BoolMap, FloatMap

# T1w intensity of the standard histogram.
FLUID, GREY, WHITE = 0.05, 0.5, 0.9


def head() -> tuple[FloatMap, dict[str, BoolMap]]:
    """A ball of grey matter around white matter around a ventricle."""
    radius = np.linalg.norm(np.indices((40, 48, 40)) - np.array([[[[20]]], [[[24]]], [[[20]]]]), axis=0)
    parts = {"ventricle": radius < 5, "white": (radius >= 5) & (radius < 11), "grey": (radius >= 11) & (radius < 18)}
    image = sum(value * parts[name] for name, value in (("ventricle", FLUID), ("white", WHITE), ("grey", GREY)))
    return np.asarray(image, dtype=np.float32), parts


def middles(image: FloatMap, parts: dict[str, BoolMap]) -> dict[str, float]:
    """Median of each part, away from its borders, where thick slices mix."""
    return {name: float(np.median(image[ndimage.binary_erosion(part, iterations=2)])) for name, part in parts.items()}


@pytest.mark.parametrize("seed", range(8))
def test_fluid_is_brightest_in_t2w_and_white_matter_darkest(seed: int) -> None:
    image, parts = head()
    found = middles(synthesise(image, image > 0, Contrast.T2W, np.random.default_rng(seed)), parts)
    assert found["ventricle"] > found["grey"] > found["white"]


@pytest.mark.parametrize("seed", range(8))
def test_fluid_is_dark_in_flair_and_grey_matter_no_darker_than_white(seed: int) -> None:
    image, parts = head()
    found = middles(synthesise(image, image > 0, Contrast.FLAIR, np.random.default_rng(seed)), parts)
    assert found["ventricle"] < 0.5 * found["white"]
    assert found["grey"] > 0.97 * found["white"]


@pytest.mark.parametrize("contrast", SYNTHETIC)
def test_the_same_random_numbers_give_the_same_image_and_others_another(contrast: Contrast) -> None:
    image, _ = head()
    first, again, other = (synthesise(image, image > 0, contrast, np.random.default_rng(k)) for k in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.all(first[image == 0] == 0)
    assert first.dtype == np.float32
    assert first.min() >= 0


def test_kirby21_113_as_t2w_ranks_tissue_as_the_same_persons_real_scan(shared_data: Path) -> None:
    """The pair was registered by its publishers: what places the T1w scan places the other.

    Ranks, since the histogram is standardised anyway; inside, since at the rim T1w cannot tell bone from fluid.
    """
    healthy = shared_data / "healthy"
    scan, real = (read_nifti(_file(healthy, "kirby21-113", kind)) for kind in (Contrast.T1W, Contrast.T2W))
    bundle = load_bundle(next(path for path in shipped_bundles() if bundle_identity(path).contrast is Contrast.T1W))
    head = upright(scan)
    registration = align(head, bundle.template)
    first, second = (boxed(volume, head, registration, bundle.box) for volume in (scan, real))
    made = typical(standardise(first, bundle.standard_knots).image, first.mask, Contrast.T2W)
    target = standardise(second, None).image
    inner = erode(first.mask, 4)
    assert spearmanr(made[inner], target[inner]).statistic > 0.8


def _file(healthy: Path, subject: str, contrast: Contrast) -> Path:
    rows = (healthy / "index.csv").read_text(encoding="utf-8").splitlines()
    return healthy / next(row for row in rows if f",{subject},{contrast}," in row).split(",")[0]
