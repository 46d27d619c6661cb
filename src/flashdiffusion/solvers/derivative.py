"""The derivative of a physics in a direction, where a difference would not do."""

from collections.abc import Callable

import torch
from torch import Tensor

from flashdiffusion.errors import is_out_of_memory
from flashdiffusion.solvers.problem import Problem


def derivative(problem: Problem, x: Tensor) -> Callable[[Tensor], Tensor] | None:
    """The derivative of `softened` A at images x as a function of a direction; None where autograd has no such form."""
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        residual = problem.soft_residual(at)
        q = torch.zeros_like(residual, requires_grad=True)
        try:
            (pulled,) = torch.autograd.grad(residual, at, q, create_graph=True)
            torch.autograd.grad(pulled, q, at.detach(), retain_graph=True)
        except Exception as error:  # whatever a user's operation raises that has no second derivative, or none at all
            if is_out_of_memory(error):
                raise
            return None
    return lambda direction: torch.autograd.grad(pulled, q, direction, retain_graph=True)[0]
