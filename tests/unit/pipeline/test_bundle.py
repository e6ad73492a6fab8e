"""A bundle is what its hashes say, or it is refused with the file and both hashes."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from anomalyd.errors import ConfigError
from anomalyd.pipeline.bundle import bundle_identity, load_bundle, seal, shipped_bundles
from anomalyd.pipeline.finding import Contrast
from tiny_bundle import tiny_bundle


def test_identity_and_loaded_bundle_agree(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "tiny", contrast=Contrast.FLAIR)
    assert bundle_identity(tmp_path / "tiny") == bundle.model
    assert bundle.model.contrast is Contrast.FLAIR
    assert bundle.model.digest == hashlib.sha256((tmp_path / "tiny" / "SHA256SUMS").read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["model.safetensors", "calibration.json", "template.nii.gz", "MODEL_CARD.md"])
def test_a_tampered_file_is_named_with_both_hashes(name: str, tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "tiny")
    path = tmp_path / "tiny" / name
    recorded = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(path.read_bytes() + b" ")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(ConfigError, match=name) as refused:
        load_bundle(tmp_path / "tiny")
    assert recorded in str(refused.value)
    assert found in str(refused.value)


def test_a_missing_file_and_an_unrecorded_one_are_named(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "tiny")
    (tmp_path / "tiny" / "extra.bin").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"extra\.bin not recorded"):
        load_bundle(tmp_path / "tiny")
    (tmp_path / "tiny" / "extra.bin").unlink()
    (tmp_path / "tiny" / "template.nii.gz").unlink()
    with pytest.raises(ConfigError, match=r"template\.nii\.gz missing"):
        load_bundle(tmp_path / "tiny")


def test_a_folder_that_is_no_bundle_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no bundle"):
        load_bundle(tmp_path)


def test_a_wrong_key_in_the_description_is_named(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "tiny")
    description = tmp_path / "tiny" / "bundle.yaml"
    description.write_text(description.read_text(encoding="utf-8") + "shoe_size: 43\n", encoding="utf-8")
    seal(tmp_path / "tiny")
    with pytest.raises(ConfigError, match="shoe_size"):
        load_bundle(tmp_path / "tiny")


def test_a_new_calibration_is_a_new_digest(tmp_path: Path) -> None:
    before = tiny_bundle(tmp_path / "tiny").model.digest
    path = tmp_path / "tiny" / "calibration.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values["note"] = "another"
    path.write_text(json.dumps(values), encoding="utf-8")
    assert seal(tmp_path / "tiny") != before


def test_an_identity_is_read_without_torch_or_simpleitk() -> None:
    code = (
        "import sys; from anomalyd.pipeline.bundle import bundle_identity, shipped_bundles; "
        "print([bundle_identity(p).bundle_id for p in shipped_bundles()]); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'SimpleITK', 'diffusers', 'deepbet')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_the_shipped_bundles_are_whole_and_small() -> None:
    paths = shipped_bundles()
    assert paths
    for path in paths:
        assert load_bundle(path).calibration.of("normative").operating_points
        assert sum(entry.stat().st_size for entry in path.iterdir()) < 20_000_000
