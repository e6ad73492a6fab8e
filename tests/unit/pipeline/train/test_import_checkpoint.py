"""A network trained with the published code becomes a bundle, whatever wraps its weights; nothing in the file runs."""

import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from anomalyd.errors import ConfigError
from anomalyd.pipeline.analyse import Runtime, analyse, judge, place
from anomalyd.pipeline.bundle import Bundle, load_bundle
from anomalyd.pipeline.settings import AnalysisSettings
from anomalyd.pipeline.stages.network import schedule
from anomalyd.pipeline.stages.published_unet import PublishedUNet
from anomalyd.pipeline.terms import Contrast
from anomalyd.pipeline.train.import_checkpoint import import_checkpoint
from anomalyd.pipeline.train.published_weights import read_published_weights
from tiny_bundle import made_up_brain, tiny_bundle

Weights = dict[str, Tensor]


class Configuration:
    """Stands for the OmegaConf objects that the published code keeps in its checkpoints."""

    def __init__(self) -> None:
        self.settings = {"unet_dim": 32}


class Trap:
    """An object whose reading would copy a file."""

    def __init__(self, source: Path, copy: Path) -> None:
        self.paths = (str(source), str(copy))

    def __reduce__(self) -> tuple[Any, ...]:
        return shutil.copyfile, self.paths


@pytest.fixture(scope="module")
def weights() -> Weights:
    torch.manual_seed(11)
    network = PublishedUNet(32)
    for parameter in network.parameters():
        if not parameter.any():  # zero at first: a copy of nothing would prove nothing
            torch.nn.init.normal_(parameter, std=0.02)
    return {name: value.detach() for name, value in network.state_dict().items()}


@pytest.fixture(scope="module")
def like(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("like") / "like")


def lightning(weights: Weights, **more: object) -> dict[str, object]:
    """As pytorch_lightning writes the published LightningModule: names, buffers, configuration, optimiser."""
    state: OrderedDict[str, Tensor] = OrderedDict((f"diffusion.model.{k}", v) for k, v in weights.items())
    state["diffusion.sqrt_alphas_cumprod"] = schedule().signal
    return {
        "epoch": 3,
        "global_step": 1234,
        "state_dict": state,
        "hyper_parameters": {"cfg": Configuration(), "prefix": "fold_1/"},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
        "callbacks": {"ModelCheckpoint": {"best_model_path": Path("last.ckpt")}},
        **more,
    }


def prefixed(weights: Weights, prefix: str) -> Weights:
    return {prefix + name: value for name, value in weights.items()}


def saved(path: Path, content: object) -> Path:
    if path.suffix == ".safetensors":
        assert isinstance(content, dict)
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_published_weights(path)
    return str(caught.value)


def test_a_lightning_checkpoint_of_the_published_code_is_read(weights: Weights, tmp_path: Path) -> None:
    read = read_published_weights(saved(tmp_path / "last.ckpt", lightning(weights)))
    assert (read.width, read.steps, read.prefix) == (32, 1234, "state_dict.diffusion.model.")
    assert read.tensors.keys() == weights.keys()
    assert all(torch.equal(read.tensors[name], value) for name, value in weights.items())


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("prefix", ["", "model.", "module.", "diffusion.model.", "net.module.diffusion.model."])
def test_any_usual_prefix_is_taken_off(weights: Weights, tmp_path: Path, prefix: str, suffix: str) -> None:
    read = read_published_weights(saved(tmp_path / f"weights{suffix}", prefixed(weights, prefix)))
    assert read.prefix == prefix
    assert torch.equal(read.tensors["out.2.bias"], weights["out.2.bias"])


@pytest.mark.parametrize("own", ["", "model."])
@pytest.mark.parametrize("average", ["ema.", "model_ema.", "ema_model.module."])
def test_a_running_average_beside_the_network_is_left_aside(
    weights: Weights, tmp_path: Path, own: str, average: str
) -> None:
    zeros = {name: torch.zeros_like(value) for name, value in weights.items()}
    path = saved(tmp_path / "both.pt", {**prefixed(zeros, average), **prefixed(weights, own)})
    read = read_published_weights(path)
    assert read.prefix == own
    assert torch.equal(read.tensors["out.0.weight"], weights["out.0.weight"])


def test_a_running_average_alone_is_the_network(weights: Weights, tmp_path: Path) -> None:
    assert read_published_weights(saved(tmp_path / "ema.pt", prefixed(weights, "ema."))).prefix == "ema."


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_weights_of_another_precision_become_float32(weights: Weights, tmp_path: Path, dtype: torch.dtype) -> None:
    stored = {name: value.to(dtype) for name, value in weights.items()}
    read = read_published_weights(saved(tmp_path / "half.safetensors", stored))
    assert {value.dtype for value in read.tensors.values()} == {torch.float32}
    assert torch.equal(read.tensors["out.2.weight"], weights["out.2.weight"].to(dtype).float())


def test_nothing_in_a_checkpoint_is_executed(weights: Weights, tmp_path: Path) -> None:
    bait, trace = tmp_path / "bait", tmp_path / "executed"
    bait.touch()
    path = saved(tmp_path / "trap.ckpt", lightning(weights, extra=Trap(bait, trace)))
    read_published_weights(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)  # what an unguarded reader does
    assert trace.exists()


def test_a_whole_pickled_model_is_refused_with_what_to_do(tmp_path: Path) -> None:
    assert "torch.save(model.state_dict(), FILE)" in refusal(saved(tmp_path / "whole.pt", PublishedUNet(32)))


