"""Least squares against torch's solver; each image for itself."""

import pytest
import torch

from flashdiffusion.physics import GaussianBlur
from flashdiffusion.physics.least_squares import GREY, least_squares, operator_norm


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


def test_an_image_is_done_when_the_rest_is_noise():
    _, A, adjoint, y = _problem()
    rest = (y - A(torch.full((len(y), 3, 4, 4), GREY, dtype=torch.float64))).square().sum(1)
    target = torch.stack([rest[0] * 2, rest[1] / 10, rest[2] * 0])
    found = least_squares(A, adjoint, y, iterations=40, target=target)
    left = (y - A(found)).square().sum(1)
    assert torch.equal(found[0], torch.full_like(found[0], GREY))
    assert 1e-3 * rest[1] < left[1] <= target[1] and left[2] < 1e-9


def test_near_a_start_it_is_the_regularised_solution():
    matrix, A, adjoint, y = _problem()
    start, weight = torch.zeros(len(y), 48, dtype=torch.float64) + 0.3, torch.tensor([0.5, 2.0, 10.0])
    found = least_squares(A, adjoint, y, 60, start=start.view(-1, 3, 4, 4), proximal=weight)
    for row, own in enumerate(weight.double()):
        normal = matrix.T @ matrix + own * torch.eye(48, dtype=torch.float64)
        expected = torch.linalg.solve(normal, matrix.T @ y[row] + own * start[row])
        torch.testing.assert_close(found[row].flatten(), expected)


def test_the_norm_is_that_of_the_matrix_in_any_unit():
    matrix, A, adjoint, _ = _problem()
    scales = torch.tensor([1.0, 1e4, 1e-4], dtype=torch.float64).view(3, 1)
    like = torch.zeros(3, 3, 4, 4, dtype=torch.float64)
    found = operator_norm(lambda x: scales * A(x), lambda y: adjoint(scales * y), like, iterations=100)
    torch.testing.assert_close(found, scales[:, 0] * torch.linalg.matrix_norm(matrix, 2), rtol=1e-3, atol=0)


def test_steps_end_when_it_is_solved():
    physics = GaussianBlur(0.7)
    y, z = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    early, late = (least_squares(physics.A, physics.A_adjoint, y, n, start=z, proximal=0.2) for n in (30, 300))
    torch.testing.assert_close(late, early, rtol=0, atol=1e-4)


def test_with_a_wrong_adjoint_the_best_iterate_is_kept_and_it_is_said():
    _, A, adjoint, y = _problem()
    start = torch.zeros(len(y), 3, 4, 4, dtype=torch.float64)
    with pytest.warns(UserWarning, match="strayed from the measurements of images .* is A_adjoint the adjoint"):
        found = least_squares(A, lambda r: -adjoint(r), y, 10, start=start)
    assert torch.equal(found, start)  # every step led away
