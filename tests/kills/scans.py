"""What the trials of the many analyse: as small as may be, with the real code."""

from pathlib import Path

from kills.campaign import Analysed
from phantoms import PhantomWriter, WrittenSeries
from tiny_bundle import made_up_brain, tiny_bundle

SPACING_MM = (6.0, 2.5, 2.5)


def tiny_analysed(bundle: Path) -> Analysed:
    """A stripped brain (no network looks for it) in 24 slices, and an untrained bundle, made at this path."""
    tiny_bundle(bundle)
    brain = made_up_brain(noise=5.0)

    def write(seed: str, folder: Path) -> WrittenSeries:
        return PhantomWriter(spacing_mm=SPACING_MM, seed=seed).write_volume(brain, folder)

    return Analysed(bundle, write, analysis_s=3.0, limit_s=600.0)
