"""A trained network made a bundle: description, weights, template, normative statistics, first calibration, card."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from anomalyd.pipeline.bundle import (
    BRAIN_MASK,
    CALIBRATION,
    MODEL_CARD,
    NORMATIVE,
    TEMPLATE,
    BoxSettings,
    Bundle,
    BundleDescription,
    GateSettings,
    HistogramSettings,
    NetworkSettings,
    ReconstructionSettings,
    ScoreSettings,
    TrainingFacts,
    load_bundle,
    seal,
    write_normative,
)
from anomalyd.pipeline.finding import Contrast
from anomalyd.pipeline.nifti import write_nifti
from anomalyd.pipeline.stages.normalise import PERCENTILES
from anomalyd.pipeline.stages.normative import components, statistics
from anomalyd.pipeline.stages.reconstruct import field_count, field_seeds, reconstruct
from anomalyd.pipeline.train.checkpoint import Trainee
from anomalyd.pipeline.train.cohort_file import Cohort
from anomalyd.pipeline.train.model_card import model_card
from anomalyd.pipeline.train.new_bundle import UNCALIBRATED, fresh_bundle, write_description, write_weights
from anomalyd.pipeline.train.people import names_of, people_of, together
from anomalyd.pipeline.train.recipe import Recipe
from anomalyd.pipeline.volume import FloatMap

def export_bundle(
    out: Path,
    cohort: Cohort,
    recipe: Recipe,
    trainee: Trainee,
    *,
    contrast: Contrast,
    seed: int,
    device: str = "cpu",
) -> Bundle:
    """The bundle at `out`, replacing an older one there; not calibrated yet.

    Normative statistics come from the training scans, so that the held-out ones stay unseen for calibration.
    Raises ConfigError where `out` holds something that is no bundle.
    """
    with fresh_bundle(out) as fresh:
        description = _describe(out.name, cohort, recipe, trainee, contrast=contrast, seed=seed)
        _write(fresh, description, cohort, trainee)
        seal(fresh)
        names = tuple(description.score.weights)
        if names:
            write_normative(fresh / NORMATIVE, statistics(*_healthy(cohort, load_bundle(fresh), names, device)))
    return load_bundle(out)


def _write(fresh: Path, description: BundleDescription, cohort: Cohort, trainee: Trainee) -> None:
    """All files but the normative statistics and the sums."""
    write_description(fresh, description)
    write_weights(fresh, trainee.average.state_dict())
    brain = cohort.template.brain
    write_nifti(fresh / TEMPLATE, np.rint(brain.voxels * 1000.0).astype(np.int16), brain.grid)
    write_nifti(fresh / BRAIN_MASK, cohort.template.mask.astype(np.uint8), brain.grid)
    (fresh / CALIBRATION).write_text(UNCALIBRATED.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (fresh / MODEL_CARD).write_text(model_card(description, cohort), encoding="utf-8")


def _healthy(
    cohort: Cohort, bundle: Bundle, names: tuple[str, ...], device: str
) -> tuple[list[dict[str, FloatMap]], list[np.ndarray[tuple[int, ...], np.dtype[np.bool_]]]]:
    """Components and masks of every training scan."""
    maps, masks = [], []
    for k in np.flatnonzero(cohort.is_train):
        image, mask = cohort.floats(np.array([k]))[0], cohort.masks[k]
        seeds = field_seeds(cohort.scans[k].name, bundle.model.digest, field_count(bundle))
        healthy = reconstruct(image, mask, bundle, seeds, device)
        maps.append(components(image, healthy, mask, names, bundle.description.score.smooth_voxels))
        masks.append(mask)
    return maps, masks


def _describe(
    name: str, cohort: Cohort, recipe: Recipe, trainee: Trainee, *, contrast: Contrast, seed: int
) -> BundleDescription:
    """What bundle.yaml says."""
    first = cohort.box.index_to_lps[:3, 3]
    people = together((*trainee.people, *people_of(cohort.train_scans)))
    held = {scan.subject for scan in cohort.held_out_scans} - names_of(people)
    ages = [scan.age for scan in cohort.train_scans if scan.age is not None]
    knots = None if cohort.preparation == "published" else tuple(round(float(v), 5) for v in cohort.standard_knots)
    plain = {key: value for key, value in asdict(recipe).items() if key not in ("network", "steps", "box_shape")}
    return BundleDescription(
        id=name,
        contrast=contrast,
        box=BoxSettings(
            shape=cohort.box.shape,
            spacing_mm=float(cohort.box.spacing_mm[0]),
            first_lps_mm=(float(first[0]), float(first[1]), float(first[2])),
        ),
        network=NetworkSettings(**recipe.network.model_dump()),
        reconstruction=ReconstructionSettings(**recipe.reconstruction.model_dump()),
        score=ScoreSettings(**recipe.score.model_dump()),
        histogram=HistogramSettings(percentiles=PERCENTILES, standard=knots),
        gates=GateSettings(),
        training=TrainingFacts(
            seed=seed,
            steps=trainee.step,
            recipe={
                **{key: plain[key] for key in plain if key not in ("reconstruction", "score")},
                "split_seed": cohort.split_seed,
            },
            held_out_subjects=tuple(sorted(held)),
            age_range=(min(ages), max(ages)) if ages else None,
            sources=people,
        ),
    )
