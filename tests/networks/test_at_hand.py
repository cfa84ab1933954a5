"""Pictures, targets, layers and weights in the forms in which people have them at hand."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import save_file
from torch import Tensor, nn

from perceptual_lib import Classifier, InputError, explain, load_classifier, perceptual_ball
from perceptual_lib.networks.pictures import open_picture

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def stream(format: str = "PNG") -> BytesIO:
    file = BytesIO()
    Image.fromarray(PIXELS).save(file, format)
    file.seek(0)
    return file


AT_HAND = {
    "array": lambda: PIXELS,
    "floats": lambda: PIXELS / 255,
    "float32": lambda: (PIXELS / 255).astype(np.float32),
    "four channels": lambda: np.dstack([PIXELS, np.full(PIXELS.shape[:2], 255, dtype=np.uint8)]),
    "BytesIO": stream,
    "bytes": lambda: stream().getvalue(),
}


@pytest.mark.parametrize("make", AT_HAND.values(), ids=AT_HAND)
def test_pictures_that_are_no_files(make) -> None:
    assert np.array_equal(np.asarray(open_picture(make())), PIXELS)
    classifier = Classifier(nn.Flatten(), input_size=(20, 30))
    one = classifier.preprocess(make())
    assert one.shape == (1, 3, 20, 30)
    assert torch.equal(classifier.preprocess([make(), make()]), torch.cat([one, one]))


def test_a_batch_of_arrays_and_a_grey_one() -> None:
    classifier = Classifier(nn.Flatten(), input_size=(20, 30))
    assert classifier.preprocess(np.stack([PIXELS] * 3)).shape == (3, 3, 20, 30)
    grey = classifier.pixels(classifier.preprocess(PIXELS[..., 0]))[0]
    assert torch.allclose(grey[..., 0] * 255, torch.from_numpy(PIXELS[..., 0]).float(), atol=0.01)


@pytest.mark.parametrize("wrong", [PIXELS.astype(int), PIXELS * 1.0, PIXELS.transpose(2, 0, 1), PIXELS[0, 0]])
def test_arrays_that_are_no_pictures(wrong) -> None:
    with pytest.raises(InputError, match="a picture as an array is"):
        open_picture(wrong)


def test_a_stream_that_is_no_picture() -> None:
    with pytest.raises(InputError, match="the picture is not a picture that Pillow can read"):
        open_picture(BytesIO(b"not a picture"))


TARGETS = [2, np.int64(2), torch.tensor(2), [2] * 4, (2,) * 4, np.full(4, 2), np.full(4, 2, np.int32)]


@pytest.mark.parametrize("targets", [*TARGETS, torch.full((4,), 2, dtype=torch.uint8)], ids=repr)
def test_targets(tiny, images, targets) -> None:
    assert perceptual_ball(tiny, images, targets, max_iter=1).targets.tolist() == [2] * 4
    assert torch.equal(explain(tiny, images, targets, method="gradient"), explain(tiny, images, 2, method="gradient"))


@pytest.mark.parametrize(
    "targets", [True, 2.0, [2, 2], [2.0] * 4, [[2]] * 4, ["cat"] * 4, "cat", np.float64(2)], ids=repr
)
def test_targets_that_are_no_classes(tiny, images, targets) -> None:
    with pytest.raises(InputError, match="targets must be None, one class index, or 4 of them"):
        perceptual_ball(tiny, images, targets, max_iter=1)


@pytest.mark.parametrize("method", ["grad_cam", "normgrad", "excitation_backprop"])
@pytest.mark.parametrize("layer", ["0-1", [], range(2)], ids=repr)
def test_one_layer_is_one_layer(tiny, images, method, layer) -> None:
    with pytest.raises(InputError, match="looks at one layer"):
        explain(tiny, images, method=method, layer=layer)


def test_weights_of_another_network_are_still_refused(tmp_path) -> None:
    state: dict[str, Tensor] = {"module.other": torch.ones(1)}
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(InputError, match="weights of another network"):
        load_classifier(nn.Sequential(nn.Conv2d(3, 4, 3)), weights=tmp_path / "weights.pth")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["png", "tif", "jpg"])
def test_an_orientation_beside_a_bad_tag_is_followed(tmp_path, orientation, format) -> None:
    """As Pillow follows it where all tags are good."""
    smooth = Image.fromarray(PIXELS).resize((32, 48), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    smooth.save(tmp_path / f"good.{format}", exif=exif)
    with Image.open(tmp_path / f"good.{format}") as good:
        expected = np.asarray(ImageOps.exif_transpose(good).convert("RGB"))
    assert np.array_equal(np.asarray(open_picture(tmp_path / f"good.{format}")), expected)
    with Image.open(tmp_path / f"good.{format}") as bad:
        bad.getexif()[0x010E] = object()  # a tag that cannot be written again
        assert np.array_equal(np.asarray(open_picture(bad)), expected)


@pytest.mark.parametrize(
    ("bits", "mode"), [(8, "I;16"), (10, "I;16"), (8, "I"), (12, "I;16"), (14, "I;16"), (16, "I;16"), (12, "I")]
)
def test_significant_bits_of_deep_pictures(bits, mode) -> None:
    """White is the largest value that so many bits can hold, and not that of the file's sixteen."""
    values = np.linspace(0, 2**bits - 1, 64).reshape(8, 8)
    image = Image.fromarray(values.astype(np.uint16 if mode == "I;16" else np.int32))
    assert image.mode == mode
    grey = np.asarray(open_picture(image))[..., 0]
    assert grey.min() == 0 and grey.max() == 255
    assert np.abs(grey - values / (2**bits - 1) * 255).max() <= 1


