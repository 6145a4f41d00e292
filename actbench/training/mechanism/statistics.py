"""Statistics of the calls of an activation, for each replicate."""

import torch
from jaxtyping import Float
from torch import Tensor

from actbench.records import DORMANT, SATURATED


def site_statistics(
    inputs: Float[Tensor, "replicates batch ..."],
    outputs: Float[Tensor, "replicates batch ..."],
    slopes: Float[Tensor, "replicates batch ..."],
    gradients: Float[Tensor, "replicates batch ..."],
    *,
    axis: int | None,
) -> Float[Tensor, "statistics replicates"]:
    """The statistics of `actbench.records.STATISTICS`, in their order, for one call of an activation.

    They are NaN for a replicate whose inputs or outputs are not finite.

    Args:
        inputs: Of the activation.
        outputs: Of the activation.
        slopes: Of the activation at these inputs.
        gradients: Of each image's own loss by the inputs.
        axis: Of the units, after the axis for replicates: 1 for the one behind the images, -1 for the last. With
            None, dead and dormant units are not known, and their shares are NaN.

    Source:
        For dormant units Sokar et al. (2023), The dormant neuron phenomenon in
        deep reinforcement learning, ICML, arXiv:2302.12902, definition 3.1.
    """
    if inputs.ndim == 2:  # an activation of one number for each image
        inputs, outputs, slopes, gradients = (values.unsqueeze(-1) for values in (inputs, outputs, slopes, gradients))
    units = inputs.ndim - 1 if axis == -1 else 1 + (axis or 1)
    every = tuple(range(1, inputs.ndim))
    within = tuple(dim for dim in every if dim != units)  # images and positions
    size = outputs.abs().mean(within, dtype=torch.float64)
    variance, mean = torch.var_mean(inputs.double(), every, correction=0)
    results = torch.stack(
        [
            (slopes == 0).all(within).double().mean(1),
            (size <= DORMANT * size.mean(1, keepdim=True)).double().mean(1),
            (slopes.float().abs() < SATURATED).double().mean(every),
            (outputs == 0).double().mean(every),
            mean,
            variance.sqrt(),
            gradients.double().square().mean(every).sqrt(),
        ]
    )
    if axis is None:
        results[:2] = torch.nan
    return torch.where(mean.isfinite() & size.isfinite().all(1), results, torch.nan)


def effective_rank(matrices: Float[Tensor, "replicates rows columns"]) -> Float[Tensor, " replicates"]:
    """The exponential of the entropy of each matrix's singular values, divided by their sum.

    It lies between 1, where rows differ by a factor alone, and the smaller side of the
    matrix. It is 0 for a matrix of zeros, and NaN where a value is not finite.

    Source:
        Roy and Vetterli (2007), The effective rank: a measure of effective
        dimensionality, EUSIPCO, 606-610.
    """
    matrices = matrices.double()
    # Eigenvalues of the smaller product are the squares; in double precision that loses nothing that matters here.
    product = matrices @ matrices.mT if matrices.shape[1] < matrices.shape[2] else matrices.mT @ matrices
    finite = product.isfinite().flatten(1).all(1)
    squares = torch.linalg.eigvalsh(torch.where(finite[:, None, None], product, 0))
    singular = squares.clamp(min=0).sqrt()
    total = singular.sum(1, keepdim=True)
    shares = torch.where(total > 0, singular / total, 0)
    rank = torch.where(total[:, 0] > 0, torch.exp(-torch.xlogy(shares, shares).sum(1)), 0)
    return torch.where(finite, rank, torch.nan)
