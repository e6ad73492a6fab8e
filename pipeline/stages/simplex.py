"""OpenSimplex noise in two dimensions, vectorised (METHOD section 2; AnoDDPM's noise for diffusion on brains).

One octave: skew the plane, find the cell, sum four lattice points' max(0, 2 - d^2)^4 * (gradient . offset), divide
by 47. Fields are not normalised: pooled mean -0.01, standard deviation 0.58, range about +-2.2.
"""

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

OCTAVES = 6
PERSISTENCE = 0.8
CELL_PIXELS = 64.0  # of the first octave; halved for each next one

_STRETCH = -0.211324865405187  # (1 / sqrt(3) - 1) / 2
_SQUISH = 0.366025403784439  # (sqrt(3) - 1) / 2
_NORM = 47.0
_GRADIENTS = np.array([(5, 2), (2, 5), (-5, 2), (-2, 5), (5, -2), (2, -5), (-5, -2), (-2, -5)], dtype=np.float64)
_MULTIPLIER, _INCREMENT, _MODULUS = 6364136223846793005, 1442695040888963407, 1 << 64


def noise_field(seed: int, rows: int, columns: int) -> Float32:
    """(rows, columns) float32: a field as it is added to slices, rounded to half precision as published."""
    return simplex_field(seed, rows, columns).astype(np.float16).astype(np.float32)


def simplex_field(seed: int, rows: int, columns: int) -> Float64:
    """(rows, columns) float64: sum over octaves of PERSISTENCE^k noise(column / cell, row / cell) at pixel indices."""
    return simplex_octaves(
        seed, np.arange(columns, dtype=np.float64)[None, :], np.arange(rows, dtype=np.float64)[:, None]
    )


def simplex_octaves(seed: int, x: Float64, y: Float64) -> Float64:
    """The octave sum at pixel coordinates; x and y are broadcast against each other."""
    permutation = permutation_of(seed)
    total = np.zeros(np.broadcast_shapes(x.shape, y.shape))
    cell, weight = CELL_PIXELS, 1.0
    for _ in range(OCTAVES):
        total += weight * simplex_octave(permutation, x / cell, y / cell)
        cell, weight = cell / 2, weight * PERSISTENCE
    return total


def permutation_of(seed: int) -> NDArray[np.uint8]:
    """(256,) the shuffled table of a seed (64-bit linear congruential generator, three warm-up steps)."""
    state = seed % _MODULUS
    for _ in range(3):
        state = (state * _MULTIPLIER + _INCREMENT) % _MODULUS
    source = list(range(256))
    table = np.zeros(256, dtype=np.uint8)
    for k in range(255, -1, -1):
        state = (state * _MULTIPLIER + _INCREMENT) % _MODULUS
        signed = state - _MODULUS if state >= _MODULUS >> 1 else state
        pick = (signed + 31) % (k + 1)
        table[k] = source[pick]
        source[pick] = source[k]
    return table


def simplex_octave(permutation: NDArray[np.uint8], x: Float64, y: Float64) -> Float64:
    """One octave at any coordinates, cell size 1."""
    x, y = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
    stretch = (x + y) * _STRETCH
    cell_x, cell_y = np.floor(x + stretch), np.floor(y + stretch)
    squish = (cell_x + cell_y) * _SQUISH
    cell = (cell_x, cell_y)
    offset = (x - (cell_x + squish), y - (cell_y + squish))
    in_x, in_y = x + stretch - cell_x, y + stretch - cell_y
    total = _corner(permutation, cell, offset, 1, 0) + _corner(permutation, cell, offset, 0, 1)
    near = in_x + in_y <= 1.0
    depth = np.where(near, 1.0 - (in_x + in_y), 2.0 - (in_x + in_y))
    x_side = in_x > in_y
    # The fourth point: beyond the nearer edge, or the corner itself (near: (0,0); far: (1,1)).
    outer = np.where(near, (depth > in_x) | (depth > in_y), (depth < in_x) | (depth < in_y))
    ext_near = (np.where(x_side, 1, -1), np.where(x_side, -1, 1))
    ext_far = (np.where(x_side, 2, 0), np.where(x_side, 0, 2))
    far_x, far_y = np.where(near, ext_near[0], ext_far[0]), np.where(near, ext_near[1], ext_far[1])
    # Opposite corner where the point is not near an edge.
    far_x = np.where(outer, far_x, np.where(near, 1, 0))
    far_y = np.where(outer, far_y, np.where(near, 1, 0))
    own = np.where(near, 0, 1)
    total += _corner(permutation, cell, offset, own, own)
    total += _corner(permutation, cell, offset, far_x, far_y)
    return np.asarray(total / _NORM)


def _corner(
    permutation: NDArray[np.uint8],
    cell: tuple[Float64, Float64],
    offset: tuple[Float64, Float64],
    step_x: int | NDArray[np.int64],
    step_y: int | NDArray[np.int64],
) -> Float64:
    """Contribution of the lattice point that lies (step_x, step_y) from the cell's own."""
    squish = (step_x + step_y) * _SQUISH
    dx, dy = offset[0] - step_x - squish, offset[1] - step_y - squish
    falloff = np.maximum(0.0, 2.0 - dx * dx - dy * dy) ** 4
    lattice_x, lattice_y = (cell[0] + step_x).astype(np.int64), (cell[1] + step_y).astype(np.int64)
    inner = permutation[lattice_x & 255].astype(np.int64)
    slot = (permutation[(inner + lattice_y) & 255] & 14) >> 1
    gradient = _GRADIENTS[slot]
    return np.asarray(falloff * (gradient[..., 0] * dx + gradient[..., 1] * dy))
