"""MODEL_CARD.md of a bundle: what it is, what it was made from and under which terms, what it must not be used for."""

import re

from anomalyd.pipeline.bundle import BundleDescription, TrainingFacts
from anomalyd.pipeline.train.cohort_file import Cohort


def model_card(description: BundleDescription, cohort: Cohort) -> str:
    """The card's text, without measured results: `anomalyd calibrate` and `anomalyd evaluate` give those."""
    training = description.training
    people = sum(len(source.subjects) for source in training.sources)
    ages = (
        f"{training.age_range[0]:.0f} to {training.age_range[1]:.0f} years where stated"
        if training.age_range
        else "not stated"
    )
    rows = [f"| {s.source} | {len(s.subjects)} | {s.licence or 'not stated'} |" for s in training.sources]
    skipped = [f"* {name}: {reason}" for name, reason in cohort.skipped]
    settings = description.reconstruction
    levels = ", ".join(map(str, settings.timesteps))
    fields = f"simplex noise at the indices {levels} ({settings.fields_per_timestep} fields at each)"
    scaled = "scaled by percentiles" if description.histogram.standard is None else "normalised to a standard histogram"
    method = (
        f"A brain is registered to the bundle's template, cut to {description.box.shape} voxels of "
        f"{description.box.spacing_mm:g} mm (slice, row, column), {scaled}, mixed with "
        f"{fields} of the cosine schedule and denoised in one pass for each field. What the mean of these "
        f"healthy counterparts does not explain is scored ({description.score.mode})."
    )
    made_from = (
        f"{people} healthy people, age {ages}; seed {training.seed}, {training.steps} steps. Template: symmetrical "
        f"mean of the {int(cohort.is_train.sum())} stripped, registered training scans. Never trained on: "
        f"{', '.join(training.held_out_subjects)}.{_shared(description)}{_synthetic(cohort)}"
    )
    terms = (
        f"**Licence of the weights, the template and the statistics: {licence_of_weights(training)}** Whoever passes "
        "them on keeps the credits above. Where a source states no licence its owners' consent is needed for any use "
        "beyond research."
    )
    purpose = f"One-step denoising diffusion model for {description.contrast} brain MR of adults."
    lines = [f"# {description.id}", "", f"{purpose} **Research use only, not for diagnosis.**", ""]
    lines += ["## What it does", method, "", "## What it was made from", made_from, ""]
    lines += ["| source | people | terms as stated there |", "|---|---|---|", *rows, "", terms, ""]
    lines += ["Scans that could not be used:", *skipped, ""] if skipped else []
    return "\n".join(lines)


def licence_of_weights(training: TrainingFacts) -> str:
    """What may be done with what was derived from the training scans: the strictest of the terms that are known."""
    for kind in (r"CC BY-NC(-SA)?( \d\.\d)?", r"CC BY-SA( \d\.\d)?"):
        for source in training.sources:
            asked = re.search(kind, source.licence)
            if asked:
                return f"{asked[0]}, which the terms of {source.source} ask of what is derived from it."
    return "whoever trained them decides, within the terms above."


def _shared(description: BundleDescription) -> str:
    """What else the network was trained on."""
    contrasts = description.training.recipe.get("contrasts")
    return f" One network was trained on {', '.join(contrasts)} together." if isinstance(contrasts, list) else ""


def _synthetic(cohort: Cohort) -> str:
    """What was made from T1w for want of real scans; empty where nothing was."""
    made = sum(scan.is_synthetic for scan in cohort.train_scans)
    if not made:
        return ""
    people = [
        len({scan.subject for scan in scans if not scan.is_synthetic})
        for scans in (cohort.train_scans, cohort.held_out_scans)
    ]
    return (
        f"\n\n**Mostly synthetic.** Of the {cohort.contrast} training scans {made} were made from T1w scans by a curve "
        f"of intensities, texture, a smooth field and thick slices; {people[0]} people have a real {cohort.contrast} "
        f"scan in training, {people[1]} one that is held out."
    )
