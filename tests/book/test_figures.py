"""What figures show, read back from them, and how notebooks store them."""

import json
from base64 import b64decode
from collections.abc import Iterator
from io import BytesIO
from itertools import combinations

import matplotlib
import numpy as np
import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.text import Annotation
from PIL import Image

from perceptual_lib.book import figures
from perceptual_lib.evaluation.statistics import Estimate

matplotlib.use("agg")


@pytest.fixture(autouse=True)
def closed():
    yield
    matplotlib.pyplot.close("all")


def around(value: float) -> Estimate:
    return Estimate(value, value - 0.02, value + 0.01, 10)


def test_six_of_two_scores_are_named_and_names_do_not_overlap() -> None:
    rows = [("perceptual", float(sigma)) for sigma in range(4)] + [(f"method_{n}", 0.0) for n in range(12)]
    table = pd.DataFrame(
        {"deletion": [around(0.1 + n / 1e3) for n in range(16)], "insertion": [around(0.6)] * 15 + [None]},
        pd.MultiIndex.from_tuples(rows, names=["method", "sigma"]),
    )
    figure = figures.two_scores(table, "deletion", "insertion")
    figure.canvas.draw()
    names = [child for child in figure.axes[0].get_children() if isinstance(child, Annotation)]
    assert {name.get_text() for name in names} == {"perceptual", "perceptual, sigma 3"} | {
        f"method_{n}" for n in range(4)
    }
    boxes = [matplotlib.text.Text.get_window_extent(name) for name in names]  # without its line
    assert not any(first.overlaps(second) for first, second in combinations(boxes, 2))
    assert all(box.x0 > figure.axes[0].bbox.x1 and box.x1 <= figure.bbox.x1 for box in boxes)


def test_dots_are_joined_to_the_papers_numbers() -> None:
    ours = pd.Series({"grad_cam": around(0.3), "perceptual": around(0.2), "rise": None, "center": around(0.4)})
    paper = pd.Series({"grad_cam": 0.5, "perceptual": 0.1, "rise": 0.6, "center": np.nan})
    axes = figures.dots({"error": (ours, paper)}).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Grad-CAM", "perceptual", "RISE", "center"]
    joined = {line.get_ydata()[0]: list(line.get_xdata()) for line in axes.lines if line.get_linestyle() == ":"}
    np.testing.assert_equal(joined, {0: [0.3, 0.5], 1: [0.2, 0.1], 3: [0.4, np.nan]})
    hollow = [line.get_xdata()[0] for line in axes.lines if line.get_fillstyle() == "none" and len(line.get_xdata())]
    np.testing.assert_equal(hollow, [0.5, 0.1, 0.6, np.nan])
    intervals = [segment[:, 0].tolist() for each in axes.collections for segment in each.get_segments()]
    np.testing.assert_allclose(intervals, [[0.28, 0.31], [0.18, 0.21], [0.38, 0.41]])


def test_methods_have_titles_in_print_and_names_in_code() -> None:
    said = "better than grad_cam, rise and center, not `grad_cam`:\n```\nexplain(method='rise')\n```"
    assert figures.in_print(said) == said.replace("than grad_cam, rise", "than Grad-CAM, RISE")
    assert figures.in_print("guided_grad_cam_layer, surprise") == "guided_grad_cam_layer, surprise"


def test_groups_of_differences_share_an_axis() -> None:
    panels = {"first": {"a": around(-0.1), "b": around(0.3)}, "second": {"b": around(0.1)}}
    figure = figures.forest(panels, "difference")
    for axes, (title, estimates) in zip(figure.axes, panels.items(), strict=True):
        assert axes.get_title() == title and [each.get_text() for each in axes.get_yticklabels()] == list(estimates)
        drawn = [each.get_offsets()[0][0] for each in axes.collections if isinstance(each, PathCollection)]
        assert drawn == [estimate.value for estimate in estimates.values()]
    first, second = figure.axes
    assert first.get_xlim() == second.get_xlim() and (first.get_xlabel(), second.get_xlabel()) == ("", "difference")


