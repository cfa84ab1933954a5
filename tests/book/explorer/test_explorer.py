"""The explorer's Python half: maps at hand and on demand, cancelled, uploaded, and what a static page gets."""

import io
import re
import time
from threading import Event

import numpy as np
import pytest
import torch
from PIL import Image
from players import METHODS, unpacked
from stand_ins import Layered
from torch import nn

from perceptual_lib import explain, load_classifier
from perceptual_lib.book.explorer import Explorer, layers
from perceptual_lib.book.explorer.widget import array_chunk, module, picture_chunk
from perceptual_lib.core.errors import InputError
from perceptual_lib.core.perceptual_ball import perceptual_ball
from perceptual_lib.core.perturbation import multiclass_margin
from perceptual_lib.core.saliency import saliency_map


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


def png(size=(50, 80), colour="red", mode="RGB") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, colour).save(stream, "PNG")
    return stream.getvalue()


def test_sixteen_bits_of_a_map() -> None:
    saliency = np.random.default_rng(0).exponential(size=(5, 7)).astype(np.float32)
    head, data = array_chunk(saliency)
    assert (np.abs(unpacked(head, data) - saliency) <= np.ptp(saliency) / 65535 / 2 * 1.01).all()
    assert (unpacked(*array_chunk(np.full((4, 4), 7.0))) == 7).all()


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
    assert content["key"] == key and np.allclose(unpacked(content, data), expected, atol=np.ptp(expected) / 65535)
    shares = [message["progress"] for message, _ in sent[:-1]]
    assert shares and shares == sorted(shares) and shares[0] >= 0 and shares[-1] <= 1


def test_progress_is_of_all_steps_that_suit_the_network(explorer, monkeypatch) -> None:
    told = []
    monkeypatch.setattr(layers, "telling", lambda *asked, **_: told.append(asked[3]) or (lambda *_: None))
    for steps in (200, 60):
        explorer.steps = {"max_iter": steps}
        explorer.compute("map/1/perceptual/0-0")
    assert told[0] - told[1] == 140


def test_a_class_can_be_what_the_change_reaches(explorer, of_profiles) -> None:
    found = explorer.compute("map/1/perceptual/0-0/3/towards")
    classifier = load_classifier(Layered())
    result = perceptual_ball(classifier, classifier.preprocess(of_profiles[1]), towards=3, layers="0-0")
    assert np.allclose(found, saliency_map(result.delta)[0], rtol=1e-4)
    assert not np.allclose(found, explorer.compute("map/1/perceptual/0-0/3"))  # which leaves it


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
        ("picture/nobody", "there is no picture 'nobody'"),
    ],
)
def test_a_wrong_key_is_one_sentence(explorer, sent, key, message) -> None:
    ask(explorer, need=key)
    assert sent[-1][0]["key"] == key
    with pytest.raises(InputError, match=message):
        raise InputError(sent[-1][0]["error"])
    ask(explorer, need="map/0/gradient/")
    assert sent[-1][0]["format"] == "uint16"  # it goes on working


def test_a_search_tells_where_it_is(explorer, sent, of_profiles) -> None:
    ask(explorer, need="map/1/perceptual/0-0/2")
    told = [message for message, _ in sent[:-1]]
    images, network = explorer.subjects["1"].images, explorer.classifier
    steps = []
    found = perceptual_ball(network, images, 2, layers="0-0", callback=lambda *about: steps.append(about[2].clone()))
    margins = [multiclass_margin(network(images + step), torch.tensor([2])).item() for step in steps]
    by_step = {each["step"]: each for each in told if "step" in each}
    assert [by_step[step]["margin"] for step in range(len(margins))] == pytest.approx(margins, abs=1e-4)
    shares = network(images + found.delta).softmax(1)[0]
    assert told[-1]["probability"] == pytest.approx(shares[2].item(), abs=1e-4)
    others = shares.detach().index_fill(0, torch.tensor([2]), 0)
    assert told[-1]["rivals"] == pytest.approx(others.max().item(), abs=1e-4) and told[-1]["rival"] == others.argmax()
    first = next(buffers for _, buffers in sent if buffers)
    assert [len(each) for each in first] == [2 * 224 * 224, 4 * 224 * 224]
    seen = np.frombuffer(first[1], np.uint8).reshape(224, 224, 4)
    assert np.abs(seen[..., :3] / 255 - network.pixels(images)[0].numpy()).max() < 0.01 and (seen[..., 3] == 255).all()


