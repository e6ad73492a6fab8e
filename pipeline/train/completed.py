"""Scans of a contrast that few healthy people were scanned with, completed with ones made from T1w brains."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anomalyd.pipeline.bundle import Template
from anomalyd.pipeline.stages.normalise import CEILING, PERCENTILES, piecewise, strictly_rising
from anomalyd.pipeline.stages.orient import resample
from anomalyd.pipeline.stages.prepare import Boxed, Upright, align, standardise
from anomalyd.pipeline.terms import Contrast
from anomalyd.pipeline.train.cohort import Found, Scan, Split
from anomalyd.pipeline.train.cohort_file import LEVELS, Cohort, key_of, load_cohort, save_cohort
from anomalyd.pipeline.train.prepare import OnScan, OnSkip, boxes_of, heads_of
from anomalyd.pipeline.train.recipe import gates_of
from anomalyd.pipeline.train.synthetic_contrast import SYNTHETIC, VERSION, synthesise, typical
from anomalyd.pipeline.train.template import mean_template
from anomalyd.pipeline.volume import BoolMap, FloatMap, Volume

MIN_REAL = 5  # people; fewer are no sample of what scanners do, and take no part in template and statistics
ENOUGH_HELD_OUT = 20  # people to calibrate on; new ones train from there on
LANDMARKS = PERCENTILES[:-1]  # what is bright in T2w and FLAIR is often a lesion: it must not set the scale
ROOM = {Contrast.T2W: 1.0, Contrast.FLAIR: 0.65}  # of the standard scale, so that lesions stay below CEILING


def complete_cohort(
    t1w: Cohort, found: Found, contrast: Contrast, cache: Path, *, seed: int, on_scan: OnScan, on_skip: OnSkip
) -> Cohort:
    """The contrast of everybody in the T1w cohort, made from T1w, and the scans that were found, in the same box.

    Kept in the cache file, and taken from there where it was made from the same. Nobody trains who does not train in
    T1w (see split_like).
    """
    split = split_like(t1w, found, seed)
    key = _key(t1w, split, contrast, seed)
    if cache.exists() and key_of(cache) == key:
        return load_cohort(cache)
    skipped = list(split.skipped)

    def skip(scan: Scan, why: str) -> None:
        skipped.append((scan.name, why))
        on_skip(str(scan.path), why)

    def tell(done: int, of: int, what: str) -> None:
        on_scan(done, of, f"{what}, {contrast}")

    scans = (*split.train, *split.held_out)
    trained = {scan.subject for scan in split.train}
    heads = heads_of(scans, tell, skip)
    template = completed_template(t1w, contrast, [head for scan, head in heads if scan.subject in trained])
    used = boxes_of(heads, template, t1w.box, gates_of(contrast), on_scan=tell, skip=skip, scan_count=len(scans))
    cohort = _completed(t1w, contrast, template, used, trained=trained, seed=seed)
    cohort = replace(cohort, skipped=tuple(skipped), split_seed=seed)
    save_cohort(cache, cohort, key)
    return cohort


def split_like(t1w: Cohort, found: Found, seed: int) -> Split:
    """Who is known from T1w keeps the side taken there; new people are held out until there are ENOUGH_HELD_OUT.

    Synthetic images can train a network, only real ones tell what it makes of a scan.
    """
    trained = {scan.subject for scan in t1w.train_scans}
    held = {scan.subject for scan in t1w.held_out_scans}
    people = sorted({scan.subject for scan in found.scans})
    fresh = [person for person in people if person not in trained | held]
    room = max(0, ENOUGH_HELD_OUT - len(held & set(people)))
    drawn = np.random.default_rng([seed, len(fresh)]).permutation(len(fresh))
    trained |= {fresh[int(k)] for k in drawn[room:]}
    return Split(
        tuple(scan for scan in found.scans if scan.subject in trained),
        tuple(scan for scan in found.scans if scan.subject not in trained),
        seed,
        found.skipped,
    )


def completed_template(t1w: Cohort, contrast: Contrast, heads: Sequence[Upright]) -> Template:
    """Mean of the training people's made images; from MIN_REAL real brains on, half of it is the mean of these.

    The real ones find their place on the made ones' mean alone: a template that followed them would drift in size.
    """
    mask, grid = t1w.template.mask, t1w.template.brain.grid
    made = _made_mean(t1w, contrast)
    template = Template(Volume(made, grid), mask)
    if len(heads) < MIN_REAL:
        return template
    maps = [align(head, template).template_to_source for head in heads]
    real = mean_template(heads, maps, grid).brain.voxels
    tops = [np.percentile(mean[mask], 95) for mean in (made, real)]
    both = 0.5 * made / tops[0] + 0.5 * real / tops[1]
    return Template(Volume(np.where(mask, both, 0.0).astype(np.float32), grid), mask)


def _made_mean(t1w: Cohort, contrast: Contrast) -> FloatMap:
    """In the box the mirrored mean of what is made of each training person; below it, of the T1w template."""
    mask, grid = t1w.template.mask, t1w.template.brain.grid
    brain = t1w.template.brain.voxels
    standard = np.interp(brain, np.percentile(brain[mask], PERCENTILES), t1w.standard_knots).astype(np.float32)
    people = np.flatnonzero(t1w.is_train)
    total = np.zeros(t1w.box.shape, dtype=np.float32)
    for k in people:
        total += typical(t1w.floats((int(k),)), t1w.masks[k], contrast)
    mean = Volume(((total + total[:, :, ::-1]) / (2 * len(people))).astype(np.float32), t1w.box)
    inside = resample(Volume(np.ones(t1w.box.shape, dtype=np.float32), t1w.box), grid, np.eye(4))
    both = np.where(inside > 0.999, resample(mean, grid, np.eye(4)), typical(standard, mask, contrast))  # noqa: PLR2004
    return np.where(mask, both, 0.0).astype(np.float32)


def _completed(
    t1w: Cohort,
    contrast: Contrast,
    template: Template,
    used: Sequence[tuple[Scan, Boxed]],
    *,
    trained: set[str],
    seed: int,
) -> Cohort:
    """Made images first, in the order of the T1w cohort, then the real ones; all on one standard histogram."""
    made = [
        synthesise(t1w.floats((k,)), t1w.masks[k], contrast, synthesis_rng(seed, contrast, scan.subject))
        for k, scan in enumerate(t1w.scans)
    ]
    knots = _standard(contrast, used, trained) if used else None
    if knots is None:
        straight = [np.percentile(made[k][t1w.masks[k]], PERCENTILES) for k in np.flatnonzero(t1w.is_train)]
        knots = np.mean([(one - one[0]) / (one[-1] - one[0]) for one in straight], axis=0)[:-1] * ROOM[contrast]
    images = [on_landmarks(image, mask, knots) for image, mask in zip(made, t1w.masks, strict=True)]
    images += [standardise(box, knots, percentiles=LANDMARKS).image for _, box in used]
    people = (*(replace(scan, is_synthetic=True) for scan in t1w.scans), *(scan for scan, _ in used))
    return replace(
        t1w,
        images=np.stack([np.rint(np.clip(image, 0.0, CEILING) * LEVELS).astype(np.uint8) for image in images]),
        masks=np.concatenate([t1w.masks, *([np.stack([box.mask for _, box in used])] if used else [])]),
        scans=people,
        is_train=np.concatenate([t1w.is_train, [scan.subject in trained for scan, _ in used]]).astype(np.bool_),
        template=template,
        standard_knots=knots,
        percentiles=LANDMARKS,
        contrast=contrast,
    )


def _standard(contrast: Contrast, used: Sequence[tuple[Scan, Boxed]], trained: set[str]) -> NDArray[np.float64] | None:
    """Mean over sites of the training scans' percentiles, their 1st and 99th on 0 and ROOM; None without any."""
    sites: dict[str, list[NDArray[np.float64]]] = {}
    for scan, box in used:
        if scan.subject in trained:
            sites.setdefault(scan.site, []).append(standardise(box, None).standard_knots[: len(LANDMARKS)])
    if not sites:
        return None
    return np.asarray(np.mean([np.mean(one, axis=0) for one in sites.values()], axis=0) * ROOM[contrast])


