"""How a network is trained, by preset."""

from dataclasses import dataclass
from typing import Literal

from anomalyd.pipeline.bundle import NetworkSettings, ReconstructionSettings, ScoreSettings

Preset = Literal["compact"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is trained; bundle.yaml keeps it."""

    network: NetworkSettings
    reconstruction: ReconstructionSettings
    score: ScoreSettings
    box_shape: tuple[int, int, int]
    steps: int
    batch: int = 8
    learning_rate: float = 5e-4
    warm_up: int = 200
    last_share: float = 0.02
    """Learning rate at the last step over the highest."""
    ema: float = 0.999
    clip: float = 1.0
    weight_decay: float = 1e-4
    timesteps: tuple[int, int] = (50, 850)
    save_every: int = 250
    report_every: int = 50
    noise_tiles: int = 12


RECIPES: dict[Preset, Recipe] = {
    "compact": Recipe(
        NetworkSettings(),
        ReconstructionSettings(timesteps=(499, 599), fields_per_timestep=2),
        ScoreSettings(mode="normative", weights={"ssim": 0.3, "residual": 0.3, "intensity": 1.0}),
        (64, 96, 80),
        60_000,
    )
}
