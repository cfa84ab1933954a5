"""What explorers show on paper: what is chosen at first, as a picture."""

import io
from base64 import b64decode

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

CODED = 0.03  # what coding as a picture changes, on average


def test_the_layers_explorer_shows_the_map_that_is_chosen_blurred(of_experiment) -> None:
    name, layers = of_experiment.photograph, of_experiment.layers
    picture, saliency = of_experiment.panels()
    assert picture.shape == (*of_experiment.about["size"], 3)
    expected = gaussian_filter(of_experiment.maps[f"map/{name}/perceptual/{layers}"].astype(float), of_experiment.sigma)
    assert len(of_experiment.maps) > 1 and np.corrcoef(saliency.ravel(), expected.ravel())[0, 1] > 0.999


def test_the_games_show_the_pixels_that_have_gone_by_the_step(games) -> None:
    picture, *changed = games.panels()
    assert len(changed) == 2
    for each, row in zip(changed, (games.left, games.right), strict=True):
        gone = (each != picture).any(-1)
        assert gone.sum() == pytest.approx(
            games.step * games.experiment.section.step, abs=3
        )  # but what was grey before
        assert (games.steps(games.photograph, row)[gone] <= games.step).all()


@pytest.mark.parametrize(
    "name, kinds",
    [("held", [3, 2]), ("cascade", [3, 2]), ("optimization", [3, 2, 2]), ("points", None)],
)
def test_players_show_the_photograph_and_sheets_of_its_maps(name, kinds, request) -> None:
    player = request.getfixturevalue(name)
    panels = player.panels()
    kinds = kinds or [3] * min(3, len(player.arrays))  # the scenes
    assert [panel.ndim for panel in panels] == kinds
    first = np.asarray(Image.open(io.BytesIO(player.chunk(next(iter(player.arrays)))[1])).convert("RGB")) / 255
    assert np.array_equal(panels[0], first)


def test_the_sheet_is_that_of_the_method_that_is_chosen(cascade, monkeypatch) -> None:
    shown = []
    for method in cascade.about["methods"][:2]:
        monkeypatch.setattr(cascade, "method", method)
        shown.append(cascade.panels()[1])
        sheet = Image.open(io.BytesIO(cascade.chunk(f"maps/{cascade.photograph}/{method}")[1])).convert("L")
        assert np.abs(shown[-1] - np.asarray(sheet) / 255).mean() < CODED
    assert not np.array_equal(*shown)


def test_a_computed_notebook_has_the_still_beside_the_explorer(held) -> None:
    data, _ = held._repr_mimebundle_()
    still = Image.open(io.BytesIO(b64decode(data["image/jpeg"])))
    pixels = np.asarray(still.convert("RGB")).astype(int)
    assert still.width > 1.5 * still.height and 'class="explorer"' in data["text/html"]
    assert (pixels.max((0, 1)) - pixels.min((0, 1)) > 100).all()  # it is not one colour
