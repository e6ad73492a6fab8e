"""A bundle that finds what is darker or brighter than the made-up brain: the whole chain runs, no training is needed.

Its network is the untrained one of tiny_bundle; the score is the z-score of the intensity alone (METHOD section 9), so
a ball put into the made-up brain is found where it is.
"""

from pathlib import Path

import numpy as np
import yaml

from anomalyd.pipeline.analyse import place
from anomalyd.pipeline.bundle import Bundle, Normative, load_bundle, seal, write_normative
from anomalyd.pipeline.stages.normative import components
from tiny_bundle import calibrated_at, made_up_brain, tiny_bundle

THRESHOLD = 3.5
SPREAD = 0.08  # of the intensity, which runs from 0 to about 1
SMOOTH_VOXELS = 1.0


def intensity_bundle(path: Path) -> Bundle:
    """The bundle at `path` (a folder that is made)."""
    plain = tiny_bundle(path)
    placed = place(made_up_brain(), plain)
    image = placed.normalised.image
    mean = components(image, image, placed.box.mask, ("intensity",), SMOOTH_VOXELS)
    write_normative(path / "normative.nii.gz", Normative(mean, {"intensity": np.full_like(image, SPREAD)}))
    description = yaml.safe_load((path / "bundle.yaml").read_text(encoding="utf-8"))
    description["score"] = {
        "mode": "normative",
        "weights": {"intensity": 1.0},
        "smooth_voxels": SMOOTH_VOXELS,
        "erode_voxels": 2,
    }
    (path / "bundle.yaml").write_text(yaml.safe_dump(description), encoding="utf-8")
    modes = {**plain.calibration.modes, "normative": calibrated_at(THRESHOLD)}
    calibration = plain.calibration.model_copy(update={"modes": modes})
    (path / "calibration.json").write_text(calibration.model_dump_json(), encoding="utf-8")
    seal(path)
    return load_bundle(path)
