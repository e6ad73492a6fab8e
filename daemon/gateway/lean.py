"""Keeps out of the gateway's process what only pixels and downloads need.

pydicom loads numpy, Pillow, the codecs and requests where they are installed: 22 MB and half a second that a door
which decodes nothing has no use for. pydicom works without them.
"""

import sys
from typing import Final

NOT_NEEDED: Final = ("numpy", "PIL", "requests", "tqdm", "pylibjpeg", "libjpeg", "openjpeg", "rle", "jpeg_ls")


def keep_out_pixel_libraries() -> None:
    """Makes the import of each fail from now on, unless it is loaded already; before pydicom is imported."""
    for name in NOT_NEEDED:
        # None says "not to be had" to the import system (Python reference, 5.3.1)
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # typeshed knows no None there
