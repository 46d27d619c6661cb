"""A tiny recipe that ends by its steps, logs every one of them, and saves a checkpoint at every one."""

from dataclasses import replace

import pytest

from flashdiffusion.training.config import Recipe
from flashdiffusion.training.recipes import get_recipe


@pytest.fixture
def recipe() -> Recipe:
    # The learning rate follows the larger part of time and steps used: here always the steps.
    return replace(get_recipe("tiny"), max_minutes=1e5, checkpoint_minutes=0.0)
