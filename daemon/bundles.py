"""Which bundles are in force, one for each contrast."""

from collections.abc import Mapping
from pathlib import Path

from anomalyd.errors import ConfigError
from anomalyd.pipeline.bundle_files import bundle_identity, shipped_bundles
from anomalyd.pipeline.finding import Contrast, Model
from anomalyd.pipeline.settings import PipelineSettings


def bundle_paths(settings: PipelineSettings) -> tuple[Path, ...]:
    """The configured bundles, or those that ship with the package."""
    return settings.bundles or shipped_bundles()


def bundles_in_force(settings: PipelineSettings) -> Mapping[Contrast, Model]:
    """Contrast -> model, every file checked, without torch.

    Raises ConfigError where two serve one contrast, a directory is no bundle, or a file was altered.
    """
    found: dict[Contrast, Model] = {}
    for path in bundle_paths(settings):
        model = bundle_identity(path)
        if model.contrast in found:
            raise ConfigError(
                f"pipeline.bundles: {found[model.contrast].bundle_id} and {model.bundle_id} both are for "
                f"{model.contrast}: name one of them"
            )
        found[model.contrast] = model
    return found


def facts_in_force(bundles: Mapping[Contrast, Model], settings: PipelineSettings) -> dict[str, object]:
    """What a role that makes or does jobs says of itself in the audit when it starts."""
    digests = {contrast.value: model.digest for contrast, model in bundles.items()}
    return {"bundles": digests, "settings": settings.analysis.digest}
