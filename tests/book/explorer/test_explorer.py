"""The explorer's Python half: maps at hand and on demand, cancelled, uploaded, and what a static page gets."""

import base64
import io
import re
import zlib

import nbformat
import numpy as np
import pytest
from PIL import Image
from stand_ins import Layered
from torch import nn

from perceptual_lib import explain, load_classifier
from perceptual_lib.book.explorer import Explorer
from perceptual_lib.book.explorer.finished import tried_ranges
from perceptual_lib.book.explorer.widget import array_chunk, module, picture_chunk
from perceptual_lib.book.pages import stage_page
from perceptual_lib.core.errors import InputError
from perceptual_lib.evaluation.localization.experiment import Localization
from perceptual_lib.evaluation.localization.protocol import THRESHOLDS
from perceptual_lib.evaluation.localization.table import trials

METHODS = ["gradient", "no_perceptual", "perceptual", "perceptual_guided"]


class Plain(nn.Sequential):
    """No activation at all."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 8, stride=8), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.fixture
def explorer(of_profiles) -> Explorer:
    return Explorer(Layered(), of_profiles[:2], METHODS)


@pytest.fixture
def sent(explorer, monkeypatch) -> list:
    """What Python sends to the browser."""
    messages = []
    monkeypatch.setattr(Explorer, "send", lambda self, content, buffers=None: messages.append((content, buffers)))
    return messages


def ask(explorer: Explorer, *buffers: bytes, **content) -> None:
    """A message from the browser; comes back when all that it set off is done."""
    explorer._answer(explorer, content, list(buffers))
    explorer._executor.submit(int).result()


def as_map(head: dict, data: bytes) -> np.ndarray:
    """What the browser makes of a chunk, in the map's own units."""
    values = np.frombuffer(zlib.decompress(data), "<u2").reshape(head["shape"])
    return head["low"][0] + values / 65535 * (head["high"][0] - head["low"][0])


def png(size=(50, 80), colour="red") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return stream.getvalue()


def test_sixteen_bits_of_a_map() -> None:
    saliency = np.random.default_rng(0).exponential(size=(5, 7)).astype(np.float32)
    head, data = array_chunk(saliency)
    assert (np.abs(as_map(head, data) - saliency) <= np.ptp(saliency) / 65535 / 2 * 1.01).all()
    assert (as_map(*array_chunk(np.full((4, 4), 7.0))) == 7).all()


def test_a_picture_survives_its_coding() -> None:
    rows, columns = np.mgrid[:64, :64] / 63
    pixels = np.stack([rows, columns, rows * columns], -1)
    head, data = picture_chunk(pixels)
    again = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) / 255
    assert head["format"] == "image/webp" and np.abs(again - pixels).mean() < 0.02


@pytest.mark.parametrize(
    ("method", "settings"),
    [("gradient", {}), ("perceptual", {"layers": "0-0", "sigma": 0.0})],
)
def test_a_map_on_demand_is_the_librarys(explorer, sent, of_profiles, method, settings) -> None:
    key = f"map/1/{method}/{settings.get('layers', '')}"
    ask(explorer, need=key)
    content, [data] = sent[-1]
    classifier = load_classifier(Layered())
    images = classifier.preprocess(of_profiles[1])
    expected = explain(classifier, images, method=method, **settings)[0].numpy()  # of five classes, as predicted
    assert content["key"] == key and np.allclose(as_map(content, data), expected, atol=np.ptp(expected) / 65535)
    shares = [message["progress"] for message, _ in sent[:-1]]
    assert shares and shares == sorted(shares) and shares[0] >= 0 and shares[-1] <= 1


def test_nothing_is_computed_twice(explorer, sent, monkeypatch) -> None:
    ask(explorer, need="map/0/gradient/")
    monkeypatch.setattr(Explorer, "compute", lambda *_: pytest.fail("computed again"))
    ask(explorer, need="map/0/gradient/")
    assert "format" in sent[-1][0] and list(explorer.maps) == ["map/0/gradient/"]


def test_a_request_takes_the_place_of_an_older_one(explorer, sent) -> None:
    explorer._answer(explorer, {"need": "map/0/perceptual/0-0"}, [])
    explorer._answer(explorer, {"need": "map/0/perceptual/0-1"}, [])
    ask(explorer, need="map/1/perceptual/0-1")
    ends = {content["key"]: content for content, _ in sent if "progress" not in content}
    assert "format" in ends["map/1/perceptual/0-1"]
    assert ends["map/0/perceptual/0-1"]["error"] == "cancelled"


