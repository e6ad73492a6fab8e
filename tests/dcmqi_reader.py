"""The SEG as dcmqi reads it, the library behind 3D Slicer's import: a reader that shares no code with the product."""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name that its documentation uses
from numpy.typing import NDArray


def segment_points(segmentation: bytes, numbers: Iterable[int], folder: Path) -> dict[int, NDArray[np.float64]]:
    """(n, 3) LPS mm of the marked voxels of each segment (ITK images are LPS); the folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "seg.dcm").write_bytes(segmentation)
    program = Path(sys.executable).parent / "segimage2itkimage"  # of the package dcmqi
    files = ["--inputDICOM", str(folder / "seg.dcm"), "--outputDirectory", str(folder), "--outputType", "nii"]
    subprocess.run([program, *files], check=True, capture_output=True)
    return {number: _points(sitk.ReadImage(str(folder / f"{number}.nii"))) for number in numbers}


def _points(image: sitk.Image) -> NDArray[np.float64]:
    marked = np.argwhere(sitk.GetArrayFromImage(image))[:, ::-1]
    steps = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    return np.asarray(np.array(image.GetOrigin()) + marked @ steps.T)
