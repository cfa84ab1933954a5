"""Where the change goes as an experiment: its table holds what the perturbation's own pixels say."""

import numpy as np
import pytest
import torch
from stand_ins import Layered, finished, small_profile
from torch import nn

from perceptual_lib import load_classifier, perceptual_ball
from perceptual_lib.evaluation import maps
from perceptual_lib.evaluation.change.experiment import Change


def test_changes_are_those_of_the_perturbation(tmp_path, of_profiles) -> None:
    experiment = finished(Change, tmp_path, small_profile(change={"pictures": 4, "selection": 1, "ranges": 2}))
    table = experiment.table
    assert table.groupby(["role", "method"]).size().to_dict() == {
        ("table", "no_perceptual"): 4,
        ("table", "perceptual"): 4,
        ("range", "perceptual"): 3 * 2,
    }
    classifier = load_classifier(Layered())
    own = table[(table.role == "table") & (table.method == "perceptual")]
    result = perceptual_ball(classifier, classifier.preprocess(of_profiles[:4]), **experiment.profile.settings)
    energy = result.delta.square().mean(1)
    masks = np.stack([photograph.box_mask(224, 224) for photograph in of_profiles[:4]])
    inside = (energy * torch.from_numpy(masks)).sum((1, 2)) / energy.sum((1, 2))
    size = 255 * classifier.std.mean() * energy.mean((1, 2)).sqrt()
    assert np.allclose(own.inside, inside, rtol=1e-2) and np.allclose(own["size"], size, rtol=1e-2)
    assert np.allclose(own.margin, result.margin, atol=1e-4) and np.allclose(own.area, masks.mean((1, 2)))
    assert np.allclose(own.margin_before, result.margin_before, atol=1e-4)
    assert own.target.to_list() == [photograph.target for photograph in of_profiles[:4]]


def test_a_single_step_goes_where_the_margin_falls_most(of_profiles) -> None:
    classifier = load_classifier(Layered())
    settings = {"layers": [], "max_iter": 1}
    found = maps.compute(classifier, of_profiles[:3], method="perceptual", settings=settings)
    assert found["cosine"].tolist() == pytest.approx([1] * 3, abs=1e-5)
    inputs = classifier.preprocess(of_profiles[:3])
    changed = inputs + perceptual_ball(classifier, inputs, **settings).delta
    before, after = (nn.Sequential(*list(classifier.network)[:4])(each).flatten(1) for each in (inputs, changed))
    by_factor = (after - before).norm(dim=1) / before.norm(dim=1), (changed - inputs).flatten(1).norm(dim=1)
    growth = by_factor[0] * inputs.flatten(1).norm(dim=1) / by_factor[1]
    assert found["growth"].tolist() == pytest.approx(growth.tolist(), rel=1e-3)  # up to the last activation