def test_cancelling_leaves_the_network_as_it_was(explorer, sent, monkeypatch) -> None:
    def stop_at_half(_, content, buffers=None) -> None:
        if content.get("progress", 0) > 0.02:
            explorer._answer(explorer, {"cancel": content["key"]}, [])
        sent.append((content, buffers))

    monkeypatch.setattr(Explorer, "send", stop_at_half)
    ask(explorer, need="map/0/perceptual/0-0")
    assert sent[-1][0] == {"key": "map/0/perceptual/0-0", "error": "cancelled"}
    assert not explorer.maps and not explorer.classifier.network._forward_pre_hooks
    assert all(parameter.requires_grad for parameter in explorer.classifier.network.parameters())


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("map/nobody/gradient/", "there is no photograph 'nobody'; there are 0, 1"),
        ("map/0/gradiant/", r"there is no method 'gradiant' \(nearest: gradient"),
        ("map/0/perceptual/0-99", "layer 2 is out of range|layer 99 is out of range"),
        ("picture/nobody", "there is no photograph 'nobody'"),
    ],
)
def test_a_wrong_key_is_one_sentence(explorer, sent, key, message) -> None:
    ask(explorer, need=key)
    assert sent[-1][0]["key"] == key
    with pytest.raises(InputError, match=message):
        raise InputError(sent[-1][0]["error"])
    ask(explorer, need="map/0/gradient/")
    assert sent[-1][0]["format"] == "uint16"  # it goes on working