@pytest.mark.parametrize(
    ("white", "largest"), [(1.0, 1.0), (1.0, 1.05), (2.0, 2.0), (255.0, 255.0), (255.0, 256.0), (1e6, 1e6)]
)
def test_floats_and_what_resampling_overshoots(white, largest) -> None:
    values = np.linspace(0, largest, 64, dtype=np.float32).reshape(8, 8)
    grey = np.asarray(open_picture(Image.fromarray(values)))[..., 0]
    assert np.abs(grey - (values / white * 255).clip(0, 255)).max() <= 1


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_a_chunk_that_is_no_exif(format) -> None:
    file = BytesIO()
    Image.fromarray(PIXELS).save(file, format, exif=b"Exif\0\0garbage", lossless=True)
    assert np.array_equal(np.asarray(open_picture(file)), PIXELS)


@pytest.mark.parametrize(
    "given", [torch.zeros(3, 4, 4), None, 7, (Image.new("RGB", (2, 2)), 3)], ids=lambda each: type(each).__name__
)
def test_what_is_no_picture_is_a_sentence(given) -> None:
    with pytest.raises(InputError, match=r"(pictures are|a picture is a?) ?.*(PIL image)"):
        Classifier(nn.Flatten()).preprocess(given)


def averaged(network: nn.Module) -> dict:
    return torch.optim.swa_utils.AveragedModel(network).state_dict()


CHECKPOINTS = {
    "plain": lambda network: network.state_dict(),
    "of the tutorial": lambda network: {"epoch": 3, "model_state_dict": network.state_dict(), "loss": 0.1},
    "nested": lambda network: {"state_dict": {"model": network.state_dict()}},
    "averaged": averaged,
    "of a part": lambda network: {f"model.backbone.{key}": value for key, value in network.state_dict().items()},
    "lightning": lambda network: {
        "state_dict": {f"model.{key}": value for key, value in network.state_dict().items()}
        | {"criterion.weight": torch.ones(5)}
    },
    "before counters": lambda network: {
        key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")
    },
    "parallel and compiled": lambda network: torch.compile(nn.DataParallel(network), backend="eager").state_dict(),
}


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("kind", CHECKPOINTS)
@pytest.mark.parametrize("into", ["plain", "compiled", "parallel"])
def test_checkpoints(tiny, tmp_path, kind, into, suffix) -> None:
    saved = CHECKPOINTS[kind](tiny)
    if suffix == "safetensors":
        if not all(isinstance(value, Tensor) for value in saved.values()):
            pytest.skip("it holds tensors alone")
        save_file({key: value.clone() for key, value in saved.items()}, tmp_path / "weights.safetensors")
    else:
        torch.save(saved, tmp_path / "weights.pth")
    fresh = type(tiny)().double()
    outer = {
        "plain": lambda net: net,
        "compiled": lambda net: torch.compile(net, backend="eager"),
        "parallel": nn.DataParallel,
    }
    load_classifier(outer[into](fresh), tmp_path / f"weights.{suffix}")
    assert all(torch.equal(value, fresh.state_dict()[key]) for key, value in tiny.state_dict().items())
