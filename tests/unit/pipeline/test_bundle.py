"""A bundle is what its hashes say, or it is refused with the file and both hashes."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from anomalyd.errors import ConfigError
from anomalyd.pipeline.bundle import (
    MODEL_CARD,
    bundle_identity,
    load_bundle,
    read_description,
    seal,
    shipped_bundles,
)
from anomalyd.pipeline.finding import Contrast
from anomalyd.pipeline.train.model_card import licence_of_weights
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
        calibration = load_bundle(path).calibration
        assert all(calibration.of(mode).operating_points for mode in ("normative", "paper"))
        assert {"structure_agreement", "reconstruction_error", "noise"} <= set(calibration.limits)
        assert sum(entry.stat().st_size for entry in path.iterdir()) < 20_000_000


@pytest.mark.parametrize("path", shipped_bundles(), ids=lambda path: path.name)
def test_a_shipped_card_names_every_source_its_terms_and_the_licence_of_the_weights(path: Path) -> None:
    card = (path / MODEL_CARD).read_text(encoding="utf-8")
    training = read_description(path).training
    assert licence_of_weights(training) in card
    for source in training.sources:
        assert f"| {source.source} | {len(source.subjects)} | {source.licence} |" in card
    assert not [name for source in training.sources for name in source.subjects if name.startswith("oas1-")]
    assert training.age_range is not None
    assert "{:.0f} to {:.0f} years".format(*training.age_range) in card


@pytest.mark.parametrize("path", shipped_bundles(), ids=lambda path: path.name)
def test_a_shipped_template_is_a_mean_of_many_and_holds_nothing_but_brain(path: Path) -> None:
    bundle = load_bundle(path)
    people = {name for source in bundle.description.training.sources for name in source.subjects}
    card = (path / MODEL_CARD).read_text(encoding="utf-8")
    averaged = re.search(r"mean of the (\d+) stripped, registered training scans", card)
    assert averaged
    assert min(len(people), int(averaged[1])) >= 20
    brain, mask = bundle.template.brain, bundle.template.mask
    assert not brain.voxels[~mask].any()
    assert 1000.0 < mask.sum() * brain.grid.voxel_volume_mm3 / 1000.0 < 2000.0
    # A head would be bright outside its dark skull: the rim of a brain is not brighter than what lies in it.
    depth_mm = ndimage.distance_transform_edt(mask, sampling=brain.grid.spacing_mm)
    rim, inner = brain.voxels[(depth_mm > 0) & (depth_mm <= 5)], brain.voxels[depth_mm > 10]
    assert np.median(rim) < (1.15 if bundle.model.contrast is Contrast.T1W else 2.0) * np.median(inner)