def test_an_upload_is_shown(explorer, sent) -> None:
    for _ in range(2):
        ask(explorer, png(), upload="my/cat.png")
    assert list(explorer.subjects) == ["0", "1", "my_cat.png", "my_cat.png (2)"]
    assert explorer.photograph == "my_cat.png (2)" and explorer.about["photographs"][-1]["boxes"] == []
    ask(explorer, need="map/my_cat.png (2)/gradient/")
    assert sent[-1][0]["shape"] == [224, 224]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cat.png is not a picture that can be read here; give a JPEG or PNG file."),
        (b"no picture", "cat.png is not a picture that can be read here; give a JPEG or PNG file."),
        (png()[:60], "cat.png is not a picture|the picture cannot be decoded"),
        (png((20000, 6000)), "the picture has more than 100,000,000 pixels; give a smaller one."),
        (bytes(64_000_001), "cat.png has more than 64 MB; give a smaller picture."),
    ],
    ids=["empty", "text", "cut off", "many pixels", "many bytes"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bad_upload_is_one_sentence(explorer, sent, data, message) -> None:
    ask(explorer, data, upload="cat.png")
    assert len(sent) == 1 and len(explorer.subjects) == 2
    with pytest.raises(InputError, match=message):
        raise InputError(sent[0][0]["error"])


def test_a_network_without_activations_says_so(of_profiles) -> None:
    explorer = Explorer(Plain(), of_profiles[:1], METHODS)
    assert "no activations" in explorer.about["notice"] and explorer.layers == ""
    assert not any(method["layered"] for method in explorer.about["methods"])
    for method in METHODS:
        assert explorer.compute(f"map/0/{method}/").shape == (224, 224)


def test_a_network_that_fails_is_one_sentence(of_profiles, monkeypatch) -> None:
    explorer, messages = Explorer(Layered(), of_profiles[:1], METHODS), []
    monkeypatch.setattr(Explorer, "send", lambda self, content, buffers=None: messages.append(content))
    monkeypatch.setattr(Layered, "forward", lambda self, images: 1 / 0, raising=False)
    ask(explorer, need="map/0/gradient/")
    assert messages[-1] == {"key": "map/0/gradient/", "error": "division by zero"}


# --- finished experiments and static pages -------------------------------------------------------------------


def test_maps_of_an_experiment(of_experiment, localization) -> None:
    explorer, experiment = of_experiment, localization
    ranges = {"0-0", "0-1", "1-1"}
    assert {each["layers"] for each in explorer.about["ranges"]} == ranges and list(explorer.subjects) == ["0", "1"]
    layered = {f"map/{name}/{method}/{layers}" for name in "01" for method in METHODS[2:] for layers in ranges}
    plain = {f"map/{name}/{method}/" for name in "01" for method in METHODS[:2]}
    assert explorer.maps.keys() == layered | plain
    for name, saliency in experiment.maps("perceptual").items():
        if name in "01":
            assert np.array_equal(explorer.maps[f"map/{name}/perceptual/{explorer.layers}"], saliency)


CHOICES = {"layers": ["0-0", "0-1"], "layer_weight": [1.0, 100.0], "margin_target": [-1.0, -3.0]}


@pytest.fixture(scope="session")
def of_settings(localization, classifier) -> Explorer:
    return Explorer.tried(localization, classifier, localization.pictures[:2], CHOICES, layers="0-1")


def test_maps_of_every_combination_of_settings(of_settings, localization, classifier) -> None:
    explorer, pictures = of_settings, localization.pictures[:2]
    assert len(explorer.maps) == 16 and explorer.about["tried"]["layer_weight"] == ["1", "100"]
    settings = localization.settings("perceptual") | {"layers": "0-1", "layer_weight": 100.0, "margin_target": -3.0}
    expected = explain(classifier, classifier.preprocess(pictures), method="perceptual", sigma=0.0, **settings)[1]
    found = explorer.maps[f"map/{pictures[1].name}/perceptual 100 -3/0-1"]
    assert np.abs(found / found.max() - expected.numpy() / expected.numpy().max()).max() < 1e-3
    assert [method["name"] for method in explorer.static_traits()["about"]["methods"]] == ["perceptual"]


def test_a_live_explorer_computes_further_settings(of_settings) -> None:
    name = next(iter(of_settings.subjects))
    near, far = (of_settings.compute(f"map/{name}/perceptual {weight} -2/0-1") for weight in ("0.01", "1000"))
    assert near.max() > far.max()


def test_errors_are_those_of_the_table(of_experiment, localization) -> None:
    explorer, experiment = of_experiment, localization
    lines = experiment.table[(experiment.table.role == "table") & (experiment.table.method == "gradient")]
    errors = explorer.about["errors"]["gradient"]
    hits = np.stack(lines.hits).reshape(5, 2, 250)  # photographs, sigmas, thresholds
    chosen = (1 - hits[:3].mean(0)).min(1).argmin()
    assert errors["n"] == 5 and errors["value"][0] == pytest.approx((1 - hits[:, chosen, :20].mean(0)).min())


def test_the_triangle_has_the_errors_of_the_ranges(of_experiment, localization) -> None:
    table = localization.table
    expected = {
        name: trials(table, strategy).query("method == 'perceptual'").set_index(["role", "first", "last"]).error
        for name, strategy in {"error": "value", "best": "best"}.items()
    }
    ranges = of_experiment.about["ranges"]
    assert [each["layers"] for each in ranges] == ["0-0", "0-1", "1-1"] and of_experiment.layers == "0-0"
    for each in ranges:
        for name, errors in expected.items():
            assert each[name] == pytest.approx(errors[each["role"], each["first"], each["last"]], abs=1e-4)
        assert each["n"] == 2 and each["role"] == "range"


def test_the_profiles_own_range_need_not_be_in_the_triangle(complete, classifier) -> None:
    section = {"pictures": 3, "methods": ["perceptual"], "sigmas": [0.0], "ranges": 2, "granularity": "stage"}
    experiment = complete(Localization, localization=section)
    table = experiment.table
    of_own = table.role == "table"
    table.loc[of_own, "settings"] = table.settings[of_own].str.replace('"0-0"', '"0-2"')
    *ranges, own = tried_ranges(table)
    assert own["layers"] == "0-2" and own["role"] == "table" and own["n"] == 2
    assert {each["role"] for each in ranges} == {"range"}


def test_without_ranges_there_is_no_triangle(complete, classifier) -> None:
    section = {"pictures": 2, "methods": ["perceptual"], "sigmas": [0.0]}
    assert Explorer.of(complete(Localization, localization=section), classifier).about["ranges"] == []


def test_it_begins_with_what_the_selection_chooses(of_experiment, localization) -> None:
    explorer, experiment = of_experiment, localization
    lines = experiment.table[(experiment.table.role == "table") & (experiment.table.method == "perceptual")]
    hits = np.stack(lines.hits).reshape(5, 2, 250)[:3].mean(0)  # sigmas, thresholds
    blur, threshold = [0.0, 4.0].index(explorer.sigma), THRESHOLDS.index((explorer.strategy, explorer.alpha))
    assert hits[blur, threshold] == hits.max()


def test_a_static_page_has_all_that_it_offers(of_experiment) -> None:
    explorer = of_experiment
    text = explorer.html()
    assert '"live": false' in text
    assert text.count('<script type="text/plain"') == len(set(map(repr, map(explorer.chunk, explorer.arrays))))
    about = explorer.static_traits()["about"]
    assert [method["name"] for method in about["methods"]] == METHODS


def test_arrays_move_out_of_a_page(tmp_path, of_experiment) -> None:
    explorer = of_experiment
    data, _ = explorer._repr_mimebundle_()
    outputs = [nbformat.v4.new_output("display_data", {"text/html": data["text/html"]})]
    page, staged = tmp_path / "page.ipynb", tmp_path / "staged.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("explorer", outputs=outputs)]), page)
    stage_page(page, staged, tmp_path)
    text = nbformat.read(staged, 4).cells[0].outputs[0]["data"]["text/html"]
    assert "text/plain" not in text and len(text) < 80_000
    scripts = {path.stem: path.read_text() for path in (tmp_path / "explorer").glob("*.js")}
    assert scripts and all(f'"{name}"' in text for name in scripts)
    for key in explorer.arrays:
        head, data = explorer.chunk(key)
        assert any(base64.b64encode(data).decode() in script for script in scripts.values()), key


def test_a_module_is_one_piece() -> None:
    code = module("layers")
    assert not re.search(r"^import ", code, re.M) and code.count("function placeOf(") == 1
    assert code.count("export default") == 1 and "export function" not in code


def test_traits_move_the_explorer(explorer) -> None:
    seen = []
    explorer.observe(lambda change: seen.append(change.new), "sigma")
    explorer.sigma = 12
    assert seen == [12.0] and isinstance(explorer.alpha, float)
    with pytest.raises(Exception, match="strategy"):
        explorer.strategy = "median"
