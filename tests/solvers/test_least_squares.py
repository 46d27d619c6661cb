"""Least squares against torch's solver; each image for itself."""

import torch

from flashdiffusion.solvers.least_squares import GREY, least_squares


def _problem(count: int = 3):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(20, 48, generator=generator, dtype=torch.float64)
    x = torch.rand(count, 3, 4, 4, generator=generator, dtype=torch.float64)

    def A(x):
        return x.flatten(1) @ matrix.T

    def adjoint(y):
        return (y @ matrix).view(-1, 3, 4, 4)

    return matrix, A, adjoint, A(x)


def test_it_is_the_solution_nearest_to_grey():
    matrix, A, adjoint, y = _problem()
    found = least_squares(A, adjoint, y, iterations=40)
    grey = torch.full((len(y), 48), GREY, dtype=torch.float64)
    expected = grey + (torch.linalg.pinv(matrix) @ (y - grey @ matrix.T).T).T
    torch.testing.assert_close(found.flatten(1), expected)


def test_an_image_does_not_depend_on_its_batch():
    _, A, adjoint, y = _problem()
    y[1] *= 1000
    together = least_squares(A, adjoint, y)
    for row in range(len(y)):
        torch.testing.assert_close(together[row : row + 1], least_squares(A, adjoint, y[row : row + 1]))


def test_what_is_measured_exactly_by_grey_stays_finite():
    _, A, adjoint, _ = _problem()
    grey = torch.full((1, 3, 4, 4), GREY, dtype=torch.float64)
    torch.testing.assert_close(least_squares(A, adjoint, A(grey)), grey)
