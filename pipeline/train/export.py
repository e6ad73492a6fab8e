"""A trained network made a bundle: description, weights, template, normative statistics, first calibration, card."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anomalyd.pipeline.bundle import (
    BRAIN_MASK,
    CALIBRATION,
    MODEL_CARD,
    NORMATIVE,
    TEMPLATE,
    BoxSettings,
    Bundle,
    BundleDescription,
    HistogramSettings,
    NetworkSettings,
    Normative,
    ReconstructionSettings,
    ScoreSettings,
    TrainingFacts,
    load_bundle,
    seal,
    write_normative,
)
from anomalyd.pipeline.finding import Contrast
from anomalyd.pipeline.nifti import write_nifti
from anomalyd.pipeline.stages.normative import components, statistics
from anomalyd.pipeline.stages.reconstruct import field_seeds, reconstruct
from anomalyd.pipeline.train.checkpoint import Trainee
from anomalyd.pipeline.train.cohort_file import Cohort
from anomalyd.pipeline.train.completed import MIN_REAL
from anomalyd.pipeline.train.model_card import model_card
from anomalyd.pipeline.train.new_bundle import UNCALIBRATED, fresh_bundle, write_description, write_weights
from anomalyd.pipeline.train.people import names_of, people_of, together
from anomalyd.pipeline.train.prepare import OnScan
from anomalyd.pipeline.train.recipe import Recipe, gates_of


def export_bundle(
    out: Path,
    cohort: Cohort,
    recipe: Recipe,
    trainee: Trainee,
    *,
    contrast: Contrast,
    seed: int,
    trained_on: tuple[Contrast, ...] = (),
    device: str = "cpu",
    on_scan: OnScan = lambda _done, _of, _what: None,
) -> Bundle:
    """The bundle at `out`, replacing an older one there; not calibrated yet.

    Normative statistics come from the training scans, so that the held-out ones stay unseen for calibration.
    trained_on: all contrasts that the network was trained on, where they are several.
    Raises ConfigError where `out` holds something that is no bundle.
    """
    with fresh_bundle(out) as fresh:
        description = _describe(out.name, cohort, recipe, trainee, contrast=contrast, seed=seed, trained_on=trained_on)
        _write(fresh, description, cohort, trainee)
        seal(fresh)
        names = tuple(description.score.weights)
        if names:
            write_normative(fresh / NORMATIVE, _statistics(cohort, load_bundle(fresh), names, device, on_scan))
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


def _statistics(cohort: Cohort, bundle: Bundle, names: tuple[str, ...], device: str, on_scan: OnScan) -> Normative:
    """What healthy people look like to the network.

    Where images were made for want of real ones, both kinds weigh the same together; fewer real people than MIN_REAL
    are no sample, and are left out.
    """
    weights = scan_weights(cohort)
    maps, masks = [], []
    chosen = np.flatnonzero(weights)
    for number, k in enumerate(chosen):
        on_scan(number, len(chosen), f"healthy reference, {cohort.contrast}")
        image, mask = cohort.floats(np.array([k]))[0], cohort.masks[k]
        seeds = field_seeds(cohort.scans[k].name, bundle.model.digest, len(bundle.description.reconstruction.levels))
        healthy = reconstruct(image, mask, bundle, seeds, device)
        maps.append(components(image, healthy, mask, names, bundle.description.score.smooth_voxels))
        masks.append(mask)
    return statistics(maps, masks, weights=[float(weight) for weight in weights[chosen]])


def scan_weights(cohort: Cohort) -> NDArray[np.float64]:
    """(n,) of each scan in the statistics."""
    made = np.array([scan.is_synthetic for scan in cohort.scans]) & cohort.is_train
    real = cohort.is_train & ~made
    if not made.any():
        return real.astype(np.float64)
    people = len({scan.subject for scan, used in zip(cohort.scans, real, strict=True) if used})
    weight = made.sum() / real.sum() if people >= MIN_REAL else 0.0
    return made + weight * real


def _describe(
    name: str,
    cohort: Cohort,
    recipe: Recipe,
    trainee: Trainee,
    *,
    contrast: Contrast,
    seed: int,
    trained_on: tuple[Contrast, ...],
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
        score=ScoreSettings(**recipe.score_of(contrast).model_dump()),
        histogram=HistogramSettings(percentiles=cohort.percentiles, standard=knots),
        gates=gates_of(contrast),
        training=TrainingFacts(
            seed=seed,
            steps=trainee.step,
            recipe={
                **{key: plain[key] for key in plain if key not in ("reconstruction", "score")},
                "split_seed": cohort.split_seed,
                **({"contrasts": [str(one) for one in trained_on]} if len(trained_on) > 1 else {}),
            },
            held_out_subjects=tuple(sorted(held)),
            age_range=(min(ages), max(ages)) if ages else None,
            sources=people,
        ),
    )
