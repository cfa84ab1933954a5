"""Sanity checks as an experiment: its table holds what the protocol says when it is called by hand."""

import numpy as np
import pytest
import torch
from stand_ins import Layered, finished, small_profile

from perceptual_lib import explain, load_classifier
from perceptual_lib.evaluation.profile import Profile
from perceptual_lib.evaluation.randomization.experiment import Randomization
from perceptual_lib.evaluation.randomization.protocol import cascade, rank_correlation, structural_similarity


def sanity(**changes) -> Profile:
    section = {"pictures": 4, "methods": ["gradient", "perceptual"], "seeds": 2, "selection": 1}
    return small_profile(randomization=section | changes)


@pytest.mark.usefixtures("of_layered")
def test_the_likeness_is_the_protocols(tmp_path, of_profiles) -> None:
    experiment = finished(Randomization, tmp_path, sanity())
    classifier = load_classifier(Layered())
    images = classifier.preprocess(of_profiles[:4])
    targets = classifier(images).argmax(1)
    table = experiment.table
    layers = ["", *experiment.layers]
    assert layers == ["", "6", "2", "0"] and len(table) == 2 * 2 * 4 * len(layers)
    for seed in (0, 1):
        networks = [classifier, *(copy for _, copy in cascade(classifier, fresh=Layered(1 + seed)))]
        maps = [explain(network, images, targets, method="gradient") for network in networks]
        own = table[(table.method == "gradient") & (table.seed == seed)]
        for stage, (layer, later) in enumerate(zip(layers, maps, strict=True)):
            lines = own[own.stage == stage]
            assert lines.photograph.tolist() == list("0123") and (lines.layer == layer).all()
            assert np.allclose(lines.correlation, rank_correlation(maps[0], later), atol=1e-4)
            assert np.allclose(lines.ssim, structural_similarity(maps[0], later), atol=1e-4)
            for line, saliency, picture in zip(lines.itertuples(), later**2, experiment.pictures, strict=True):
                mask = torch.from_numpy(picture.box_mask(224, 224))
                assert line.inside == pytest.approx(float(saliency[mask].sum() / saliency.sum()), abs=1e-3)
                assert line.area == pytest.approx(float(mask.float().mean()), abs=1e-6)
        assert experiment.maps("gradient", seed=seed)["0"].shape == (len(layers), 224, 224)
    experiment.table = table.assign(seconds=table.seed)
    assert experiment.seconds("gradient") == 0.5  # a map of each seed
    last = table[(table.stage == 3) & (table.method == "gradient")].pivot(
        index="photograph", columns="seed", values="correlation"
    )
    assert not np.allclose(last[0], last[1]) and set(table.photograph[table.selection]) == {"0"}
    assert np.allclose(table[table.stage == 0][["correlation", "ssim"]], 1)