def stop_at_the_third_step(explorer, sent, monkeypatch) -> str:
    """The key of a search that has been stopped."""
    key, reached = "map/0/perceptual/0-0", Event()

    def stop_once(_, content, buffers=None) -> None:
        sent.append((content, buffers))
        if content.get("step") == 3 and not reached.is_set():
            explorer._answer(explorer, {"stop": key}, [])
            reached.set()

    monkeypatch.setattr(Explorer, "send", stop_once)
    explorer._answer(explorer, {"need": key}, [])
    assert reached.wait(120)
    return key


def test_a_stopped_search_waits_and_goes_on(explorer, sent, monkeypatch) -> None:
    key = stop_at_the_third_step(explorer, sent, monkeypatch)
    time.sleep(0.3)
    assert sent[-1][0]["step"] == 3
    ask(explorer, need=key)
    assert sent[-1][0]["format"] == "uint16" and sent[-2][0]["step"] > 3


def test_a_search_that_was_stopped_for_too_long_can_be_asked_for_again(explorer, sent, monkeypatch) -> None:
    monkeypatch.setattr(layers, "PATIENCE", 0.2)
    key = stop_at_the_third_step(explorer, sent, monkeypatch)
    explorer._executor.submit(int).result()
    assert sent[-1][0] == {"key": key, "error": "cancelled"}
    ask(explorer, need=key)
    assert sent[-1][0]["format"] == "uint16"


def test_what_is_no_picture_leaves_a_stopped_search_alone(explorer, sent, monkeypatch) -> None:
    key = stop_at_the_third_step(explorer, sent, monkeypatch)
    explorer._answer(explorer, {"upload": "cat.png"}, [b"no picture"])
    assert "is not a picture" in sent[-1][0]["error"]
    ask(explorer, need=key)
    assert sent[-1][0]["format"] == "uint16"


def test_a_picture_that_is_given_ends_a_stopped_search(explorer, sent, monkeypatch) -> None:
    """It is opened by the thread that alone could let the search go on, and needs the network that the search has."""
    key = stop_at_the_third_step(explorer, sent, monkeypatch)
    start = time.perf_counter()
    explorer._answer(explorer, {"upload": "cat.png"}, [png()])
    assert explorer.photograph == "cat.png" and time.perf_counter() - start < 100  # not the ten minutes of patience
    explorer._executor.submit(int).result()
    assert sent[-1][0] == {"key": key, "error": "cancelled"}


def test_the_readers_boxes_stay_with_the_next_picture(explorer, sent) -> None:
    ask(explorer, png(), upload="a.png")
    *others, mine = explorer.about["photographs"]
    explorer.about = explorer.about | {"photographs": [*others, mine | {"boxes": [[1, 2, 3, 4]]}]}
    explorer.aim = "towards"
    ask(explorer, png(), upload="b.png")
    assert [each["boxes"] for each in explorer.about["photographs"][-2:]] == [[[1, 2, 3, 4]], []]
    assert explorer.aim == "away"


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
        (b"", "cat.png is not a picture that Pillow can read; give a JPEG or PNG file."),
        (b"no picture", "cat.png is not a picture that Pillow can read; give a JPEG or PNG file."),
        (png()[:60], "cat.png is not a picture|cat.png cannot be decoded"),
        (png((20000, 6000), 1, "1"), "cat.png has more than 100,000,000 pixels; give a smaller one."),
        (png((20000, 10000), 1, "1"), "cat.png has more than 100,000,000 pixels; give a smaller one."),
        (bytes(64_000_001), "cat.png has more than 64 MB; give a smaller picture."),
    ],
    ids=["empty", "text", "cut off", "many pixels", "more than Pillow opens", "many bytes"],
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
