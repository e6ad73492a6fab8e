"""What a bundle's files say, and the proof that they are what was recorded: loads neither torch nor SimpleITK.

bundle.yaml, model.safetensors, template.nii.gz, brain-mask.nii.gz, calibration.json, MODEL_CARD.md, normative.nii.gz
where used, and SHA256SUMS over all of them (as `sha256sum` writes it); the bundle's digest is the SHA-256 of that file.
"""

import hashlib
import json
import math
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from anomalyd.errors import Broken, ConfigError
from anomalyd.ids import Digest
from anomalyd.pipeline.finding import Contrast, Model
from anomalyd.pipeline.terms import ScoreMode
from anomalyd.pipeline.volume import Grid

DESCRIPTION = "bundle.yaml"
WEIGHTS = "model.safetensors"
TEMPLATE = "template.nii.gz"
BRAIN_MASK = "brain-mask.nii.gz"
CALIBRATION = "calibration.json"
NORMATIVE = "normative.nii.gz"
MODEL_CARD = "MODEL_CARD.md"
SUMS = "SHA256SUMS"
REQUIRED = (DESCRIPTION, WEIGHTS, TEMPLATE, BRAIN_MASK, CALIBRATION, MODEL_CARD)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BoxSettings(_Part):
    """The analysed box in template space, on patient axes (LPS)."""

    shape: tuple[int, int, int]
    """Slices (to the head), rows (to the back), columns (to the patient's left)."""
    spacing_mm: float
    first_lps_mm: tuple[float, float, float]

    @property
    def grid(self) -> Grid:
        """The box as a grid."""
        matrix = np.zeros((4, 4))
        matrix[2, 0] = matrix[1, 1] = matrix[0, 2] = self.spacing_mm
        matrix[:3, 3] = self.first_lps_mm
        matrix[3, 3] = 1.0
        return Grid(self.shape, matrix)


