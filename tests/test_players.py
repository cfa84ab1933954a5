"""Players of experiments: their numbers are the library's, and what a browser draws of them is, too."""

import zlib
from base64 import b64decode
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import complaints, new_tab
from PIL import Image
from playwright.sync_api import Browser, Page
from runs import Layered, finished, small_profile

from perceptual_lib import load_classifier, saliency_map
from perceptual_lib.errors import InputError
from perceptual_lib.experiments import InsertionDeletion, Localization, Randomization
from perceptual_lib.experiments.rows import as_json
from perceptual_lib.explorer import CascadePlayer, InsertionDeletionPlayer, OptimisationPlayer, SensitivityMap
from perceptual_lib.explorer.optimisation import kept_steps
from perceptual_lib.explorer.player import tiles, visible
from perceptual_lib.explorer.widget import Widget
from perceptual_lib.perturbation import multiclass_margin, perturbation_path
from perceptual_lib.profiles import PerturbationSection
from perceptual_lib.protocols.insertion_deletion import auc, impulse_blur, insertion_deletion
from perceptual_lib.protocols.randomization import untrained
from perceptual_lib.saliency import gaussian_blur
from perceptual_lib.shards import randomization
from perceptual_lib.tables import trials
from perceptual_lib.tables.randomization import randomization_curves

STEP = 7000  # pixels: eight steps, the last of them smaller
SIDE = 224
CODED = 0.05  # what the coding of a picture may change, of 1: these are noise, the worst that there is


@pytest.fixture
def classifier():
    return load_classifier(Layered())


@pytest.fixture
def games(tmp_path, of_profiles, classifier) -> InsertionDeletionPlayer:
    section = {"pictures": 3, "methods": ["gradient", "perceptual"], "sigmas": {"perceptual": [0.0, 5.0]}}
    profile = small_profile(insertion_deletion=section | {"step": STEP})
    return InsertionDeletionPlayer(finished(InsertionDeletion, tmp_path, profile), classifier)


@pytest.fixture
def sanity(tmp_path, of_profiles, monkeypatch) -> Randomization:
    monkeypatch.setattr(randomization, "untrained", lambda name, seed: untrained(Layered(), seed))
    section = {"pictures": 3, "methods": ["gradient", "perceptual"], "seeds": 2}
    return finished(Randomization, tmp_path, small_profile(randomization=section))


@pytest.fixture
def cascade(sanity, classifier) -> CascadePlayer:
    return CascadePlayer(sanity, classifier)


@pytest.fixture
def sensitivity(tmp_path, of_profiles, classifier) -> SensitivityMap:
    section = {"pictures": 3, "methods": ["center", "perceptual"], "sigmas": [0.0, 5.0], "ranges": 2}
    strict = PerturbationSection(layers="0-0", layer_weight=1e4, normalise_layers=True, max_iter=10)
    profile = small_profile(localization=section).model_copy(update={"sigma": 4.0, "perturbation": strict})
    return SensitivityMap(finished(Localization, tmp_path, profile), classifier)


@pytest.fixture
def searched(photographs, classifier):
    """Photographs, paths and margins of two searches."""
    inputs = classifier.preprocess(photographs[:2])
    found = {
        "without layers": perturbation_path(classifier, inputs, max_iter=6),
        "perceptual": perturbation_path(classifier, inputs, layers="0-1", layer_weight=10.0, max_iter=30),
    }
    targets = found["perceptual"][0].targets
    paths = {name: path for name, (_, path) in found.items()}
    with torch.no_grad():
        margins = {
            name: np.stack([multiclass_margin(classifier(inputs + change), targets) for change in path])
            for name, path in paths.items()
        }
    return photographs[:2], paths, margins


@pytest.fixture
def optimisation(searched, classifier) -> OptimisationPlayer:
    return OptimisationPlayer(classifier, *searched)


def unpacked(widget: Widget, key: str) -> np.ndarray:
    """An array as the browser reads it."""
    head, data = widget.chunk(key)
    low, high = (np.array(head[end]).reshape(*head["shape"][:-2], 1, 1) for end in ("low", "high"))
    return low + np.frombuffer(zlib.decompress(data), "<u2").reshape(head["shape"]) / 65535 * (high - low)


def picture(widget: Widget, key: str) -> np.ndarray:
    """A picture (H, W, 3) in [0, 1] as the browser reads it."""
    return np.asarray(Image.open(BytesIO(widget.chunk(key)[1])).convert("RGB")) / 255


def tile(sheet: np.ndarray, index: int, count: int) -> np.ndarray:
    columns = int(np.ceil(np.sqrt(count)))
    row, column = divmod(index, columns)
    return sheet[SIDE * row : SIDE * (row + 1), SIDE * column : SIDE * (column + 1)]


