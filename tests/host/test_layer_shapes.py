"""The shapes for which cutting to a rank is checked are all that these models have."""

from __future__ import annotations

import math

import pytest
import torch
from meta_models import meta_model

from tools.layer_shapes import ALL


@pytest.mark.parametrize("family", ["SD15", "SDXL", "Flux"])
def test_every_matrix_and_convolution_of_the_family_is_among_them(family):
    with torch.no_grad():
        weights = meta_model(family).diffusion_model.state_dict()
    shapes = {(w.shape[0], math.prod(w.shape[1:])) for w in weights.values() if w.dim() > 1}
    assert shapes <= set(ALL)