class NetworkSettings(_Part):
    """A network that predicts the clean slice.

    compact: diffusers UNet2DModel between pixel_unshuffle and pixel_shuffle. published: the paper's, described by
    model_channels and transposed alone.
    """

    architecture: Literal["compact", "published"] = "compact"
    model_channels: Annotated[int, Field(gt=0, multiple_of=32)] = 128
    transposed: bool = False
    """Slices go into the network as (column, row), as the published loader lays them."""
    unshuffle: int = 2
    widths: tuple[int, ...] = (32, 64, 128)
    layers_per_block: int = 1
    norm_groups: int = 8

    @model_serializer(mode="wrap")
    def _of_its_architecture(self, write_all: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Only the keys that describe this architecture; a compact network is written as it always was."""
        published = ("architecture", "model_channels", "transposed")
        everything: dict[str, object] = write_all(self)
        return {
            name: value
            for name, value in everything.items()
            if (name in published) == (self.architecture == "published")
        }


class ReconstructionSettings(_Part):
    """Noise levels (index 0..999 of the squaredcos_cap_v2 schedule), each with its own fields; all are averaged."""

    timesteps: tuple[Annotated[int, Field(ge=0, le=999)], ...] = (499,)
    fields_per_timestep: Annotated[int, Field(ge=1)] = 4

    @property
    def levels(self) -> tuple[int, ...]:
        """The noise level of each field, in the order of their seeds."""
        return tuple(level for level in self.timesteps for _ in range(self.fields_per_timestep))


class ScoreSettings(_Part):
    """paper: SSIM-ens, eroded, median (METHOD section 3). normative: z-scores against healthy scans, weighted sum."""

    mode: ScoreMode = "paper"
    """What is cut unless `pipeline.score` says otherwise."""
    weights: dict[str, float] = Field(default_factory=dict)
    """Weight of each normative component; keys are the components of normative.nii.gz, in its order."""
    darker: float = 1.0
    brighter: float = 1.0
    """How much a signed component counts below and above the healthy mean."""
    smooth_voxels: float = 1.0
    """Gaussian sigma of each component."""
    blur_voxels: float = 0.0
    """Gaussian sigma of the sum."""
    erode_voxels: int = 1


class HistogramSettings(_Part):
    """Where the percentiles of a brain's intensities are laid.

    standard: None lays the first and last percentile on 0 and 1, straight between and clamped outside, as published.
    """

    percentiles: tuple[float, ...]
    standard: tuple[float, ...] | None


class GateSettings(_Part):
    """Outside of these a scan is withheld."""

    brain_ml: tuple[float, float] = (750.0, 2300.0)
    similarity: float = 0.60
    coverage: float = 0.80
    scale: tuple[float, float] = (0.5, 1.9)


class SourceFacts(_Part):
    """Where training scans came from."""

    source: str
    licence: str
    subjects: tuple[str, ...]


class TrainingFacts(_Part):
    """How the weights were made."""

    seed: int
    steps: int
    recipe: dict[str, object]
    held_out_subjects: tuple[str, ...]
    age_range: tuple[float, float] | None
    sources: tuple[SourceFacts, ...]


class BundleDescription(_Part):
    """bundle.yaml."""

    format: Literal[1] = 1
    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")]
    contrast: Contrast
    box: BoxSettings
    network: NetworkSettings
    reconstruction: ReconstructionSettings
    score: ScoreSettings
    histogram: HistogramSettings
    gates: GateSettings
    training: TrainingFacts


class OperatingPoint(_Part):
    """A threshold, what was counted with it on healthy scans, and so what it stands for."""

    threshold: float
    findings_per_scan: float
    """Mean number of components in a healthy scan."""


class VoxelRate(_Part):
    """A threshold that this share of healthy brain voxels reaches."""

    rate: float
    threshold: float


class CrossValidation(_Part):
    """What cuts let through in scans that had no part in choosing them: each group is cut where the others say.

    findings_per_scan: mean over scans at the operating point for allowed_findings; worst_group: that group's mean.
    voxel_shares: by voxel rate, the mean share of brain voxels that really reached its threshold.
    """

    by: Literal["site", "subject"]
    groups: int
    allowed_findings: float
    findings_per_scan: float
    worst_group: float
    voxel_shares: dict[float, float]


class ModeCalibration(_Part):
    """Thresholds and scan scores of one score mode. operating_points: rising threshold; scan_scores: rising."""

    operating_points: tuple[OperatingPoint, ...]
    voxel_rates: tuple[VoxelRate, ...]
    scan_scores: tuple[float, ...]
    cross_validation: CrossValidation | None = None

    def threshold_at(self, rate: float) -> float | None:
        """What this share of healthy voxels reaches; None where it was not counted."""
        return next((entry.threshold for entry in self.voxel_rates if math.isclose(entry.rate, rate)), None)


class Limit(_Part):
    """One number of healthy scans (pipeline/stages/limits.py), and where a scan's is warned about or withheld.

    spread: robust standard deviation. warn, withhold: (least, greatest) value, None for no limit.
    """

    median: float
    spread: float
    warn: tuple[float | None, float | None]
    withhold: tuple[float | None, float | None]


class Calibration(_Part):
    """calibration.json: what was counted on healthy scans with the very analysis that patients get, by score mode."""

    format: Literal[2] = 2
    scans: int
    trained_scans: int = 0
    """How many of them are of people who trained the network: it knows them better than others."""
    subjects: tuple[str, ...]
    note: str
    modes: dict[ScoreMode, ModeCalibration]
    limits: dict[str, Limit] = Field(default_factory=dict)

    def of(self, mode: ScoreMode) -> ModeCalibration:
        """What was counted for a mode; raises ConfigError where it was not calibrated."""
        if mode not in self.modes:
            known = ", ".join(self.modes) or "nothing yet"
            raise ConfigError(
                f"the score {mode} is not calibrated in this bundle (calibrated: {known}): run `anomalyd calibrate` on "
                "healthy scans, or leave pipeline.score out"
            )
        return self.modes[mode]


def bundle_identity(path: Path) -> Model:
    """Id, digest and contrast of a bundle, every file checked; light (no torch). Raises as load_bundle."""
    digest = checked_digest(path)
    description = read_description(path)
    return Model(description.id, digest, description.contrast)


def shipped_bundles() -> tuple[Path, ...]:
    """The bundles that come with the package."""
    root = Path(str(resources.files("anomalyd.pipeline"))) / "bundles"
    return tuple(sorted(path.parent for path in root.glob(f"*/{DESCRIPTION}")))


def read_description(path: Path) -> BundleDescription:
    """bundle.yaml; raises ConfigError where it is absent or does not hold what it must."""
    try:
        text = (path / DESCRIPTION).read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"{path} is no bundle: {DESCRIPTION} cannot be read ({exc.strerror})") from exc
    try:
        return BundleDescription.model_validate(yaml.safe_load(text))
    except (ValidationError, yaml.YAMLError) as exc:
        raise ConfigError(f"{path / DESCRIPTION} cannot be used: {exc}") from exc


def read_calibration(path: Path, mode: ScoreMode) -> Calibration:
    """calibration.json; raises Broken where it does not hold what it must.

    mode: the description's, which a file of format 1 (one unnamed mode, no `format`) is the calibration of.
    """
    try:
        content = json.loads((path / CALIBRATION).read_text(encoding="utf-8"))
        if isinstance(content, dict) and "format" not in content:
            only = {name: content.pop(name) for name in ModeCalibration.model_fields if name in content}
            content["modes"] = {mode: only}
        return Calibration.model_validate(content)
    except ValueError as exc:
        raise Broken(f"{path / CALIBRATION} cannot be used: {exc}") from exc


def checked_digest(path: Path) -> Digest:
    """Digest of a bundle whose files are what SHA256SUMS says; raises ConfigError (both hashes in the text)."""
    try:
        sums = (path / SUMS).read_bytes()
    except OSError as exc:
        raise ConfigError(f"{path} is no bundle: {SUMS} cannot be read ({exc.strerror})") from exc
    recorded = dict(_parsed(path, sums))
    present = {entry.name for entry in path.iterdir() if entry.is_file() and entry.name != SUMS}
    absent = sorted((set(recorded) | set(REQUIRED)) - present)
    if absent:
        raise ConfigError(f"bundle {path.name}: {', '.join(absent)} missing; install the bundle again")
    unknown = sorted(present - set(recorded))
    if unknown:
        raise ConfigError(f"bundle {path.name}: {', '.join(unknown)} not recorded in {SUMS}; install the bundle again")
    for name, expected in recorded.items():
        found = hashlib.sha256((path / name).read_bytes()).hexdigest()
        if found != expected:
            raise ConfigError(
                f"bundle {path.name}: {name} has SHA-256 {found}, {SUMS} says {expected}; install the bundle again"
            )
    return Digest(hashlib.sha256(sums).hexdigest())


def seal(path: Path) -> Digest:
    """Writes SHA256SUMS over the files that are there now; the new digest."""
    names = sorted(entry.name for entry in path.iterdir() if entry.is_file() and entry.name != SUMS)
    lines = [f"{hashlib.sha256((path / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    fresh = path / (SUMS + ".new")
    fresh.write_text("".join(lines), encoding="ascii")
    fresh.replace(path / SUMS)
    return checked_digest(path)


def _parsed(path: Path, sums: bytes) -> list[tuple[str, str]]:
    """(name, hash) of each line of SHA256SUMS; a name with a folder in it is refused."""
    pairs = []
    for line in sums.decode("ascii", errors="replace").splitlines():
        expected, _, name = line.partition("  ")
        if not name or "/" in name or len(expected) != hashlib.sha256().digest_size * 2:
            raise ConfigError(
                f"bundle {path.name}: {SUMS} has the line {line!r}, 64 hex digits and a file name are expected"
            )
        pairs.append((name, expected))
    return pairs