@pytest.mark.parametrize("higher_is_better", [False, True])
def test_what_is_better_has_the_perceptual_colour(higher_is_better) -> None:
    estimates = {"below": around(-0.1), "none": around(0.0), "above": around(0.1)}
    figure = figures.forest({"": estimates}, "difference", higher_is_better)
    axes = figure.axes[0]
    (intervals,) = (each for each in axes.collections if isinstance(each, LineCollection))
    dots = [each for each in axes.collections if isinstance(each, PathCollection) and len(each.get_offsets())]
    colours = [figures.PERCEPTUAL, figures.NEUTRAL, figures.NO_PERCEPTUAL][:: -1 if higher_is_better else 1]
    assert [to_hex(colour, keep_alpha=False).upper() for colour in intervals.get_colors()] == colours
    assert [to_hex(dot.get_facecolor()[0]).upper() for dot in dots] == colours
    assert [tuple(dot.get_offsets()[0]) for dot in dots] == [(-0.1, 0), (0, 1), (0.1, 2)]
    ends = [line[:, 0] for line in intervals.get_segments()]
    assert np.allclose(ends, [[-0.12, -0.09], [-0.02, 0.01], [0.08, 0.11]])
    assert [label.get_text() for label in axes.get_yticklabels()] == list(estimates)
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first is at the top


def test_images_are_drawn_thin_and_what_is_in_the_middle_of_them_thick() -> None:
    values = {"one": np.array([[0.0, 1.0, 5.0], [2.0, 4.0, 12.0]]), "two": np.ones((2, 3))}
    figure = figures.traces({"margin": values, "size": values})
    lines = {line.get_linewidth(): line.get_ydata().tolist() for line in figure.axes[0].lines if len(line.get_ydata())}
    assert len(figure.axes[0].lines) >= 8 and lines[2] == [1, 1]
    thick = [line.get_ydata().tolist() for line in figure.axes[1].lines if line.get_linewidth() == 2]
    assert thick[:2] == [[2, 6], [1, 1]]
    figure = figures.growth(values | {"two": 2 * values["two"]}, held=0)
    middle = [line.get_ydata().tolist() for line in figure.axes[0].lines if len(line.get_ydata()) == 2]
    assert middle[:2] == [[1, 4], [2, 2]]
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    assert {(0, 0.5), (0, 3), (1, 3), (1, 8)} <= {tuple(point) for point in band.round(6)}  # the quartiles, by hand


def test_numbers_of_a_heat_map_can_be_read() -> None:
    rates = pd.DataFrame([[0.5, 0.6], [np.nan, 0.8]])
    axes = figures.heat_maps({"scale 1": rates}, "success rate").axes[0]
    assert [(text.get_text(), text.get_color()) for text in axes.texts] == [
        ("0.50", "white"),
        ("0.60", "white"),
        ("0.80", "black"),
    ]
    assert [text.get_position() for text in axes.texts] == [(0.5, 0.5), (1.5, 0.5), (1.5, 1.5)]


def test_no_layer_has_a_place_in_a_map_of_ranges() -> None:
    rates = pd.DataFrame([[0.5, 0.6, 0.7], [np.nan, np.nan, 0.8]], index=[0, 1], columns=[-1, 0, 1])
    axes = figures.heat_maps({"scale 1": rates}, "success rate").axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["–", "0", "1"] and "none" in axes.get_xlabel()
    axes = figures.heat_maps({"scale 1": rates.drop(columns=-1)}, "success rate").axes[0]
    assert axes.get_xlabel() == "last layer held"


def test_a_grid_has_a_row_for_each_picture_and_a_range_of_colours_for_each_map() -> None:
    maps = np.random.default_rng(0).random((2, 8, 8)) * [[[1]], [[100]]]
    figure = figures.image_grid([[np.ones((8, 8, 3)), each] for each in maps], ["picture", "map"], ["one", "two"])
    assert [axes.get_title() for axes in figure.axes] == ["picture", "map", "", ""]
    assert [axes.get_ylabel() for axes in figure.axes] == ["one", "", "two", ""]
    for each, axes in zip(maps, figure.axes[1::2], strict=True):
        assert (axes.images[0].get_array() == each).all()
        assert axes.images[0].get_clim() == (each.min(), np.quantile(each, 0.995))


