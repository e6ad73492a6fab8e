"""Scans made ready for training, once: group template, standard histogram, slices in the box, one compact file."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from anomalyd.errors import AnomalydError, ConfigError, Withheld
from anomalyd.pipeline.bundle import GateSettings, Template
from anomalyd.pipeline.finding import Contrast
from anomalyd.pipeline.stages import gates
from anomalyd.pipeline.stages.normalise import CEILING
from anomalyd.pipeline.stages.prepare import Boxed, Upright, align, boxed, standardise, upright
from anomalyd.pipeline.train.cohort import Scan, Split
from anomalyd.pipeline.train.cohort_file import LEVELS, Cohort, key_of, load_cohort, save_cohort
from anomalyd.pipeline.train.recipe import Preparation
from anomalyd.pipeline.train.template import TEMPLATE_MM, box_of, build_template, centred_box
from anomalyd.pipeline.volume import Grid

MIN_TEMPLATE_PEOPLE = 20
MIN_BRAIN_ML = 700.0
SHOWN_REASONS = 10

OnScan = Callable[[int, int, str], None]
OnSkip = Callable[[str, str], None]
Skip = Callable[[Scan, str], None]


def check_split(split: Split, contrast: Contrast = Contrast.T1W) -> None:
    """Raises ConfigError with fewer than MIN_TEMPLATE_PEOPLE people to train on: said before hours of preparing."""
    people = {scan.subject for scan in split.train}
    held = {scan.subject for scan in split.held_out}
    if len(people) < MIN_TEMPLATE_PEOPLE:
        raise ConfigError(
            f"{len(people | held)} people, of whom {len(held)} are held out: {len(people)} to train on, at least "
            f"{MIN_TEMPLATE_PEOPLE} are needed{_advice(contrast)}{_told(split.skipped)}"
        )


def _advice(contrast: Contrast) -> str:
    if contrast is Contrast.T1W:
        return ""
    return f"; with --contrast T1w beside {contrast} they are completed from the T1w brains of the same folder"


def prepare_cohort(
    split: Split,
    cache: Path,
    box_shape: tuple[int, int, int],
    on_scan: OnScan,
    *,
    contrast: Contrast = Contrast.T1W,
    preparation: Preparation = "standard",
    on_skip: OnSkip = lambda _what, _why: None,
) -> Cohort:
    """The cohort of a split, from the cache file where it was made from the same files, else made and kept there.

    on_scan(done, of, what) is called as work goes on, on_skip(file, reason) for each scan that cannot be used. Raises
    ConfigError with fewer than MIN_TEMPLATE_PEOPLE usable people to train on.
    """
    key = _key(split, box_shape, preparation)
    if cache.exists() and key_of(cache) == key:
        found = load_cohort(cache)
        for what, why in found.skipped:
            on_skip(what, why)
        # Facts come from the index of today: who corrects a licence there need not prepare anew.
        today = {scan.name: scan for scan in (*split.train, *split.held_out)}
        return replace(found, scans=tuple(today.get(scan.name, scan) for scan in found.scans), split_seed=split.seed)
    check_split(split, contrast)
    cohort = _make(split, box_shape, contrast, preparation, on_scan=on_scan, on_skip=on_skip)
    save_cohort(cache, cohort, key)
    return cohort


def _make(
    split: Split,
    box_shape: tuple[int, int, int],
    contrast: Contrast,
    preparation: Preparation,
    *,
    on_scan: OnScan,
    on_skip: OnSkip,
) -> Cohort:
    scans = (*split.train, *split.held_out)
    skipped = list(split.skipped)
    for what, why in skipped:
        on_skip(what, why)

    def skip(scan: Scan, why: str) -> None:
        skipped.append((scan.name, why))
        on_skip(str(scan.path), why)

    heads = heads_of(scans, on_scan, skip)
    trained = {scan.subject for scan in split.train}
    _check_people({scan.subject for scan, _ in heads} & trained, skipped)
    on_scan(len(scans), 2 * len(scans), "group template")
    template = build_template([head for scan, head in heads if scan.subject in trained])
    grid = template.brain.grid
    if preparation == "published":
        box = centred_box(template.mask, grid, box_shape, TEMPLATE_MM)
    else:
        box = box_of(template.mask, grid, box_shape)
    used = boxes_of(heads, template, box, GateSettings(), on_scan=on_scan, skip=skip, scan_count=len(scans))
    is_train = np.array([scan.subject in trained for scan, _ in used], dtype=np.bool_)
    _check_people({scan.subject for scan, _ in used} & trained, skipped)
    straight = [standardise(box, None) for _, box in used]
    knots = np.mean([one.standard_knots for one, train in zip(straight, is_train, strict=True) if train], axis=0)
    if preparation == "published":
        images = [one.image for one in straight]  # 0 to 1, clamped
    else:
        images = [standardise(box, knots).image for _, box in used]
    return Cohort(
        np.stack([np.rint(np.clip(image, 0.0, CEILING) * LEVELS).astype(np.uint8) for image in images]),
        np.stack([box.mask for _, box in used]),
        tuple(scan for scan, _ in used),
        is_train,
        template,
        box,
        knots,
        tuple(skipped),
        contrast,
        split.seed,
        preparation,
    )


def heads_of(scans: Sequence[Scan], on_scan: OnScan, skip: Skip) -> list[tuple[Scan, Upright]]:
    """Each scan that can be used, upright with its brain; skip(scan, reason) is called for the others."""
    heads: list[tuple[Scan, Upright]] = []
    for number, scan in enumerate(scans):
        on_scan(number, 2 * len(scans), "brain masks")
        try:
            heads.append((scan, head_of(scan)))
        except AnomalydError as exc:
            skip(scan, str(exc))
    return heads


def boxes_of(
    heads: Sequence[tuple[Scan, Upright]],
    template: Template,
    box: Grid,
    limits: GateSettings,
    *,
    on_scan: OnScan,
    skip: Skip,
    scan_count: int,
) -> list[tuple[Scan, Boxed]]:
    """Each brain registered and in the box; skip(scan, reason) is called where a gate does not let it through."""
    boxes: list[tuple[Scan, Boxed]] = []
    for number, (scan, head) in enumerate(heads):
        on_scan(scan_count + number, 2 * scan_count, "registration")
        try:
            volume, registration = scan.read(), align(head, template)
            gates.check_registration(registration, limits)
            gates.check_coverage(volume, registration, template, box, limits)
            boxes.append((scan, boxed(volume, head, registration, box)))
        except AnomalydError as exc:
            skip(scan, str(exc))
    return boxes


def head_of(scan: Scan) -> Upright:
    """The scan upright with its brain; raises AnomalydError where it cannot be used."""
    volume = scan.read()
    gates.check_volume(volume)
    head = upright(volume)
    brain_ml = float(head.brain.mask.sum()) * head.volume.grid.voxel_volume_mm3 / 1000.0
    if brain_ml < MIN_BRAIN_ML:
        text = f"brain mask of {brain_ml:.0f} ml, at least {MIN_BRAIN_ML:.0f} ml expected"
        raise Withheld("brain_volume_ml", round(brain_ml, 1), MIN_BRAIN_ML, text)
    return head


def _check_people(people: Iterable[str], skipped: list[tuple[str, str]]) -> None:
    count = len(set(people))
    if count < MIN_TEMPLATE_PEOPLE:
        raise ConfigError(
            f"{count} usable people to train on, at least {MIN_TEMPLATE_PEOPLE} are needed{_told(skipped)}"
        )


def _told(skipped: Iterable[tuple[str, str]]) -> str:
    """The first reasons, for the end of a message."""
    reasons = [f"\n  {what}: {why}" for what, why in skipped]
    more = f"\n  and {len(reasons) - SHOWN_REASONS} more" if len(reasons) > SHOWN_REASONS else ""
    return f"; not used:{''.join(reasons[:SHOWN_REASONS])}{more}" if reasons else ""


def _key(split: Split, box_shape: tuple[int, int, int], preparation: Preparation) -> str:
    """What the cache depends on: files with their sizes, uses, box, kind of preparation."""
    files = [(s.name, s.byte_count, s.subject) for s in split.train]
    held = [(s.name, s.byte_count, s.subject) for s in split.held_out]
    text = json.dumps([files, held, box_shape, *([] if preparation == "standard" else [preparation])])
    return hashlib.sha256(text.encode()).hexdigest()
