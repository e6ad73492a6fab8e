"""`anomalyd train`: from a folder of healthy scans, or a file of prepared ones, to a bundle."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from anomalyd.errors import ConfigError
from anomalyd.pipeline.finding import Contrast
from anomalyd.pipeline.train.calibrate import MIN_SCANS, calibrate_bundle
from anomalyd.pipeline.train.checkpoint import Trainee
from anomalyd.pipeline.train.cohort import Scan, find_scans, split_by_subject
from anomalyd.pipeline.train.cohort_file import Cohort, load_cohort
from anomalyd.pipeline.train.completed import complete_cohort
from anomalyd.pipeline.train.export import export_bundle
from anomalyd.pipeline.train.fit import OnNote, OnProgress, Progress, check_device, fit
from anomalyd.pipeline.train.joint import joined
from anomalyd.pipeline.train.new_bundle import check_place
from anomalyd.pipeline.train.people import names_of, people_of, together
from anomalyd.pipeline.train.prepare import prepare_cohort
from anomalyd.pipeline.train.recipe import RECIPES, Preset, Recipe
from anomalyd.pipeline.train.synthetic_scans import write_synthetic_scans

COHORT = "cohort.npz"
DEFAULT_SEED = 20240

OnSkip = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be trained, from what.

    data: a folder of scans, or a file of prepared ones. seed: None takes that of prepared scans, else DEFAULT_SEED;
    contrasts: none takes that of prepared scans, else T1w; of several, `out` is the folder of their bundles, and one
    network is trained on all. width: of the published network, None as published.
    """

    data: Path
    out: Path
    preset: Preset = "compact"
    steps: int | None = None
    width: int | None = None
    device: str = "cpu"
    seed: int | None = None
    contrasts: tuple[Contrast, ...] = ()
    exclude_subject_prefixes: tuple[str, ...] = ()
    resume_from: Path | None = None

    @property
    def work(self) -> Path:
        """Where prepared scans, checkpoints and curves lie."""
        return self.out.with_name(self.out.name + ".work")

    @property
    def all_contrasts(self) -> tuple[Contrast, ...]:
        """Each once, T1w first; raises ConfigError for several where the preset trains one."""
        asked = tuple(contrast for contrast in Contrast if contrast in (self.contrasts or (Contrast.T1W,)))
        if len(asked) > 1 and self.recipe.preparation == "published":
            raise ConfigError(f"preset {self.preset} trains one contrast, as published; {len(asked)} were asked for")
        return asked

    def bundle_of(self, contrast: Contrast) -> Path:
        """Where the bundle of a contrast goes."""
        return self.out if len(self.contrasts) < 2 else self.out / f"{contrast.lower()}-{self.preset}"  # noqa: PLR2004

    def cache_of(self, contrast: Contrast) -> Path:
        """Where its prepared scans are kept."""
        return self.work / (COHORT if len(self.contrasts) < 2 else f"cohort-{contrast.lower()}.npz")  # noqa: PLR2004

    @property
    def recipe(self) -> Recipe:
        """The preset's, with what was asked for; raises ConfigError for an unknown preset or a width it has not."""
        if self.preset not in RECIPES:
            raise ConfigError(f"preset {self.preset!r} is unknown: {', '.join(RECIPES)}")
        recipe = RECIPES[self.preset]
        if self.width is not None:
            if recipe.network.architecture != "published" or self.width < 1 or self.width % 32:
                raise ConfigError(f"width {self.width}: a multiple of 32, of preset paper alone")
            recipe = replace(recipe, network=recipe.network.model_copy(update={"model_channels": self.width}))
        return recipe if self.steps is None else replace(recipe, steps=self.steps)


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What a training made of which scans. skipped: (name, reason); warnings: what is to be known of the bundle."""

    bundle: Path
    steps: int
    train_subjects: int
    held_out_subjects: int
    skipped: tuple[tuple[str, str], ...]
    loss: float
    warnings: tuple[str, ...] = ()


def train_bundles(
    order: Order,
    on_progress: OnProgress = lambda _: None,
    on_skip: OnSkip = lambda _what, _why: None,
    on_note: OnNote = lambda _: None,
) -> tuple[TrainReport, ...]:
    """A bundle of each contrast, of one network; the same order given again goes on where it was stopped.

    on_skip(what, why) is called for each scan that is not used, on_note with what else is to be known.
    Raises ConfigError for an order that cannot be carried out: unknown preset, device that is not there, too few
    people, an `out` that is no bundle.
    """
    recipe = order.recipe
    check_device(order.device)
    for contrast in order.all_contrasts:
        check_place(order.bundle_of(contrast))
    cohorts = prepared(order, on_progress, on_skip)
    seed = _seed(order, cohorts[0])
    trainee = fit(
        joined(cohorts), recipe, order.work, seed=seed, device=order.device, on_progress=on_progress,
        on_note=on_note, resume_from=order.resume_from,
    )  # fmt: skip
    return tuple(
        _finished(order, cohort, cohorts[0], trainee, seed=seed, on_progress=on_progress) for cohort in cohorts
    )


def _finished(
    order: Order, cohort: Cohort, first: Cohort, trainee: Trainee, *, seed: int, on_progress: OnProgress
) -> TrainReport:
    """The bundle of one contrast, exported and, where there are scans for that, calibrated.

    first: the cohort of the first contrast, whose T1w scans stand in where too few of this contrast are unseen.
    """
    out = order.bundle_of(cohort.contrast)

    def on_scan(done: int, of: int, what: str) -> None:
        on_progress(Progress(what, done, of))

    export_bundle(
        out, cohort, order.recipe, trainee,
        contrast=cohort.contrast, seed=seed, trained_on=order.all_contrasts, device=order.device, on_scan=on_scan,
    )  # fmt: skip
    trained = names_of(together((*trainee.people, *people_of(cohort.train_scans))))
    held = {scan.subject for scan in cohort.held_out_scans}
    unseen = {scan.subject for scan in cohort.held_out_scans if not scan.is_synthetic} - trained
    warnings = []
    if held & trained:
        text = (
            f"{len(held & trained)} people that were held out trained the weights it began from: they count as trained"
        )
        warnings.append(text)
    is_completed = any(scan.is_synthetic for scan in cohort.scans)
    if order.data.is_file():
        warnings.append(f"not calibrated, there are no scans here: run `anomalyd calibrate {out} HEALTHY`")
    elif len(unseen) < MIN_SCANS and not is_completed:
        few = f"not calibrated: {len(unseen)} people are held out, {MIN_SCANS} are needed"
        warnings.append(f"{few}; run `anomalyd calibrate {out} HEALTHY` on other scans")
    else:
        made: tuple[Scan, ...] = ()
        if len(unseen) < MIN_SCANS:
            folder = order.work / f"made-{cohort.contrast.lower()}"
            made = write_synthetic_scans(first, cohort.contrast, folder, seed=seed, on_scan=on_scan)
        report = calibrate_bundle(
            out, order.data, device=order.device, made=made,
            on_progress=lambda done, of: on_progress(Progress(f"calibration, {cohort.contrast}", done, of)),
        )  # fmt: skip
        warnings += report.warnings
    return TrainReport(
        out, trainee.step, len(trained), len(held - trained), cohort.skipped, trainee.loss, tuple(warnings)
    )


def prepared(
    order: Order,
    on_progress: OnProgress = lambda _: None,
    on_skip: OnSkip = lambda _what, _why: None,
) -> tuple[Cohort, ...]:
    """The scans of each contrast made ready, from the files made of them before, or made now, in `order.work`.

    With T1w among several contrasts, the others are completed from it (completed.py).
    """
    if order.data.is_file():
        return (_taken_along(order),)
    recipe, seed = order.recipe, DEFAULT_SEED if order.seed is None else order.seed

    def on_scan(done: int, of: int, what: str) -> None:
        on_progress(Progress(what, done, of))

    on_scan(0, 1, "looking at scans")
    everything = {
        contrast: find_scans(order.data, contrast, order.exclude_subject_prefixes) for contrast in order.all_contrasts
    }
    _check_left_out(order, {subject for found in everything.values() for subject in found.left_out})
    cohorts: list[Cohort] = []
    for contrast, found in everything.items():
        cache = order.cache_of(contrast)
        if cohorts and cohorts[0].contrast is Contrast.T1W:
            cohorts.append(
                complete_cohort(cohorts[0], found, contrast, cache, seed=seed, on_scan=on_scan, on_skip=on_skip)
            )
            continue
        split = split_by_subject(found.scans, seed, found.skipped)
        cohort = prepare_cohort(
            split, cache, recipe.box_shape, on_scan,
            contrast=contrast, preparation=recipe.preparation, on_skip=on_skip,
        )  # fmt: skip
        cohorts.append(cohort)
    return tuple(cohorts)


def _check_left_out(order: Order, left_out: set[str]) -> None:
    """Raises ConfigError for a prefix that leaves out nobody: a slip would train on who must not be trained on."""
    for prefix in order.exclude_subject_prefixes:
        if not any(subject.startswith(prefix) for subject in left_out):
            raise ConfigError(f"no subject in {order.data} begins with {prefix!r}, which is to be left out")


def _taken_along(order: Order) -> Cohort:
    """The cohort of a file; raises ConfigError where it is not what the order needs."""
    cohort, recipe = load_cohort(order.data), order.recipe
    if order.contrasts not in ((), (cohort.contrast,)):
        asked = ", ".join(order.contrasts)
        raise ConfigError(f"{order.data} holds {cohort.contrast} scans, {asked} was asked for; of several give DATA")
    if (cohort.preparation, cohort.box.shape) != (recipe.preparation, recipe.box_shape):
        raise ConfigError(
            f"{order.data} was prepared otherwise ({cohort.preparation}, {cohort.box.shape}) than {order.preset} needs "
            f"({recipe.preparation}, {recipe.box_shape}): prepare the scans again with --preset {order.preset}"
        )
    barred = {s.subject for s in cohort.scans if s.subject.startswith(order.exclude_subject_prefixes or ("\0",))}
    if barred:
        raise ConfigError(
            f"{order.data} was prepared with {len(barred)} people that are to be left out (first: {min(barred)}): they "
            "are in its template and histogram; prepare the scans again without them"
        )
    return cohort


def _seed(order: Order, cohort: Cohort) -> int:
    if order.seed is not None:
        return order.seed
    return DEFAULT_SEED if cohort.split_seed is None else cohort.split_seed
