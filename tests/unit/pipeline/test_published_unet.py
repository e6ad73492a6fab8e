"""The published network: its numbers on the oracle's weights, and what it does at any width."""

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from anomalyd.pipeline.bundle import Bundle, NetworkSettings, load_bundle
from anomalyd.pipeline.stages.network import build_network, parameter_count, schedule
from anomalyd.pipeline.stages.published_unet import Attention, PublishedUNet, time_embedding
from anomalyd.pipeline.stages.reconstruct import reconstruct
from anomalyd.pipeline.stages.simplex import noise_field
from anomalyd.pipeline.terms import Contrast
from anomalyd.pipeline.train.import_checkpoint import import_checkpoint
from oracles import Arrays, arrays_of, oracle
from tiny_bundle import tiny_bundle

EXACT = 1.1e-5
"""The oracle's float32 is 1.085e-5 off the same network in float64: its 1.0e-5 is below its own rounding."""
FLOAT32 = 2e-5
"""CPUs round differently (AMD EPYC 0.8e-5, Intel Xeon 1.4e-5): what the oracle states for its UNet."""
WEIGHTS = "reference_unet_ch32_11.safetensors"


@pytest.fixture(scope="module")
def reference() -> PublishedUNet:
    """The oracle's network, built as a bundle's is."""
    network = build_network(NetworkSettings(architecture="published", model_channels=32)).eval()
    network.load_state_dict({name: value.float() for name, value in load_file(oracle(WEIGHTS)).items()})
    assert isinstance(network, PublishedUNet)
    return network


@pytest.fixture(scope="module")
def one_step() -> Arrays:
    return arrays_of("one_step.npz")


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The oracle's network as a bundle, through the command's own way; its slices lie as in the oracle."""
    root = tmp_path_factory.mktemp("imported")
    like = tiny_bundle(root / "like")
    import_checkpoint(oracle(WEIGHTS), root / "imported", contrast=Contrast.T1W, like=like.path, is_transposed=False)
    return load_bundle(root / "imported")


def test_the_networks_output_is_the_published_one(reference: PublishedUNet) -> None:
    io = arrays_of("reference_unet_ch32_11_io.npz")
    timesteps = torch.from_numpy(io["t"])
    assert np.abs(time_embedding(timesteps, 32).numpy() - io["timestep_embedding"]).max() < 1e-6
    with torch.inference_mode():
        predicted = reference(torch.from_numpy(io["x"]), timesteps).numpy()
    assert np.abs(predicted - io["y"]).max() < 2e-5


@pytest.mark.parametrize("timestep", [499, 249])
def test_each_number_of_one_step_is_the_published_one(
    reference: PublishedUNet, one_step: Arrays, timestep: int
) -> None:
    clean = 2 * torch.from_numpy(one_step["x0"]) - 1
    noise = torch.from_numpy(noise_field(1, 96, 96)).reshape(1, 1, 96, 96)
    assert np.array_equal(noise.numpy().ravel(), one_step["noise_f16"].ravel().astype(np.float32))
    timesteps = torch.tensor([timestep])
    noisy = schedule().noisy(clean, noise, timesteps)
    assert np.abs(noisy.numpy() - one_step[f"x_t_{timestep}"]).max() < 1.3e-7
    with torch.inference_mode():
        single = reference(noisy, timesteps)
        predicted = copy.deepcopy(reference).double()(noisy.double(), timesteps)
    assert np.abs(predicted.numpy() - one_step[f"model_output_{timestep}"]).max() < EXACT
    assert np.abs(single.numpy() - one_step[f"model_output_{timestep}"]).max() < FLOAT32
    loss = float((predicted.double() - clean.double()).abs().mean())
    assert loss == pytest.approx(float(one_step[f"loss_l1_{timestep}"]), abs=2.4e-8)


def test_a_bundles_reconstruction_is_the_published_one(imported: Bundle, one_step: Arrays) -> None:
    image = one_step["x0"][0]
    healthy = reconstruct(image, np.ones_like(image, dtype=np.bool_), imported, (1,), "cpu")
    assert np.abs(healthy - one_step["x0_hat_499"][0]).max() < FLOAT32 / 2  # 0..1 instead of -1..1


@pytest.mark.parametrize(("width", "parameters"), [(32, 2_355_873), (64, 9_390_000), (128, 37_510_000)])
def test_it_has_the_published_number_of_tensors_and_parameters(width: int, parameters: int) -> None:
    with torch.device("meta"):
        network = PublishedUNet(width)
    assert len(network.state_dict()) == 312
    assert parameter_count(network) == pytest.approx(parameters, rel=1e-3)


def test_an_untrained_network_gives_exactly_nothing() -> None:
    with torch.inference_mode():
        assert not PublishedUNet(32)(torch.randn(1, 1, 16, 24), torch.tensor([499])).any()


def test_slices_of_a_transposed_network_are_turned_for_it_and_back(reference: PublishedUNet) -> None:
    turned = build_network(NetworkSettings(architecture="published", model_channels=32, transposed=True)).eval()
    turned.load_state_dict(reference.state_dict())
    slices = torch.from_numpy(arrays_of("one_step.npz")["x_t_499"])[:, :, 16:80, 8:88]
    timesteps = torch.tensor([499])
    with torch.inference_mode():
        expected = reference(slices.transpose(2, 3).contiguous(), timesteps).transpose(2, 3)
        assert torch.allclose(turned(slices, timesteps), expected, atol=1e-6)


def test_channels_last_memory_changes_only_the_last_digits(reference: PublishedUNet) -> None:
    slices, timesteps = torch.from_numpy(arrays_of("one_step.npz")["x_t_499"]), torch.tensor([499])
    moved = build_network(NetworkSettings(architecture="published", model_channels=32)).eval()
    moved.load_state_dict(reference.state_dict())
    moved.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this form
    with torch.inference_mode():
        assert torch.allclose(moved(slices, timesteps), reference(slices, timesteps), atol=5e-4)


def test_attention_keeps_the_heads_of_a_wide_network_apart() -> None:
    """At width 128 there are four heads, which the oracle's width 32 cannot tell from one."""
    attention = Attention(256)
    torch.manual_seed(1)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    values = torch.randn(1, 256, 4, 4)
    with torch.inference_mode():
        found = attention(values, values)
        query, key, value = attention.qkv(attention.norm(values.reshape(1, 256, 16)))[0].split(256)
        heads = [
            v @ torch.softmax(q.T @ k / 8.0, dim=-1).T
            for q, k, v in zip(query.split(64), key.split(64), value.split(64), strict=True)
        ]
        expected = values.reshape(1, 256, 16) + attention.proj_out(torch.cat(heads)[None])
    assert torch.allclose(found.reshape(1, 256, 16), expected, atol=1e-5)
