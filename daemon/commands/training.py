"""`train`, `import-checkpoint`, `calibrate`, `evaluate`: a bundle from scans or from a network; its worth."""

import shlex
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from anomalyd.daemon.commands.bar import Bar
from anomalyd.daemon.commands.options import ConfigOption
from anomalyd.daemon.logs import quiet_console
from anomalyd.daemon.settings import load_settings
from anomalyd.pipeline.terms import Contrast

EXIT_FAILED = 1
HealthyArgument = Annotated[
    Path, typer.Argument(metavar="DATA", exists=True, file_okay=False, help="Folder of healthy scans (NIfTI, DICOM).")
]


class TrainDevice(StrEnum):
    """Where it is computed."""

    CPU = "cpu"
    CUDA = "cuda"


class TrainPreset(StrEnum):
    """Network and recipe (pipeline/train/recipe.py)."""

    COMPACT = "compact"
    PAPER = "paper"


DeviceOption = Annotated[TrainDevice, typer.Option(help="Where it is computed.")]


def train(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA", exists=True, help="Folder of healthy scans (NIfTI, DICOM), or the cohort.npz made of one."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="BUNDLE", help="The bundle to make; BUNDLE.work keeps the way there.")],
    preset: Annotated[TrainPreset, typer.Option(help="What ships, or what was published.")] = TrainPreset.COMPACT,
    steps: Annotated[int | None, typer.Option(min=1, help="Instead of the preset's.")] = None,
    width: Annotated[int | None, typer.Option(help="Of preset paper's network; 128 as published.")] = None,
    device: DeviceOption = TrainDevice.CPU,
    seed: Annotated[int | None, typer.Option(help="Of everything random; 20240.")] = None,
    contrasts: Annotated[
        list[Contrast] | None,
        typer.Option("--contrast", help="Which scans of DATA; T1w. Repeated: one network, a bundle each in BUNDLE/."),
    ] = None,
    exclude_subjects: Annotated[list[str] | None, typer.Option(metavar="PREFIX", help="Leave out; repeatable.")] = None,
    resume_from: Annotated[
        Path | None,
        typer.Option(
            metavar="WEIGHTS",
            exists=True,
            help="Begin with these: a checkpoint, weights-ema.safetensors or a bundle; later BUNDLE.work counts.",
        ),
    ] = None,
    prepare_only: Annotated[
        bool, typer.Option("--prepare-only", help="Make BUNDLE.work/cohort.npz, then stop.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Train a bundle on healthy scans, split by subject; the same command goes on where it was stopped."""
    del config  # every command takes it; training is steered by its options alone
    quiet_console()
    from anomalyd.pipeline.train.train import Order, prepared, train_bundles

    order = Order(
        data, out, preset=preset.value, steps=steps, width=width, device=device.value, seed=seed,
        contrasts=tuple(contrasts or ()), exclude_subject_prefixes=tuple(exclude_subjects or ()),
        resume_from=resume_from,
    )  # fmt: skip
    with Bar() as bar:
        if prepare_only:
            for cohort in prepared(order, bar.show_training, _print_one_skipped):
                used, held = ({s.subject for s in side} for side in (cohort.train_scans, cohort.held_out_scans))
                cache = order.cache_of(cohort.contrast)
                typer.echo(f"{cache}: {len(used)} people to train on, {len(held)} held out")
            return
        reports = train_bundles(order, bar.show_training, _print_one_skipped, _print_note)
    for made in reports:
        for warning in made.warnings:
            typer.echo(f"warning: {made.bundle.name}: {warning}", err=True)
        people = f"{made.train_subjects} people trained it, {made.held_out_subjects} are held out"
        typer.echo(f"{made.bundle}: {made.steps} steps, loss {made.loss:.4f}; {people}")


def calibrate(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", exists=True, file_okay=False)],
    healthy: HealthyArgument,
    device: DeviceOption = TrainDevice.CPU,
    config: ConfigOption = None,
) -> None:
    """Count a bundle's thresholds anew on healthy scans of this site (5 at least, better 20); nothing else changes."""
    del config
    quiet_console()
    from anomalyd.pipeline.train.calibrate import calibrate_bundle

    with Bar() as bar:
        made = calibrate_bundle(
            bundle, healthy, device=device.value, on_progress=lambda done, of: bar.show("calibration", done, of)
        )
    _print_skipped(made.skipped)
    for warning in made.warnings:
        typer.echo(f"warning: {warning}")
    point = f"threshold {made.threshold:.4g} leaves {made.findings_per_scan:.2f} findings in a healthy scan"
    typer.echo(f"{made.bundle}: {made.scans} scans; {point}")
    crossed = made.cross_validation
    if crossed is not None:
        shares = ", ".join(f"{rate:.0%}: {share:.2%}" for rate, share in crossed.voxel_shares.items())
        typer.echo(
            f"where the scan's {crossed.by} had no part in choosing the threshold: {crossed.findings_per_scan:.2f} "
            f"(worst of {crossed.groups} groups: {crossed.worst_group:.2f}); voxel rates {shares}"
        )


def evaluate(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", exists=True, file_okay=False)],
    images: Annotated[
        Path, typer.Option(metavar="DIR", exists=True, file_okay=False, help="Scans: NIfTI, DICOM folders.")
    ],
    masks: Annotated[
        Path, typer.Option(metavar="DIR", exists=True, file_okay=False, help="Same names; none: healthy.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", file_okay=False, help="For tables and pictures.")],
    device: DeviceOption = TrainDevice.CPU,
    config: ConfigOption = None,
) -> None:
    """Judge a bundle on scans with expert masks and healthy ones, beside the maps that it must beat.

    Cut as the configuration says: pipeline.score, voxel_rate, false_findings_per_scan.
    """
    quiet_console()
    settings = load_settings(config).pipeline.analysis
    from anomalyd.pipeline.train.evaluate import evaluate_bundle

    with Bar() as bar:
        made = evaluate_bundle(
            bundle,
            images,
            masks,
            out,
            device=device.value,
            settings=settings,
            command=shlex.join(
                [
                    *("anomalyd", "evaluate", str(bundle), "--images", str(images), "--masks", str(masks)),
                    *("--out", str(out), "--device", device.value, *(("--config", str(config)) if config else ())),
                ]
            ),
            on_progress=lambda done, of: bar.show("evaluation", done, of),
        )
    _print_skipped(made.skipped)
    typer.echo(made.table.read_text(encoding="utf-8"))
    if not made.scans:
        raise typer.Exit(EXIT_FAILED)


def import_checkpoint(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", exists=True, dir_okay=False)],
    out: Annotated[Path, typer.Option(metavar="BUNDLE", help="The bundle to make, or to replace.")],
    contrast: Annotated[Contrast, typer.Option(help="What the network was trained on.")] = Contrast.T1W,
    like: Annotated[
        Path | None,
        typer.Option(metavar="BUNDLE", exists=True, file_okay=False, help="Gives the template; else a shipped one."),
    ] = None,
    upright: Annotated[
        bool, typer.Option(help="Training slices lay (front-back, left-right), not as the published loader has them.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Make a bundle of a network trained with the published code (safetensors, .pt or Lightning .ckpt)."""
    del config
    quiet_console()
    from anomalyd.pipeline.train import import_checkpoint as importing

    is_replaced = out.exists() and any(out.iterdir())
    made = importing.import_checkpoint(checkpoint, out, contrast=contrast, like=like, is_transposed=not upright)
    under = f" under {made.prefix!r}" if made.prefix else ""
    typer.echo(f"{made.bundle}: published network of width {made.width}, {made.tensors} tensors{under}")
    if is_replaced:
        typer.echo(f"the bundle that was at {out} is replaced, its calibration with it", err=True)
    typer.echo(
        f"template and brain mask of {made.like}; not calibrated: run `anomalyd calibrate {made.bundle} HEALTHY`"
    )


def insert_lesions(
    healthy: HealthyArgument,
    shapes: Annotated[
        Path, typer.Option(metavar="DIR", exists=True, file_okay=False, help="Lesion masks in MNI space (NIfTI).")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", file_okay=False, help="For images/, masks/, lesions.csv.")],
    contrast: Annotated[Contrast, typer.Option(help="Which scans of DATA; lesions are dark on T1w, else bright.")],
    per_scan: Annotated[int, typer.Option(min=1, help="Lesions in each scan.")] = 3,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 20240,
    subjects: Annotated[list[str] | None, typer.Option(metavar="SUBJECT", help="These alone; repeatable.")] = None,
    exclude_trained: Annotated[
        Path | None, typer.Option(metavar="BUNDLE", exists=True, file_okay=False, help="Not its training subjects.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Put made-up lesions of three strengths into healthy scans: a development set for `evaluate`."""
    del config
    quiet_console()
    from anomalyd.pipeline.train.insert_set import insert_lesions as insert_all

    with Bar() as bar:
        made = insert_all(
            healthy, shapes, out, contrast=contrast, per_scan=per_scan, seed=seed, subjects=tuple(subjects or ()),
            exclude_trained=exclude_trained, on_progress=lambda done, of: bar.show("insertion", done, of),
        )  # fmt: skip
    _print_skipped(made.skipped)
    typer.echo(f"{out}: {made.images} images, {made.lesions} lesions in them")


def _print_note(note: str) -> None:
    typer.echo(note, err=True)


def _print_skipped(skipped: Sequence[tuple[str, str]]) -> None:
    for name, reason in skipped:
        _print_one_skipped(name, reason)


def _print_one_skipped(name: str, reason: str) -> None:
    typer.echo(f"left out: {name}: {reason}", err=True)


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for command in (train, import_checkpoint, calibrate, evaluate, insert_lesions):
        app.command(rich_help_panel="Models")(command)