def test_bands_draw_every_curve() -> None:
    names = [f"method {n}" for n in range(17)]  # all that there are
    stages = ["trained", "classifier.6", "stem"]
    curves = {name: (stages, Estimate(*np.array([[0.5] * 3, [0.4] * 3, [0.6] * 3]), 10)) for name in names}
    figure = figures.bands({"correlation": curves}, "stage", "correlation")
    assert len(figure.axes[0].lines) == 17
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names
    assert len({(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}) == 17


def test_a_curve_far_above_the_others_is_named_and_not_drawn() -> None:
    def curve(value: float) -> tuple[list[int], Estimate]:
        return [0, 1], Estimate(*np.array([[value] * 2, [value - 0.1] * 2, [value + 0.1] * 2]), 10)

    panels = {"value": {"ours": curve(0.3), "guided": curve(0.95)}, "mean": {"ours": curve(0.3), "guided": curve(0.4)}}
    first, second = figures.bands(panels, "sigma", "error").axes
    assert [text.get_text() for text in first.texts] == ["↑ guided: 0.95 to 0.95"] and not second.texts
    assert first.get_ylim()[1] < 0.6 and [len(line.get_xdata()) for line in first.lines] == [2, 0]
    alone = {"insertion": {"ours": curve(0.9)}, "deletion": {"ours": curve(0.2)}}
    assert [len(panel.lines[0].get_xdata()) for panel in figures.bands(alone, "sigma", "area").axes] == [2, 2]
    panels["value"]["guided"] = curve(0.6)  # not far enough
    assert not figures.bands(panels, "sigma", "error").axes[0].texts


def test_bars_at_the_foot_of_maps_are_the_shares() -> None:
    maps = {"without": np.eye(8)[None].repeat(2, 0), "with": np.eye(8)[None].repeat(2, 0)}
    figure = figures.comparison(np.zeros((2, 8, 8, 3)), maps, [[], []], shares=[[0.25, 0.5], [0.75, 1.0]])
    bars = [[bar.get_width() for bar in panel.patches] for panel in figure.axes]
    assert bars == [[], [1.0, 0.25], [1.0, 0.5], [], [1.0, 0.75], [1.0, 1.0]]


@pytest.fixture
def formatter() -> Iterator[DisplayFormatter]:
    """That of a notebook in which the book's style is set up."""
    with matplotlib.rc_context():
        shell = InteractiveShell.instance()
        figures.setup()
        yield shell.display_formatter
    InteractiveShell.clear_instance()


def test_a_figure_of_pictures_is_stored_as_jpeg_for_dense_screens(formatter: DisplayFormatter) -> None:
    picture, saliency = np.random.default_rng(0).random((224, 224, 3)), np.eye(224)
    data, metadata = formatter.format(figures.image_grid([[picture, saliency]], ["picture", "map"]))
    assert set(data) == {"image/jpeg", "text/plain"}
    size = metadata["image/jpeg"]
    assert Image.open(BytesIO(b64decode(data["image/jpeg"]))).size == pytest.approx(
        (2 * size["width"], 2 * size["height"]), abs=2
    )
    assert 300 < size["width"] < 345  # two of six columns, which are nine inches of 110 pixels


def test_a_jpeg_says_where_its_pictures_are(formatter: DisplayFormatter) -> None:
    black = np.zeros((1, 50, 50, 3))
    figure = figures.comparison(black, {"map": black}, [[]], across=2)  # two places stay empty
    image = Image.open(BytesIO(b64decode(formatter.format(figure)[0]["image/jpeg"])))
    places = json.loads(image.info["comment"])
    pixels = np.array(image.convert("L")) / 255
    assert len(places) == 2
    for left, top, right, bottom in places:
        rows = slice(*(round(side / 100 * image.height) for side in (top, bottom)))
        columns = slice(*(round(side / 100 * image.width) for side in (left, right)))
        assert pixels[rows, columns].mean() < 0.02
        pixels[rows, columns] = 1
    assert pixels.mean() > 0.97  # words, and white


@pytest.mark.parametrize("name", ["curves", "numbers"])
def test_a_drawing_is_stored_as_svg_the_same_each_time(formatter: DisplayFormatter, name: str) -> None:
    def draw() -> matplotlib.figure.Figure:
        if name == "numbers":
            return figures.heat_maps({"scale 1": pd.DataFrame(np.eye(8))}, "rate")
        return figures.forest({"": {"one": around(0.1), "two": around(0.2)}}, "difference")

    data, metadata = formatter.format(draw())
    assert set(data) == {"image/svg+xml", "text/plain"}
    assert data["image/svg+xml"].startswith("<?xml") and metadata["image/svg+xml"]["width"] > 400
    assert formatter.format(draw())[0]["image/svg+xml"] == data["image/svg+xml"]
