"""`anomalyd train`: from a folder of healthy scans, or a file of prepared ones, to a bundle."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from anomalyd.errors import ConfigError
from anomalyd.pipeline.finding import Contrast
from anomalyd.pipeline.train.calibrate import MIN_SCANS, calibrate_bundle
from anomalyd.pipeline.train.cohort import find_scans, split_by_subject
from anomalyd.pipeline.train.cohort_file import Cohort, load_cohort
from anomalyd.pipeline.train.export import export_bundle
from anomalyd.pipeline.train.fit import OnProgress, Progress, check_device, fit
from anomalyd.pipeline.train.people import names_of
from anomalyd.pipeline.train.prepare import prepare_cohort
from anomalyd.pipeline.train.recipe import RECIPES, Preset, Recipe

COHORT = "cohort.npz"
DEFAULT_SEED = 20240

OnSkip = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be trained, from what.

    data: a folder of scans, or a file of prepared ones. seed, contrast: None takes those of prepared scans, else
    DEFAULT_SEED and T1w. width: of the published network, None as published.
    """

    data: Path
    out: Path
    preset: Preset = "compact"
    steps: int | None = None
    width: int | None = None
    device: str = "cpu"
    seed: int | None = None
    contrast: Contrast | None = None
    exclude_subject_prefixes: tuple[str, ...] = ()
    resume_from: Path | None = None

    @property
    def work(self) -> Path:
        """Where prepared scans, checkpoints and curves lie."""
        return self.out.with_name(self.out.name + ".work")

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


def train_bundle(
    order: Order,
    on_progress: OnProgress = lambda _: None,
    on_skip: OnSkip = lambda _what, _why: None,
) -> TrainReport:
    """A bundle at order.out; the same order given again goes on where it was stopped, also with more steps.

    on_skip(what, why) is called for each scan that is not used. Raises ConfigError for an order that cannot be carried
    out: unknown preset, device that is not there, too few people, an `out` that is no bundle.
    """
    recipe = order.recipe
    check_device(order.device)
    cohort = prepared(order, on_progress, on_skip)
    seed = _seed(order, cohort)
    trainee = fit(
        cohort, recipe, order.work, seed=seed, device=order.device, on_progress=on_progress,
        resume_from=order.resume_from,
    )  # fmt: skip
    on_progress(Progress("statistics", 0, 1))
    export_bundle(order.out, cohort, recipe, trainee, contrast=cohort.contrast, seed=seed, device=order.device)
    trained, ours = names_of(trainee.people), {scan.subject for scan in cohort.train_scans}
    held = {scan.subject for scan in cohort.held_out_scans}
    warnings = []
    if held & trained:
        text = (
            f"{len(held & trained)} people that were held out trained the weights it began from: they count as trained"
        )
        warnings.append(text)
    if order.data.is_file():
        warnings.append(f"not calibrated, there are no scans here: run `anomalyd calibrate {order.out} HEALTHY`")
    elif len(held - trained) < MIN_SCANS:
        few = f"not calibrated: {len(held - trained)} people are held out, {MIN_SCANS} are needed"
        warnings.append(f"{few}; run `anomalyd calibrate {order.out} HEALTHY` on other scans")
    else:
        calibrate_bundle(
            order.out, order.data, device=order.device,
            on_progress=lambda done, of: on_progress(Progress("calibration", done, of)),
        )  # fmt: skip
    return TrainReport(
        order.out, trainee.step, len(trained | ours), len(held - trained), cohort.skipped, trainee.loss, tuple(warnings)
    )


def prepared(
    order: Order,
    on_progress: OnProgress = lambda _: None,
    on_skip: OnSkip = lambda _what, _why: None,
) -> Cohort:
    """The scans made ready, from the file that was made of them before, or made now and kept in `order.work`."""
    if order.data.is_file():
        return _taken_along(order)
    recipe, contrast = order.recipe, order.contrast or Contrast.T1W
    on_progress(Progress("looking at scans", 0, 1))
    found = find_scans(order.data, contrast, order.exclude_subject_prefixes)
    split = split_by_subject(found.scans, DEFAULT_SEED if order.seed is None else order.seed, found.skipped)
    return prepare_cohort(
        split, order.work / COHORT, recipe.box_shape, lambda done, of, what: on_progress(Progress(what, done, of)),
        contrast=contrast, preparation=recipe.preparation, on_skip=on_skip,
    )  # fmt: skip


def _taken_along(order: Order) -> Cohort:
    """The cohort of a file; raises ConfigError where it is not what the order needs."""
    cohort, recipe = load_cohort(order.data), order.recipe
    if order.contrast not in (None, cohort.contrast):
        raise ConfigError(f"{order.data} holds {cohort.contrast} scans, {order.contrast} was asked for")
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
