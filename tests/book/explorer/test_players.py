"""Players of experiments: their numbers are the library's, and what a browser draws of them is, too."""

import numpy as np
import pytest
import torch
from players import CODED, STEP, picture, tile, unpacked

from perceptual_lib import saliency_map
from perceptual_lib.book.explorer import CascadePlayer, InsertionDeletionPlayer, PointingPlayer, player
from perceptual_lib.book.explorer.optimization import kept_steps
from perceptual_lib.book.explorer.player import tiles, visible
from perceptual_lib.core.errors import InputError
from perceptual_lib.core.saliency import gaussian_blur
from perceptual_lib.evaluation.insertion_deletion.protocol import auc, impulse_blur, insertion_deletion
from perceptual_lib.evaluation.pointing.protocol import distances
from perceptual_lib.evaluation.pointing.table import pointing_table
from perceptual_lib.evaluation.publishing import Results
from perceptual_lib.evaluation.randomization.table import randomization_curves


class Watching(torch.nn.Module):
    """Notes what it is asked, in a list that is not its own: what is kept on a network is put back."""

    def __init__(self, seen: list[torch.Tensor]) -> None:
        super().__init__()
        self.note = seen.append

    def forward(self, images):
        self.note(images)
        return images.mean((2, 3))


@pytest.mark.parametrize("row, sigma", [("gradient, sigma 0", 0.0), ("perceptual, sigma 5", 5.0)])
def test_pixels_change_when_they_do_in_the_game(games, classifier, row, sigma) -> None:
    name = "1"
    steps = unpacked(*games.chunk(f"steps/{name}/{row}")).round().astype(int)
    image = classifier.preprocess(games.shown[name])
    saliency = impulse_blur(torch.from_numpy(games.experiment.maps(row.partition(",")[0])[name]), sigma)
    seen: list[torch.Tensor] = []
    insertion_deletion(Watching(seen), image, saliency[None], 0, step=STEP, batch_size=1000)
    frames = seen[-1].unflatten(0, (2, -1))  # insertion and deletion, after each step but the last
    soft = impulse_blur(image, 5.0)
    assert steps.min() == 1 and steps.max() == frames.shape[1] + 1 == 8
    for done in range(1, steps.max()):
        changed = torch.from_numpy(steps <= done)
        assert torch.equal(frames[0, done - 1], torch.where(changed, image, soft)[0])
        assert torch.equal(frames[1, done - 1], torch.where(changed, 0.0, image)[0])


def test_curves_and_areas_are_the_tables(games) -> None:
    table = games.experiment.table
    assert games.about["rows"] == ["gradient, sigma 0", "perceptual, sigma 0", "perceptual, sigma 5"]
    assert (games.left, games.right) == ("perceptual, sigma 0", "gradient, sigma 0")
    for line in table[table.role == "table"].itertuples():
        for game in ("insertion", "deletion"):
            curve = games.about["curves"][line.photograph][f"{line.method}, sigma {line.sigma:g}"][game]
            np.testing.assert_allclose(curve["values"], getattr(line, game), atol=1e-6)
            assert curve["area"] == pytest.approx(auc(np.asarray(getattr(line, game))), abs=1e-6)


def test_the_cascade_shows_the_tables_measures(cascade, sanity) -> None:
    about, table = cascade.about, sanity.table
    assert about["stages"] == ["trained", *sanity.layers]
    for name in cascade.shown:
        for method in ("gradient", "perceptual"):
            lines = table[(table.photograph == name) & (table.method == method) & (table.seed == 0)]
            for measure in ("correlation", "ssim"):
                assert about["measures"][name][method][measure] == lines.sort_values("stage")[measure].tolist()
    for method, (_, curve) in randomization_curves(table).items():
        assert about["means"][method]["value"] == curve.value.tolist() and about["means"][method]["n"] == 3


def test_a_mean_of_other_layers_is_left_out(sanity, classifier) -> None:
    others = sanity.table.replace({"layer": {sanity.layers[0]: "another"}})
    assert CascadePlayer(sanity, classifier, Results("other", others, {})).about["means"] == {}
    assert CascadePlayer(sanity, classifier, Results("other", sanity.table, {})).about["run"] == "other"


def test_the_cascades_maps_are_those_of_the_stages(cascade, sanity) -> None:
    maps = gaussian_blur(torch.from_numpy(sanity.maps("perceptual", seed=0)["2"]), 2.0).numpy()
    sheet = picture(cascade, "maps/2/perceptual")
    for stage, expected in enumerate(visible(maps)):
        assert np.abs(tile(sheet, stage, len(maps))[..., 0] - expected).max() < CODED


def test_a_search_is_its_path(optimization, searched) -> None:
    photographs, paths, margins = searched
    last = len(paths["perceptual"]) - 1
    assert optimization.about["steps"] == kept_steps(last)
    for path, changes in paths.items():
        about = optimization.about["paths"][path]
        assert about["steps"][-1] == len(changes) - 1
        for row, photograph in enumerate(photographs):
            name = photograph.name
            np.testing.assert_allclose(about["margins"][name], margins[path][: len(changes), row])
            kept = changes[about["steps"], row]
            np.testing.assert_allclose(about["sizes"][name], kept.square().mean((1, 2, 3)).sqrt(), rtol=1e-5)
            sizes = visible(saliency_map(kept, 2.0).numpy(), together=True)
            sheet = picture(optimization, f"sizes/{name}/{path}")
            assert np.abs(tile(sheet, len(kept) - 1, len(kept))[..., 0] - sizes[-1]).max() < CODED


