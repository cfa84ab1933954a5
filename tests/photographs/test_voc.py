"""VOC 2007: a small tree in the layout of the download, and the network's regions without its weights."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from perceptual_lib import InputError
from perceptual_lib.core import vgg16_voc as voc_network
from perceptual_lib.core.networks import Classifier, load_classifier
from perceptual_lib.core.vgg16_voc import VOC_CLASSES, RegionVGG16, load_voc_classifier, network_size, preprocess
from perceptual_lib.evaluation.pointing.protocol import Question
from perceptual_lib.photographs import voc
from perceptual_lib.photographs.photographs import open_picture
from perceptual_lib.photographs.voc import computed_hard_pairs, load_voc, published_hard_pairs

CAT, DOG, PERSON = map(VOC_CLASSES.index, ("cat", "dog", "person"))

# (class, VOC's flag, box as VOC writes it: counted from 1, both ends inside), in pictures of 20 x 10 pixels
OBJECTS = {
    "000001": [("dog", 0, (3, 2, 6, 5)), ("person", 0, (1, 1, 20, 10)), ("dog", 1, (10, 10, 10, 10))],
    "000004": [("cat", 1, (1, 1, 2, 2)), ("person", 1, (5, 5, 6, 6))],
    "000008": [("cat", 0, (1, 1, 9, 5))],  # small, and alone
    "000010": [("cat", 0, (1, 1, 10, 5)), ("dog", 1, (1, 1, 1, 1))],  # exactly a quarter
}


def annotation(objects: list) -> str:
    parts = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    items = "".join(
        f"<object>{parts if name == 'person' else ''}<name>{name}</name><difficult>{flag}</difficult><bndbox>"
        f"<xmax>{right}</xmax><xmin>{left}</xmin><ymin>{top}</ymin><ymax>{bottom}</ymax></bndbox></object>"
        for name, flag, (left, top, right, bottom) in objects
    )
    size = "<size><width>20</width><height>10</height><depth>3</depth></size>"
    return f"<annotation><folder>VOC2007</folder>{size}{items}</annotation>"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "VOCdevkit/VOC2007"
    for name in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (folder / name).mkdir(parents=True)
    (folder / "ImageSets/Main/test.txt").write_text("\n".join(OBJECTS) + "\n")
    for name, objects in OBJECTS.items():
        (folder / f"Annotations/{name}.xml").write_text(annotation(objects))
        Image.new("RGB", (20, 10), "gray").save(folder / f"JPEGImages/{name}.jpg")
    Image.new("RGB", (20, 10)).save(folder / "JPEGImages/000002.jpg")  # of another set
    return tmp_path


# --- pictures, classes and boxes -----------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2007"])
def test_pictures_with_all_their_objects(tree: Path, below: str) -> None:
    scenes = load_voc(tree / below)
    assert [scene.name for scene in scenes] == list(OBJECTS)
    first = scenes[0]
    assert first.size == (20, 10) and first.path.name == "000001.jpg"
    assert [(each.target, each.box, each.difficult) for each in first.objects] == [
        (DOG, (2, 1, 5, 4), False),
        (PERSON, (0, 0, 19, 9), False),
        (DOG, (9, 9, 9, 9), True),
    ]


def test_a_class_is_asked_for_unless_all_its_objects_are_flagged(tree: Path) -> None:
    pairs = [pair for scene in load_voc(tree) for pair in scene.pairs]
    assert [(pair.name, pair.target) for pair in pairs] == [
        ("000001", DOG),
        ("000001", PERSON),
        ("000008", CAT),
        ("000010", CAT),
    ]
    assert pairs[0].boxes == ((2, 1, 5, 4), (9, 9, 9, 9))  # the flagged dog is part of the region
    assert pairs[0].open().size == pairs[0].size == (20, 10)
    assert pairs[0].box_mask(10, 20).sum() == 4 * 4 + 1


def test_a_question_has_all_boxes_of_its_class_and_may_be_hard(tree: Path) -> None:
    scene = load_voc(tree, {("000001", DOG), ("000008", PERSON)})[0]
    assert scene.questions == (
        Question(DOG, ((2, 1, 5, 4), (9, 9, 9, 9)), hard=True),
        Question(PERSON, ((0, 0, 19, 9),), hard=False),
    )
    assert load_voc(tree, set())[1].questions == ()  # all its objects are flagged


def test_a_scene_is_opened_as_stored(tree: Path) -> None:
    scene = load_voc(tree)[0]
    assert scene.files == (scene.path,) and not scene.upright
    exif = Image.Exif()
    exif[0x0112] = 6  # lying on its side
    Image.new("RGB", (20, 10)).save(scene.path, exif=exif)
    assert scene.open().size == open_picture(scene).size == scene.size
    assert open_picture(scene.path).size == (10, 20)


def test_the_same_objects_as_torchvision_reads(tree: Path) -> None:
    data = torchvision.datasets.VOCDetection(tree, year="2007", image_set="test")
    for scene, (_, target) in zip(load_voc(tree), data, strict=True):
        found = [(item["name"], int(item["bndbox"]["xmin"])) for item in target["annotation"]["object"]]
        assert [(VOC_CLASSES[each.target], each.box[0] + 1) for each in scene.objects] == found


def test_the_same_region_as_torchray(tree: Path) -> None:
    torchray = pytest.importorskip("torchray.benchmark.datasets")
    data = torchvision.datasets.VOCDetection(tree, year="2007", image_set="test")
    assert list(torchray.VOC_CLASSES) == VOC_CLASSES
    for scene, (_, target) in zip(load_voc(tree), data, strict=True):
        for pair in scene.pairs:
            expected = torchray.voc_as_mask(target, pair.target).numpy()
            assert np.array_equal(pair.box_mask(10, 20), expected)


def test_what_is_missing_is_said(tree: Path) -> None:
    folder = tree / "VOCdevkit/VOC2007"
    with pytest.raises(InputError, match=r"download https://\S+VOCtest\S+tar and unpack it into that folder"):
        load_voc(tree / "elsewhere")
    text = (folder / "Annotations/000008.xml").read_text()
    for broken in ("<annotation>", "<annotation/>", text.replace("cat", "lynx"), text.replace("xmin", "left")):
        (folder / "Annotations/000008.xml").write_text(broken)
        with pytest.raises(InputError, match=r"000008.xml is not an annotation of VOC"):
            load_voc(tree)
    (folder / "Annotations/000008.xml").unlink()
    with pytest.raises(InputError, match=r"000008.xml is missing; unpack https"):
        load_voc(tree)
    (folder / "JPEGImages/000004.jpg").unlink()
    with pytest.raises(InputError, match=r"000004.jpg is missing; unpack https"):
        load_voc(tree)
    (folder / "ImageSets/Main/test.txt").write_text("\n")
    with pytest.raises(InputError, match="names no picture"):
        load_voc(tree)


# --- the difficult subset ------------------------------------------------------------------------------------


def test_small_with_another_class_is_hard(tree: Path) -> None:
    assert computed_hard_pairs(load_voc(tree)) == {("000001", DOG)}


@pytest.mark.parametrize("installed", [True, False])
def test_the_published_list_goes_first(tree: Path, monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    monkeypatch.setattr(voc, "distributions", lambda name: ["torchray"] if installed else [])
    monkeypatch.setattr(voc, "published_hard_pairs", lambda: {("000008", CAT)})
    hard = {scene.name: scene.hard for scene in load_voc(tree) if scene.hard}
    assert hard == ({"000008": {CAT}} if installed else {"000001": {DOG}})


def test_the_published_list_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "hard.txt"
    rows = {"000001": [DOG], "000002": [], "000003": [CAT, PERSON]}
    lines = ["\t".join([name, *(str(int(target in hard)) for target in range(20))]) for name, hard in rows.items()]
    path.write_text("\n".join(lines) + "\n")
    assert published_hard_pairs(path) == {("000001", DOG), ("000003", CAT), ("000003", PERSON)}
    for text in ("", "000001 1 0\n", lines[0] + "\t0", lines[0].replace("1\t", "2\t")):
        path.write_text(text)
        with pytest.raises(InputError, match="is no list of difficult pairs"):
            published_hard_pairs(path)
    with pytest.raises(InputError, match="there is no list"):
        published_hard_pairs(tmp_path / "none.txt")


def test_the_published_list_in_torchray() -> None:
    """VOC's picture 000001 shows a small dog before a person who fills it."""
    pytest.importorskip("torchray")
    hard = published_hard_pairs()
    assert [pair for pair in hard if pair[0] == "000001"] == [("000001", DOG)]
    assert {target for _, target in hard} == set(range(20))


