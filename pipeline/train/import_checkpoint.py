"""A bundle from a network that was trained with the published code: its weights and settings in another bundle's space.

What is the paper's: one noise field at index 499, SSIM-ens, percentile scaling, a box of 96 x 96 x 50 voxels of 2 mm
centred on the brain (METHOD sections 0 to 3). What is not: registration, brain mask and bias field are anomalyd's own,
the template is the other bundle's, and voxels are averaged into the box instead of smoothed by curvature flow.
"""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from anomalyd.errors import ConfigError
from anomalyd.pipeline.bundle import (
    BRAIN_MASK,
    CALIBRATION,
    MODEL_CARD,
    TEMPLATE,
    BoxSettings,
    Bundle,
    BundleDescription,
    HistogramSettings,
    NetworkSettings,
    ReconstructionSettings,
    ScoreSettings,
    SourceFacts,
    TrainingFacts,
    load_bundle,
    shipped_bundles,
)
from anomalyd.pipeline.stages.normalise import PERCENTILES
from anomalyd.pipeline.terms import Contrast
from anomalyd.pipeline.train.new_bundle import UNCALIBRATED, fresh_bundle, write_description, write_weights
from anomalyd.pipeline.train.published_weights import PublishedWeights, read_published_weights
from anomalyd.pipeline.train.template import centred_box

BOX_SHAPE = (50, 96, 96)  # slices, rows, columns
BOX_MM = 2.0
TIMESTEP = 499  # t_test 500


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What was imported. prefix: what stood before the published names; like: the bundle that gave the template."""

    bundle: Path
    width: int
    tensors: int
    prefix: str
    like: str


def import_checkpoint(
    checkpoint: Path, out: Path, *, contrast: Contrast, like: Path | None = None, is_transposed: bool = True
) -> ImportReport:
    """A bundle at `out`, not calibrated: `anomalyd calibrate` must count its thresholds before it can analyse.

    like: gives template, brain mask and gates; by default the shipped bundle of the contrast. is_transposed: slices
    were (left-right, front-back) in training, as the published loader lays them. Raises ConfigError where the file does
    not hold the published network, or `like` is for another contrast or absent.
    """
    weights = read_published_weights(checkpoint)
    model = _like(like, contrast)
    description = _describe(out.name, checkpoint, weights, model, is_transposed=is_transposed)
    with fresh_bundle(out) as fresh:
        write_description(fresh, description)
        write_weights(fresh, weights.tensors)
        for name in (TEMPLATE, BRAIN_MASK):
            shutil.copyfile(model.path / name, fresh / name)
        (fresh / CALIBRATION).write_text(UNCALIBRATED.model_dump_json(indent=1) + "\n", encoding="utf-8")
        (fresh / MODEL_CARD).write_text(_card(description, model, checkpoint), encoding="utf-8")
    return ImportReport(out, weights.width, len(weights.tensors), weights.prefix, model.model.bundle_id)


def _like(like: Path | None, contrast: Contrast) -> Bundle:
    """The bundle whose space is used."""
    if like is not None:
        model = load_bundle(like)
        if model.model.contrast is not contrast:
            raise ConfigError(
                f"{like} is for {model.model.contrast}, {contrast} is imported: give a bundle of that contrast, or "
                f"--contrast {model.model.contrast}"
            )
        return model
    for path in shipped_bundles():
        model = load_bundle(path)
        if model.model.contrast is contrast:
            return model
    raise ConfigError(
        f"no bundle for {contrast} comes with anomalyd: give one with --like, its template and brain mask are needed"
    )


def _describe(
    name: str, checkpoint: Path, weights: PublishedWeights, like: Bundle, *, is_transposed: bool
) -> BundleDescription:
    """What bundle.yaml says; raises ConfigError for a name that cannot be a bundle's."""
    box = centred_box(like.template.mask, like.template.brain.grid, BOX_SHAPE, BOX_MM)
    first = box.index_to_lps[:3, 3]
    network = NetworkSettings(architecture="published", model_channels=weights.width, transposed=is_transposed)
    with checkpoint.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    training = TrainingFacts(
        seed=0,
        steps=weights.steps or 0,
        recipe={"imported": checkpoint.name, "sha256": digest, "prefix": weights.prefix},
        held_out_subjects=(),
        age_range=None,
        sources=(SourceFacts(source=f"imported from {checkpoint.name}", licence="not stated", subjects=()),),
    )
    try:
        return BundleDescription(
            id=name,
            contrast=like.model.contrast,
            box=BoxSettings(
                shape=box.shape, spacing_mm=BOX_MM, first_lps_mm=(float(first[0]), float(first[1]), float(first[2]))
            ),
            network=network,
            reconstruction=ReconstructionSettings(timesteps=(TIMESTEP,), fields_per_timestep=1),
            score=ScoreSettings(mode="paper"),
            histogram=HistogramSettings(percentiles=PERCENTILES, standard=None),
            gates=like.description.gates,
            training=training,
        )
    except ValidationError as exc:
        raise ConfigError(
            f"{name!r} cannot be a bundle's name: small letters, digits, dots and hyphens, 63 at most, are allowed"
        ) from exc


def _card(description: BundleDescription, like: Bundle, checkpoint: Path) -> str:
    """MODEL_CARD.md."""
    sha256 = description.training.recipe["sha256"]
    order = "(left-right, front-back)" if description.network.transposed else "(front-back, left-right)"
    return f"""# {description.id}

One-step denoising diffusion model for {description.contrast} brain MR, imported. **Research use only, not for
diagnosis.**

## What it is
The published UNet of width {description.network.model_channels} from `{checkpoint.name}`
(SHA-256 `{sha256}`), slices as {order}.
One simplex field at index {TIMESTEP} of the cosine schedule, SSIM-ens, intensities scaled between the 1st and the 99th
percentile inside the brain, a box of 96 x 96 x 50 voxels of 2 mm. Template, brain mask and gates: bundle
`{like.model.bundle_id}` ({like.model.digest[:12]}), whose terms hold for them.

## What is not known
Who trained it, on whom and under which terms: add it here before passing the bundle on. It was trained in the space of
another template and with another preprocessing. Not calibrated: run `anomalyd calibrate` on healthy scans, then
`anomalyd evaluate`.
"""