def on_landmarks(image: FloatMap, mask: BoolMap, knots: NDArray[np.float64]) -> FloatMap:
    """As standardise, of an image that has no bias field."""
    source = strictly_rising(np.percentile(image[mask], LANDMARKS))
    values = np.clip(piecewise(image, source, strictly_rising(knots)), 0.0, CEILING)
    return np.where(mask, values, 0.0).astype(np.float32)


def synthesis_rng(seed: int, contrast: Contrast, subject: str) -> np.random.Generator:
    """One person's image of a contrast comes out the same whoever else is in the folder."""
    name = int.from_bytes(hashlib.sha256(subject.encode()).digest()[:8], "big")
    return np.random.default_rng([seed, SYNTHETIC.index(contrast), name])


def _key(t1w: Cohort, split: Split, contrast: Contrast, seed: int) -> str:
    """What the cache depends on."""
    files = [[(s.name, s.byte_count, s.subject) for s in side] for side in (split.train, split.held_out)]
    sides = [(s.name, s.subject, bool(used)) for s, used in zip(t1w.scans, t1w.is_train, strict=True)]
    pixels = hashlib.sha256(t1w.images.tobytes()).hexdigest()
    return hashlib.sha256(json.dumps([VERSION, contrast, seed, files, sides, pixels]).encode()).hexdigest()