def test_the_change_itself_is_there(optimization, searched, classifier) -> None:
    photographs, paths, _ = searched
    change = paths["perceptual"][-1, 1] * classifier.std
    limit = optimization.about["paths"]["perceptual"]["limits"][photographs[1].name][-1]
    kept = optimization.about["paths"]["perceptual"]["steps"]
    sheet = picture(optimization, f"changes/{photographs[1].name}/perceptual")
    coded = (tile(sheet, len(kept) - 1, len(kept)) - 0.5) * 2 * limit
    brightness = [each @ (0.299, 0.587, 0.114) for each in (coded, change.permute(1, 2, 0).numpy())]
    assert np.corrcoef(*map(np.ravel, brightness))[0, 1] > 0.95  # the colours of single pixels are coded coarsely


@pytest.mark.parametrize("last, steps", [(0, [0]), (3, [0, 1, 2, 3]), (10, [*range(11)])])
def test_short_searches_are_kept_whole(last, steps) -> None:
    assert kept_steps(last) == steps


def test_long_searches_are_thinned() -> None:
    steps = kept_steps(200)
    assert steps[:11] == [*range(11)] and steps[-1] == 200 and len(steps) <= 21
    assert (np.diff(steps[11:], 2) >= -2).all()


def test_tiles_lie_row_by_row() -> None:
    maps = np.arange(5)[:, None, None] * np.ones((5, 2, 3))
    sheet = tiles(maps)
    assert sheet.shape == (4, 9)
    assert sheet[::2, ::3].tolist() == [[0, 1, 2], [3, 4, 0]]
    assert tiles(np.stack([maps] * 3, 1)).shape == (4, 9, 3)


def test_a_flat_map_is_dark() -> None:
    assert not visible(np.full((1, 4, 4), 3.0)).any()


def test_photographs_that_a_method_failed_on_are_left_out(games, classifier, monkeypatch) -> None:
    experiment, table = games.experiment, games.experiment.table.copy()
    monkeypatch.setitem(vars(experiment), "table", table)
    table.loc[(table.photograph == "0") & (table.method == "gradient"), "failure"] = "for a test"
    assert list(InsertionDeletionPlayer(experiment, classifier).shown) == ["1", "2"]
    assert list(InsertionDeletionPlayer(experiment, classifier, experiment.pictures[2:]).shown) == ["2"]
    with pytest.raises(InputError, match="no photograph that every row of insertion_deletion explained"):
        InsertionDeletionPlayer(experiment, classifier, experiment.pictures[:1])


def test_of_many_scenes_the_first_are_played_and_no_map_of_another_is_read(pointing, classifier, monkeypatch) -> None:
    first, second = (scene.name for scene in pointing.pictures)
    read, maps, table = [], pointing.maps, pointing.table.copy()
    monkeypatch.setattr(player, "PHOTOGRAPHS", 1)
    monkeypatch.setattr(pointing, "maps", lambda *about, **more: read.append(maps(*about, **more)) or read[-1])
    made = PointingPlayer(pointing, classifier)
    assert {question["scene"] for question in made.about["questions"]} == {first}
    assert list(made.arrays) == [f"picture/{first}"] and list(map(list, read)) == [[first]] * 3
    monkeypatch.setitem(vars(pointing), "table", table)
    table.loc[(table.scene == first) & (table.method == "gradient"), "failure"] = "for a test"
    assert {question["scene"] for question in PointingPlayer(pointing, classifier).about["questions"]} == {second}
    table["failure"] = "for a test"
    with pytest.raises(InputError, match="no scene that every row of pointing explained"):
        PointingPlayer(pointing, classifier)
    table["distance"] = np.nan
    with pytest.raises(InputError, match="no scene that every row of pointing explained"):
        PointingPlayer(pointing, classifier)


@pytest.mark.parametrize("name", ["games", "cascade", "optimization"])
def test_what_is_not_there_is_refused_in_a_sentence(name, request) -> None:
    widget = request.getfixturevalue(name)
    with pytest.raises(InputError, match="there is no maps .unknown/perceptual."):
        widget.chunk("maps/unknown/perceptual")
    assert all(widget.chunk(key) for key in widget.arrays)


def test_each_method_points_where_the_table_says(points, pointing) -> None:
    sigmas, table = pointing_table(pointing.table, 1.0).sigma, pointing.table
    asked = [(scene, question) for scene in pointing.pictures for question in scene.questions]
    assert len(points.about["questions"]) == len(asked) == 8
    for told, (scene, question) in zip(points.about["questions"], asked, strict=True):
        lines = table[(table.scene == scene.name) & (table.target == question.target)].set_index(["method", "sigma"])
        for hit, (method, point) in zip(told["hits"], told["points"].items(), strict=True):
            distance = lines.distance[method, sigmas[method]]
            assert hit == (distance < 15) and distances(point, question.boxes) == pytest.approx(distance, abs=1e-3)
