"""`anomalyd import-checkpoint` tells what it made and what comes next."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from anomalyd.daemon import cli
from anomalyd.errors import ConfigError
from anomalyd.pipeline.bundle import load_bundle
from anomalyd.pipeline.stages.published_unet import PublishedUNet
from tiny_bundle import tiny_bundle


@pytest.mark.parametrize(("flags", "is_transposed"), [([], True), (["--upright"], False)])
def test_a_checkpoint_becomes_a_bundle(tmp_path: Path, flags: list[str], is_transposed: bool) -> None:  # noqa: FBT001 - a case
    like = tiny_bundle(tmp_path / "like").path
    file = tmp_path / "last.ckpt"
    torch.save({"state_dict": {f"diffusion.model.{k}": v for k, v in PublishedUNet(32).state_dict().items()}}, file)
    out = tmp_path / "mine"
    ended = CliRunner().invoke(
        cli.app, ["import-checkpoint", str(file), "--out", str(out), "--like", str(like), *flags]
    )
    assert ended.exit_code == 0, ended.output
    assert "width 32, 312 tensors under 'state_dict.diffusion.model.'" in ended.output
    assert "template and brain mask of like" in ended.output
    assert "anomalyd calibrate" in ended.output
    assert load_bundle(out).description.network.transposed is is_transposed


def test_a_file_that_is_no_published_network_is_the_administrators(tmp_path: Path) -> None:
    file = tmp_path / "other.pt"
    torch.save({"weight": torch.zeros(3)}, file)
    ended = CliRunner().invoke(cli.app, ["import-checkpoint", str(file), "--out", str(tmp_path / "mine")])
    assert isinstance(ended.exception, ConfigError)
    assert "it holds weight" in str(ended.exception)
    assert not (tmp_path / "mine").exists()
