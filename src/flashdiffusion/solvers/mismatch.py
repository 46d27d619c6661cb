"""What an operator differs by from what it is said to be, as blurs of the image: A(x) + Σ w_j (G_j - G_{j+1}) x.

G_0 is the identity, the others are Gaussian blurs of `STDS` pixels. A blur of another width, of any shape that is
symmetric, or a blur that nobody spoke of, is nearly of this form. Brightness is kept.
"""

import torch
from torch import Tensor

from flashdiffusion.physics.base import constant
from flashdiffusion.physics.blur import TRUNCATE, filter_matrix

STDS = (0.7, 1.2, 2.0, 3.2, 5.0)
LEAST_SIDE = int(TRUNCATE * STDS[-1]) + 1  # of images that the widest blur can be applied to
RIDGE = 1e-3  # of the weights, relative to the energy of their blurs
LEAST_DETAIL = 3e-4  # that two blurs of an image differ by, on the [0, 1] scale, to tell anything


def mismatch_of(x: Tensor, missing: Tensor) -> Tensor:
    """Find the weights (B, J) by which the blurs of images x come nearest to what is missing, both (B, C, H, W)."""
    blurs = _differences(x).flatten(2).transpose(0, 1)  # (B, J, n)
    energy = blurs @ blurs.mT
    least = LEAST_DETAIL**2 * x[0].numel()
    ridge = torch.diag_embed(RIDGE * torch.diagonal(energy, dim1=1, dim2=2) + least)
    weights = torch.linalg.solve(energy + ridge, blurs @ missing.flatten(1)[..., None])
    return weights[..., 0]


def mismatched(x: Tensor, weights: Tensor, transposed: bool = False) -> Tensor:
    """Add up the blurs of images x (B, C, H, W) with their weights (B, J), or apply the transpose of that."""
    return torch.einsum("bj,jbchw->bchw", weights.to(x), _differences(x, transposed))


def _differences(x: Tensor, transposed: bool = False) -> Tensor:
    """Take from each blur of x (B, C, H, W) the next wider one, (J, B, C, H, W)."""
    rows, columns = (constant(_matrices, x, side)[:, None, None] for side in x.shape[2:])
    blurred = rows.mT @ x @ columns if transposed else rows @ x @ columns.mT
    levels = torch.cat([x[None], blurred])
    return levels[:-1] - levels[1:]


def _matrices(side: int) -> Tensor:
    return filter_matrix(torch.tensor(STDS), side)