@pytest.mark.skipif("VOC_ROOT" not in os.environ, reason="VOC_ROOT does not name a copy of VOC 2007's test set")
def test_real_voc() -> None:
    scenes = load_voc(os.environ["VOC_ROOT"])
    assert len(scenes) == 4952 and scenes[0].name == "000001"
    for scene in scenes:
        for left, top, right, bottom in (each.box for each in scene.objects):
            assert 0 <= left <= right < scene.size[0] and 0 <= top <= bottom < scene.size[1]
    assert all(scene.open().size == scene.size for scene in scenes[::500])


# --- the network ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "size", "regions"), [(1.0, (224, 298), (1, 4)), (1.5, (336, 448), (5, 8))], ids=["1 x", "1.5 x"]
)
def test_regions_of_a_picture(scale: float, size: tuple, regions: tuple) -> None:
    assert network_size(500, 375, scale) == size and network_size(375, 500, scale) == size[::-1]
    with torch.device("meta"):
        responses = RegionVGG16()(torch.empty(2, 3, *size))
    assert responses.shape == (2, 20, *regions)


def test_its_activations_are_vgg16s() -> None:
    """ReLU 9 and 12, which the paper holds, are features.22 and features.29."""
    with torch.device("meta"):
        network = RegionVGG16()
        vgg = torchvision.models.vgg16(num_classes=20)
    names = [name for name, module in network.named_modules() if isinstance(module, nn.ReLU)]
    assert names == [name for name, module in vgg.named_modules() if isinstance(module, nn.ReLU)]
    assert (names[9], names[12]) == ("features.22", "features.29")
    assert [module.ceil_mode for module in network.modules() if isinstance(module, nn.MaxPool2d)] == [True] * 5


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def drawn() -> dict[str, torch.Tensor]:
    """A state dict of torchvision's VGG16 with 20 outputs, whose large layers hold few numbers in memory."""
    with torch.device("meta"):
        own = torchvision.models.vgg16(num_classes=20).state_dict()
    state = {}
    for key, value in own.items():
        small = noise(value.shape[0], *[1] * (value.ndim - 1)) / value[0].numel()
        state[key] = small.expand(value.shape)
    return state


