"""How a network is trained, by preset."""

from dataclasses import dataclass, field
from typing import Literal

from anomalyd.pipeline.bundle import GateSettings, NetworkSettings, ReconstructionSettings, ScoreSettings
from anomalyd.pipeline.terms import Contrast
from anomalyd.pipeline.train.augment import Variety

Preset = Literal["compact", "paper"]
Preparation = Literal["standard", "published"]
"""standard: a box from the vertex down, Nyul's landmarks. published: a box around the brain's middle, the 1st and 99th
percentile on 0 and 1 and the rest clipped (METHOD section 1)."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is trained; bundle.yaml keeps it.

    sampling: varied slices: any slices with brain, varied and corrupted in two dimensions, noise of their own; volumes:
    as published, each volume once per epoch, one slice of each, one noise field for the whole batch.
    """

    network: NetworkSettings
    reconstruction: ReconstructionSettings
    score: ScoreSettings | None
    """None: what SCORES has for the contrast."""
    box_shape: tuple[int, int, int]
    steps: int
    batch: int = 8
    learning_rate: float = 5e-4
    warm_up: int = 200
    last_share: float = 0.02
    """Learning rate at the last step over the highest."""
    ema: float = 0.999
    """0: no average, the bundle gets the weights of the last step."""
    clip: float | None = 1.0
    """Largest norm of the gradient."""
    weight_decay: float = 1e-4
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    timesteps: tuple[int, int] = (50, 850)
    """Drawn evenly: the first, and one past the last."""
    preparation: Preparation = "standard"
    sampling: Literal["varied slices", "volumes"] = "varied slices"
    variety: Variety | None = field(default_factory=Variety)
    """None: slices as they are, or, with volumes, the published augmentation (augment_volume)."""
    corrupt_share: float = 0.5
    """Of slices that get made-up lesions which the target does not have."""
    input_noise: float = 0.025
    """Largest standard deviation of white noise in the input alone."""
    noise_tiles: int = 12
    """Large fields that noise is cropped from; unused with volumes, which get a field of their own in each step."""
    save_every: int = 250
    report_every: int = 50
    picture_every: int = 2000

    def score_of(self, contrast: Contrast) -> ScoreSettings:
        """How a bundle of the contrast scores."""
        return self.score or SCORES[contrast]


# docs/decisions/0090. T1w: chosen on made-up lesions in people who never trained. T2w and FLAIR: on the one real case
# that there is of each, where the brighter a contrast shows lesions, the more the image itself says.
SCORES: dict[Contrast, ScoreSettings] = {
    Contrast.T1W: ScoreSettings(
        mode="normative",
        weights={
            "ssim": 0.5, "residual": 0.5, "intensity": 1.0, "intensity_asymmetry": 0.5, "residual_asymmetry": 0.5,
        },
        brighter=0.5,
        blur_voxels=1.0,
    ),
    Contrast.T2W: ScoreSettings(
        mode="normative",
        weights={
            "ssim": 0.3, "residual": 0.3, "intensity": 1.0, "intensity_asymmetry": 0.3, "residual_asymmetry": 0.5,
        },
        darker=0.5,
        blur_voxels=1.0,
    ),
    Contrast.FLAIR: ScoreSettings(
        mode="normative",
        weights={"residual": 0.3, "intensity": 1.0, "residual_asymmetry": 0.3},
        darker=0.3,
        smooth_voxels=0.3,
    ),
}  # fmt: skip
SHARES = {"T1w": 2, "synthetic": 1, "real": 4}
"""How often slices are drawn when contrasts are trained together: T1w scans, images made of them, real ones."""


def gates_of(contrast: Contrast) -> GateSettings:
    """T2w scans of different makes resemble each other, and so their template, less than those of other contrasts."""
    return GateSettings(similarity=0.5) if contrast is Contrast.T2W else GateSettings()


RECIPES: dict[Preset, Recipe] = {
    "compact": Recipe(
        NetworkSettings(),
        ReconstructionSettings(timesteps=(399, 499, 599, 699), fields_per_timestep=2),
        None,
        (64, 96, 80),
        60_000,
    ),
    # METHOD section 2: what the published code does by default. 1600 epochs of 11 steps over its 358 volumes.
    "paper": Recipe(
        NetworkSettings(architecture="published", model_channels=128),
        ReconstructionSettings(timesteps=(499,), fields_per_timestep=1),
        ScoreSettings(mode="paper"),
        (50, 96, 96),
        17_600,
        batch=32,
        learning_rate=1e-4,
        warm_up=0,
        last_share=1.0,
        ema=0.0,
        clip=None,
        weight_decay=0.0,
        precision="float32",
        timesteps=(0, 1000),
        preparation="published",
        sampling="volumes",
        variety=None,
        corrupt_share=0.0,
        input_noise=0.0,
        noise_tiles=0,
        save_every=100,
        report_every=10,
    ),
}