# --- numbers -------------------------------------------------------------------------------------------------


class Watching(torch.nn.Module):
    """Keeps what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = []

    def forward(self, images):
        self.seen.append(images)
        return images.mean((2, 3))


@pytest.mark.parametrize("row, sigma", [("gradient, sigma 0", 0.0), ("perceptual, sigma 5", 5.0)])
def test_pixels_change_when_they_do_in_the_game(games, classifier, row, sigma) -> None:
    name = "1"
    steps = unpacked(games, f"steps/{name}/{row}").round().astype(int)
    image = classifier.preprocess(games.shown[name])
    saliency = impulse_blur(torch.from_numpy(games.experiment.maps(row.partition(",")[0])[name]), sigma)
    watching = Watching()
    insertion_deletion(watching, image, saliency[None], 0, step=STEP, batch_size=1000)
    frames = watching.seen[-1].unflatten(0, (2, -1))  # insertion and deletion, after each step but the last
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
    assert CascadePlayer(sanity, classifier, others).about["means"] == {}
    assert CascadePlayer(sanity, classifier, sanity.table).about["run"] == "the published run"


def test_the_cascades_maps_are_those_of_the_stages(cascade, sanity) -> None:
    maps = gaussian_blur(torch.from_numpy(sanity.maps("perceptual", seed=0)["2"]), 2.0).numpy()
    sheet = picture(cascade, "maps/2/perceptual")
    for stage, expected in enumerate(visible(maps)):
        assert np.abs(tile(sheet, stage, len(maps))[..., 0] - expected).max() < CODED


def test_the_triangle_has_the_errors_of_the_ranges(sensitivity) -> None:
    table = sensitivity.experiment.table
    expected = {
        strategy: trials(table, strategy).query("method == 'perceptual'").set_index(["role", "first", "last"])
        for strategy in ("value", "best")
    }
    ranges = sensitivity.about["ranges"]
    assert [each["layers"] for each in ranges] == ["0-0", "0-1", "1-1"] and sensitivity.layers == "0-0"
    for each in ranges:
        for strategy, lines in expected.items():
            assert each[strategy] == lines.error[each["role"], each["first"], each["last"]]
        assert each["n"] == 2
    settings = sensitivity.experiment.profile.settings | {"layers": "1-1"}
    maps = sensitivity.experiment.maps("perceptual", role="range", settings=as_json(settings))
    blurred = gaussian_blur(torch.from_numpy(maps["0"]), 4.0).numpy()
    assert np.abs(picture(sensitivity, "map/0/1-1")[..., 0] - visible(blurred[None])[0]).max() < CODED


def test_a_search_is_its_path(optimisation, searched) -> None:
    photographs, paths, margins = searched
    last = len(paths["perceptual"]) - 1
    assert optimisation.about["steps"] == kept_steps(last)
    for path, changes in paths.items():
        about = optimisation.about["paths"][path]
        assert about["steps"][-1] == len(changes) - 1
        for row, photograph in enumerate(photographs):
            name = photograph.name
            np.testing.assert_allclose(about["margins"][name], margins[path][: len(changes), row])
            kept = changes[about["steps"], row]
            np.testing.assert_allclose(about["sizes"][name], kept.square().mean((1, 2, 3)).sqrt(), rtol=1e-5)
            sizes = visible(saliency_map(kept, 2.0).numpy(), together=True)
            sheet = picture(optimisation, f"sizes/{name}/{path}")
            assert np.abs(tile(sheet, len(kept) - 1, len(kept))[..., 0] - sizes[-1]).max() < CODED


def test_the_change_itself_is_there(optimisation, searched, classifier) -> None:
    photographs, paths, _ = searched
    change = paths["perceptual"][-1, 1] * classifier.std
    limit = optimisation.about["paths"]["perceptual"]["limits"][photographs[1].name][-1]
    kept = optimisation.about["paths"]["perceptual"]["steps"]
    sheet = picture(optimisation, f"changes/{photographs[1].name}/perceptual")
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
    assert sheet.shape == (4, 9, 3)
    assert sheet[::2, ::3, 0].tolist() == [[0, 1, 2], [3, 4, 0]]


def test_a_flat_map_is_dark() -> None:
    assert not visible(np.full((1, 4, 4), 3.0)).any()


def test_photographs_that_a_method_failed_on_are_left_out(games, classifier) -> None:
    experiment = games.experiment
    table = experiment.table
    table.loc[(table.photograph == "0") & (table.method == "gradient"), "failure"] = "for a test"
    assert list(InsertionDeletionPlayer(experiment, classifier).shown) == ["1", "2"]
    assert list(InsertionDeletionPlayer(experiment, classifier, experiment.pictures[2:]).shown) == ["2"]
    with pytest.raises(InputError, match="no photograph that every row of insertion_deletion explained"):
        InsertionDeletionPlayer(experiment, classifier, experiment.pictures[:1])


def test_without_ranges_there_is_no_triangle(tmp_path, of_profiles, classifier) -> None:
    profile = small_profile(localization={"pictures": 2, "methods": ["perceptual"], "sigmas": [0.0]})
    with pytest.raises(InputError, match="tries no ranges of layers: set localization.ranges"):
        SensitivityMap(finished(Localization, tmp_path, profile), classifier)


@pytest.mark.parametrize("name", ["games", "cascade", "sensitivity", "optimisation"])
def test_what_is_not_there_is_refused_in_a_sentence(name, request) -> None:
    widget = request.getfixturevalue(name)
    with pytest.raises(InputError, match="there is no maps/unknown/perceptual"):
        widget.chunk("maps/unknown/perceptual")
    assert all(widget.chunk(key) for key in widget.keys_at_hand())


# --- in a browser --------------------------------------------------------------------------------------------


@pytest.fixture
def opened(browser: Browser, tmp_path: Path):
    """Opens a player as a page of its own, from a disk; a hash is what a link says."""
    tabs = []

    def open_player(widget: Widget, address: str = "", **settings) -> Page:
        path = tmp_path / "player.html"
        meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        path.write_text(f"<!doctype html>{meta}<body>{widget.html()}", encoding="utf-8")
        manager = new_tab(browser, **settings)
        tab = manager.__enter__()
        tabs.append((manager, complaints(tab, path.as_uri())))
        tab.goto(path.as_uri() + address)
        settled(tab)
        return tab

    yield open_player
    for manager, heard in tabs:
        manager.__exit__(None, None, None)
        assert heard == []


def settled(tab: Page) -> None:
    """Wait until what was asked for is drawn."""
    tab.wait_for_selector(".explorer[aria-busy=false]")


def pixels(tab: Page, index: int) -> np.ndarray:
    """What is drawn in a panel, (H, W, 3) of 0 to 255."""
    read = "index => document.querySelectorAll('figure.panel canvas')[index].toDataURL()"  # PNG, without a loss
    data = b64decode(tab.evaluate(read, index).partition(",")[2])
    return np.asarray(Image.open(BytesIO(data)).convert("RGB")).astype(int)


def slide(tab: Page, label: str, value: int) -> None:
    tab.get_by_label(label, exact=True).evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }", value
    )
    settled(tab)


def select(tab: Page, label: str, value: str) -> None:
    tab.get_by_label(label, exact=True).select_option(value)
    settled(tab)


@pytest.mark.parametrize("game", ["deletion", "insertion"])
def test_a_frame_of_the_games_is_the_librarys(games, opened, game) -> None:
    tab = opened(games)
    select(tab, "Photograph", "1")
    select(tab, "Game", game)
    select(tab, "Map on the left", "perceptual, sigma 5")
    for done in (0, 3, 8):
        slide(tab, "Changed", done)
        changed = (games.steps("1", "perceptual, sigma 5") <= done)[..., None]
        whole, soft = (255 * picture(games, f"{kind}/1") for kind in ("picture", "blurred"))
        ends = (whole, np.array(games.about["grey"])) if game == "deletion" else (soft, whole)
        expected = np.where(changed, ends[1], ends[0])
        assert np.abs(pixels(tab, 0) - expected).max() <= 3  # decoders of pictures round in their own ways
        lines = games.experiment.table.query("photograph == '1' and method == 'perceptual' and sigma == 5")
        curve = np.asarray(lines[game].item(), dtype=float)
        said = f"perceptual, sigma 5\nprobability {curve[done]:.2f}, area {auc(curve):.2f}"
        assert tab.locator("figcaption").first.inner_text().strip() == said


def test_the_games_by_keyboard_and_by_play(games, opened) -> None:
    tab = opened(games)
    slider = tab.get_by_label("Changed", exact=True)
    slider.focus()
    tab.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "56 % of the pixels"
    tab.get_by_role("button", name="Play").click()
    tab.wait_for_function("() => document.querySelector('input[type=range]').value === '8'")
    tab.get_by_role("button", name="Play").wait_for()
    still = opened(games, reduced_motion="reduce")
    still.get_by_role("button", name="Step").click()
    settled(still)
    assert still.get_by_label("Changed", exact=True).input_value() == "4"


def test_a_link_shows_what_was_seen(games, opened) -> None:
    tab = opened(games)
    select(tab, "Map on the right", "perceptual, sigma 5")
    select(tab, "Game", "insertion")
    slide(tab, "Changed", 5)
    tab.wait_for_function("() => location.hash.includes('games.step=5')")
    other = opened(games, tab.evaluate("() => location.hash"))
    assert (pixels(other, 1) == pixels(tab, 1)).all()
    assert other.get_by_label("Game", exact=True).input_value() == "insertion"
    assert other.get_by_label("Map on the right", exact=True).input_value() == "perceptual, sigma 5"


def test_a_link_that_says_nonsense_shows_the_first(games, opened) -> None:
    tab = opened(games, "#games.photograph=nobody&games.left=nothing&games.game=chess&games.step=900")
    assert tab.get_by_label("Photograph", exact=True).input_value() == "0"
    assert tab.get_by_label("Changed", exact=True).input_value() == "8"
    assert tab.locator(".status").inner_text() == ""


def test_the_cascade_shows_the_stage_that_is_chosen(cascade, sanity, opened) -> None:
    tab = opened(cascade)
    select(tab, "Photograph", "2")
    select(tab, "Method", "perceptual")
    table = sanity.table.query("photograph == '2' and method == 'perceptual' and seed == 0").set_index("stage")
    means = randomization_curves(sanity.table)["perceptual"][1]
    for stage in range(len(cascade.about["stages"])):
        slide(tab, "Forgotten", stage)
        assert (pixels(tab, 2) == pixels(tab, 1)).all() == (stage == 0)
        line = table.loc[stage]
        words = tab.locator(".readout").all_inner_texts()
        assert f"rank correlation {line.correlation:.2f}, SSIM {line.ssim:.2f}" in words[0]
        assert f"{means.value[stage]:.2f} ({means.low[stage]:.2f} to {means.high[stage]:.2f}), n = 3" in words[1]
    assert sanity.layers[-1] in tab.locator("figcaption").nth(2).inner_text()


def test_the_triangle_by_keyboard_and_by_mouse(sensitivity, opened) -> None:
    tab = opened(sensitivity)
    first = pixels(tab, 1)
    tab.get_by_role("button", name="layers 0 to 0").focus()
    tab.keyboard.press("ArrowRight")
    settled(tab)
    assert "layers 0 to 1" in tab.evaluate("() => document.activeElement.getAttribute('aria-label')")
    tab.keyboard.press("ArrowDown")
    settled(tab)
    assert tab.get_by_role("button", pressed=True).get_attribute("aria-label").startswith("layers 1 to 1")
    by_key = pixels(tab, 1)
    assert (by_key != first).any()
    ranges = {each["layers"]: each for each in sensitivity.about["ranges"]}
    words = f"error {ranges['1-1']['value']:.2f} at the best value threshold, {ranges['1-1']['best']:.2f} at"
    assert words in tab.locator(".readout").inner_text() and "n = 2" in tab.locator(".readout").inner_text()
    tab.get_by_role("button", name="The profile's: 0-0").click()
    settled(tab)
    assert (pixels(tab, 1) == first).all()
    tab.get_by_role("button", name="layers 1 to 1").hover()
    settled(tab)
    assert (pixels(tab, 1) == by_key).all()


def test_the_search_shows_the_step_that_is_chosen(optimisation, searched, opened) -> None:
    photographs, paths, margins = searched
    tab = opened(optimisation)
    name = photographs[1].name
    select(tab, "Photograph", name)
    steps = optimisation.about["steps"]
    for place in (0, 2, len(steps) - 1):
        slide(tab, "Step", place)
        for words, (path, values) in zip(tab.locator(".readout").all_inner_texts(), margins.items(), strict=True):
            margin = values[min(steps[place], len(paths[path]) - 1), 1]
            assert f"margin {margin:.2f}, {'class flipped' if margin <= 0 else 'class kept'}" in words
    own = pixels(tab, 3)
    slide(tab, "Change in the picture", 50)
    limit = optimisation.about["paths"]["perceptual"]["limits"][name][-1]
    kept = len(optimisation.about["paths"]["perceptual"]["steps"])
    change = (tile(picture(optimisation, f"changes/{name}/perceptual"), kept - 1, kept) - 0.5) * 2 * limit
    expected = np.clip(255 * (picture(optimisation, f"picture/{name}") + 50 * change), 0, 255)
    error = np.abs(pixels(tab, 3) - expected)
    assert np.median(error) <= 3 + 255 * 2 * limit * 50 / 255 and (pixels(tab, 3) != own).mean() > 0.5


@pytest.mark.parametrize("name", ["games", "cascade", "sensitivity", "optimisation"])
def test_players_fit_a_phone(name, request, opened) -> None:
    tab = opened(request.getfixturevalue(name), viewport={"width": 360, "height": 740})
    assert tab.evaluate("() => document.documentElement.scrollWidth") == 360