def test_weights_from_a_file(tmp_path: Path, drawn: dict) -> None:
    path = tmp_path / "vgg16.pth"
    torch.save(drawn, path)
    classifier = load_voc_classifier(path)
    assert not classifier.training and not classifier.network.classifier[2].training
    assert classifier.class_name(DOG) == "dog" and classifier.name == "vgg16_voc"
    own, by_name = (each.network.state_dict() for each in (classifier, load_classifier("vgg16_voc", path, "cpu")))
    assert own.keys() == by_name.keys() == drawn.keys()
    for key, value in drawn.items():
        assert torch.equal(own[key].flatten(), value.flatten()) and torch.equal(own[key], by_name[key])


@pytest.mark.parametrize("change", ["key", "shape", "kind"])
def test_weights_of_another_network(tmp_path: Path, drawn: dict, change: str) -> None:
    path = tmp_path / "other.pth"
    if change == "key":
        drawn.pop("features.0.bias")
    elif change == "shape":
        drawn["classifier.6.weight"] = torch.zeros(1, 1).expand(1000, 4096)
    if change == "kind":
        path.write_text("no weights")
    else:
        torch.save(drawn, path)
    with pytest.raises(InputError, match="does not hold the weights of a VGG16 with 20 outputs"):
        load_voc_classifier(path)
    with pytest.raises(InputError, match="there is no weights file"):
        load_classifier("vgg16_voc", tmp_path / "none.pth")


def test_published_weights(tmp_path: Path, drawn: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """From torch's folder of checkpoints where they are there, and only those that were published."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    path = tmp_path / "checkpoints" / "vgg16_voc-b050e8c3.pth.tar"

    def download(address: str, target: str) -> None:
        assert address == "https://dl.fbaipublicfiles.com/torchray/vgg16_voc-b050e8c3.pth.tar" and target == str(path)
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(InputError, match=r"download https://\S+ and put it at .*checkpoints"):
        load_voc_classifier()
    torch.save(drawn, path)
    with pytest.raises(InputError, match="its hash differs"):
        load_voc_classifier()
    monkeypatch.setattr(voc_network, "WEIGHTS_SHA256", hashlib.sha256(path.read_bytes()).hexdigest()[:8])
    assert torch.equal(load_voc_classifier().network.features[0].weight, drawn["features.0.weight"])


@pytest.mark.slow
def test_a_region_is_torchvisions_vgg16() -> None:
    """Each region is what the linear layers make of 7 x 7 of the features."""
    classifier = load_voc_classifier("random")
    with torch.device("meta"):
        vgg = torchvision.models.vgg16(num_classes=20).eval()
    own = vgg.state_dict()
    weights = {key: value.view(own[key].shape) for key, value in classifier.network.state_dict().items()}
    vgg.load_state_dict(weights, assign=True)
    images = 100 * noise(1, 3, 224, 298)
    with torch.no_grad():
        responses = classifier(images)
        features = classifier.network.features(images)
        for column in range(4):
            window = features[..., column : column + 7]
            assert torch.allclose(responses[:, :, 0, column], vgg.classifier(window.flatten(1)), atol=1e-5)
        assert torch.allclose(classifier(images[..., :224])[:, :, 0, 0], vgg(images[..., :224]), atol=1e-5)


class Nothing(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Classifier:
    """The classifier without its half gigabyte of weights: it returns what it is given."""
    monkeypatch.setattr(voc_network, "RegionVGG16", Nothing)
    return load_voc_classifier("random")


def test_the_network_takes_0_to_255_less_the_mean(reader: Classifier) -> None:
    images = preprocess(reader, Image.new("RGB", (500, 375), (200, 100, 50)))
    assert images.shape == (1, 3, 224, 298)
    assert images[0, :, 7, 7].tolist() == pytest.approx([200 - 123.68, 100 - 116.779, 50 - 103.939], abs=1e-4)


@pytest.mark.parametrize("size", [(500, 375), (333, 500), (500, 374), (120, 90)], ids=str)
@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_the_same_inputs_as_torchray(reader: Classifier, size: tuple, scale: float) -> None:
    torchray = pytest.importorskip("torchray.benchmark.models")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    expected = torchray.get_transform("voc", round(224 * scale))(picture)
    assert torch.allclose(preprocess(reader, picture, scale)[0], expected, atol=1e-3)
