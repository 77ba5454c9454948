"""Half velocities of a given warp: the targets of supervised registration.

The paper computes them "using an iterative approach" from CAT12's fields. Here, fixed-point iteration finds the
stationary velocity V with ``exp(V) = phi``: the small displacement that remains of phi after exp(-V) is added to V (the
first term of Baker-Campbell-Hausdorff, as in Bossa et al. 2007, doi:10.1007/978-3-540-75757-3_81). The halves are V/2
forward and -V/2 backward.
"""

from __future__ import annotations

import torch

from vbmstat.preproc.networks.symnet import Velocities, exponentiate, pull

_N_ITERATIONS = 10


def find_velocities(displacement: torch.Tensor, n_iterations: int = _N_ITERATIONS) -> Velocities:
    """Half velocities of a warp.

    Parameters
    ----------
    displacement : Tensor, (B, 3, X, Y, Z), voxels
        Displacement of a diffeomorphism, template voxel -> scan voxel.
    n_iterations : int
        More iterations reduce the error down to that of interpolation.

    Returns
    -------
    Velocities
    """
    velocity = torch.zeros_like(displacement)
    for _ in range(n_iterations):
        back = exponentiate(-velocity)
        velocity = velocity + back + pull(displacement, back)  # phi(exp(-V)(x)) - x
    return Velocities(velocity / 2, -velocity / 2)
