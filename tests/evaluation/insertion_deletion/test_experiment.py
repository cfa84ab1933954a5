"""The insertion and deletion games as an experiment: its table holds the protocol's curves."""

import json

import numpy as np
import pytest
import torch
from stand_ins import Layered, finished, small_profile

from perceptual_lib import InputError, load_classifier
from perceptual_lib.evaluation.insertion_deletion.experiment import InsertionDeletion
from perceptual_lib.evaluation.insertion_deletion.protocol import impulse_blur, insertion_deletion
from perceptual_lib.evaluation.insertion_deletion.table import single_table
from perceptual_lib.evaluation.profile import Profile

STEP = 12544  # a quarter of 224 x 224


def games(**changes) -> Profile:
    section = {
        "pictures": 5,
        "methods": ["gradient", "no_perceptual", "perceptual"],
        "sigmas": {"perceptual": [0.0, 5.0]},
        "selection": 2,
        "step": STEP,
    }
    return small_profile(insertion_deletion=section | changes)


def test_the_curves_are_the_protocols(tmp_path, of_profiles) -> None:
    experiment = finished(InsertionDeletion, tmp_path, games())
    classifier = load_classifier(Layered())
    images = classifier.preprocess(of_profiles[:5])
    targets = classifier(images).argmax(1)
    maps = torch.from_numpy(np.stack(list(experiment.maps("perceptual").values())))
    blurred = torch.stack([impulse_blur(maps, sigma) for sigma in (0.0, 5.0)], 1)
    expected = insertion_deletion(classifier, images, blurred, targets, step=STEP).curves.numpy()
    own = experiment.table[experiment.table.method == "perceptual"]
    assert own.photograph.tolist() == [name for name in "01234" for _ in range(2)]
    assert own.sigma.tolist() == [0.0, 5.0] * 5 and (own.failure == "").all()
    for game, name in enumerate(("insertion", "deletion")):
        curves = np.stack(own[name].to_list()).reshape(5, 2, -1)
        assert curves.shape[2] == 5 and np.allclose(curves, expected[:, :, game], atol=1e-4)


def test_a_step_that_does_not_divide_the_pixels(tmp_path, of_profiles) -> None:
    """The areas of tables would give a last step that is shorter too much weight."""
    with pytest.raises(
        InputError, match="step is 1000, which does not divide the 224 x 224 pixels .* 896 does, 4 rows"
    ):
        finished(InsertionDeletion, tmp_path, games(step=1000))


def test_roles_of_the_games(tmp_path, of_profiles) -> None:
    table = finished(
        InsertionDeletion, tmp_path, games(ranges=2, range_sigmas=[0.0], sweep=[2.0, 9.0], swept=3, single=3)
    ).table
    assert table.columns.tolist() == list(InsertionDeletion.columns)
    counts = table.groupby(["role", "method"]).size().to_dict()
    assert counts == {
        ("table", "gradient"): 5,
        ("table", "no_perceptual"): 5,
        ("table", "perceptual"): 2 * 5,
        ("range", "perceptual"): 3 * 2,
        ("sweep", "perceptual"): 2 * 3,
        **{("single", method): count for method, count in (("gradient", 3), ("no_perceptual", 3), ("perceptual", 6))},
    }
    assert (table.single_grey.notna() == (table.role == "single")).all() and table.single_blurred.abs().max() <= 1
    single = table[table.role == "single"]
    assert (single.deletion.str[-1] == single.insertion.str[0]).all()  # one filling
    found = single_table(table)
    assert found.n.to_list() == [3] * 4 and single_table(table[table.role == "table"].iloc[:, :-2]).empty
    means = single[single.sigma == 0].groupby("method").single_grey.mean()
    gain = found.single_grey_difference["no_perceptual", 0.0].value
    assert (
        np.isclose(gain, means.perceptual - means.no_perceptual)
        and found.relevance_difference["perceptual", 5.0] is None
    )
    ranges = table[table.role == "range"]
    assert [json.loads(each)["layers"] for each in ranges.settings.unique()] == ["0-0", "0-1", "1-1"]
    assert set(table.photograph[table.selection]) == {"0", "1"}
    assert set(table.photograph[table.role == "sweep"]) == {"0", "1", "2"}