@pytest.mark.parametrize("content", [b"", b"no weights at all, nor a header", b"PK\x03\x04 cut off"])
def test_a_damaged_file_is_refused_in_words(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "damaged.ckpt"
    path.write_bytes(content)
    assert "cannot be read as plain weights" in refusal(path)


def test_each_mismatch_is_named(weights: Weights, tmp_path: Path) -> None:
    wrong = dict(weights)
    for name in ("time_embed.0.bias", "out.0.weight", "out.0.bias", "middle_block.1.norm.bias"):
        del wrong[name]
    wrong["label_emb.weight"] = torch.zeros(3)
    wrong["out.2.weight"] = torch.zeros(2, 32, 3, 3)
    wrong["out.2.bias"] = torch.full((1,), torch.nan)
    text = refusal(saved(tmp_path / "wrong.pt", prefixed(wrong, "model.")))
    assert "4 missing (time_embed.0.bias, middle_block.1.norm.bias, out.0.weight and 1 more)" in text
    assert "1 unexpected (label_emb.weight)" in text
    assert "1 of another shape (out.2.weight is (2, 32, 3, 3) instead of (1, 32, 3, 3))" in text
    assert "1 not finite (out.2.bias)" in text


def test_another_network_is_told_by_its_names(tmp_path: Path) -> None:
    text = refusal(saved(tmp_path / "other.safetensors", {"encoder.conv.weight": torch.zeros(4, 1, 3, 3)}))
    assert "no name ends with input_blocks.0.0.weight; it holds encoder.conv.weight" in text


def test_another_width_than_a_multiple_of_32_is_refused(tmp_path: Path) -> None:
    text = refusal(saved(tmp_path / "narrow.pt", {"input_blocks.0.0.weight": torch.zeros(48, 1, 3, 3)}))
    assert "(48, 1, 3, 3)" in text
    assert "multiple of 32" in text


def test_a_network_of_another_noise_schedule_is_refused(weights: Weights, tmp_path: Path) -> None:
    content = lightning(weights)
    linear = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0).sqrt()
    content["state_dict"]["diffusion.sqrt_alphas_cumprod"] = linear  # type: ignore[index]  # built just above
    assert "another noise schedule" in refusal(saved(tmp_path / "linear.ckpt", content))


def test_an_imported_bundle_loads_and_judges_with_the_papers_settings(
    weights: Weights, like: Bundle, tmp_path: Path
) -> None:
    path = saved(tmp_path / "last.ckpt", lightning(weights))
    made = import_checkpoint(path, tmp_path / "imported", contrast=Contrast.T1W, like=like.path)
    assert (made.width, made.tensors, made.like) == (32, 312, "like")
    bundle = load_bundle(made.bundle)
    description = bundle.description
    assert description.network.model_dump() == {
        "architecture": "published",
        "model_channels": 32,
        "transposed": True,  # as the published loader lays slices
    }
    assert (description.reconstruction.timesteps, description.reconstruction.fields_per_timestep) == ((499,), 1)
    assert description.score.mode == "paper"
    assert bundle.standard_knots is None
    assert bundle.box.shape == (50, 96, 96)
    assert torch.equal(load_file(bundle.weights)["out.2.bias"], weights["out.2.bias"])
    placed = place(made_up_brain(noise=40.0), bundle)
    assert float(placed.normalised.image.max()) == 1.0  # straight from the 1st to the 99th percentile, clamped
    judged = judge(placed, bundle, runtime=Runtime("cpu", 1), seed_text="1.2.3")
    assert len(judged.seeds) == 1
    assert judged.scan_score > 0
    with pytest.raises(ConfigError, match="anomalyd calibrate"):
        analyse(made_up_brain(), bundle, AnalysisSettings(), runtime=Runtime("cpu", 1), seed_text="1.2.3")


def test_the_box_is_centred_on_the_templates_brain(weights: Weights, like: Bundle, tmp_path: Path) -> None:
    path = saved(tmp_path / "weights.pt", weights)
    made = import_checkpoint(path, tmp_path / "imported", contrast=Contrast.T1W, like=like.path)
    box = load_bundle(made.bundle).box
    where = like.template.brain.grid.to_lps(np.argwhere(like.template.mask))
    corners = box.to_lps(np.array([[0, 0, 0], [49, 95, 95]]))
    assert np.allclose(corners.mean(axis=0), (where.min(axis=0) + where.max(axis=0)) / 2)


def test_the_same_checkpoint_makes_the_same_bytes(weights: Weights, like: Bundle, tmp_path: Path) -> None:
    path = saved(tmp_path / "weights.pt", weights)
    for folder in ("first", "second"):
        import_checkpoint(path, tmp_path / folder / "imported", contrast=Contrast.T1W, like=like.path)
    first, second = (load_bundle(tmp_path / folder / "imported") for folder in ("first", "second"))
    assert first.model.digest == second.model.digest


def test_a_bundle_of_another_contrast_gives_no_template(weights: Weights, like: Bundle, tmp_path: Path) -> None:
    path = saved(tmp_path / "weights.pt", weights)
    with pytest.raises(ConfigError, match="is for T1w, T2w is imported"):
        import_checkpoint(path, tmp_path / "imported", contrast=Contrast.T2W, like=like.path)


def test_a_name_that_no_bundle_can_have_is_refused_and_leaves_nothing(
    weights: Weights, like: Bundle, tmp_path: Path
) -> None:
    path = saved(tmp_path / "weights.pt", weights)
    with pytest.raises(ConfigError, match="small letters"):
        import_checkpoint(path, tmp_path / "My Bundle", contrast=Contrast.T1W, like=like.path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.pt"]
