"""What is missing is named before anything is computed: on folders and files that the tests make."""

import pytest
import torch
from PIL import Image

from perceptual_lib.evaluation.needs import downloads, missing
from perceptual_lib.evaluation.profile import load_profile
from perceptual_lib.evaluation.sections import ClassifierSection, PhotographsSection


def with_photographs(source):
    return load_profile("demo").model_copy(update={"photographs": PhotographsSection(source=str(source))})


def with_classifier(**arguments):
    return load_profile("demo").model_copy(update={"classifier": ClassifierSection(**arguments)})


def test_the_demo_needs_nothing_more() -> None:
    assert missing(load_profile("demo")) == downloads(load_profile("demo")) == []


def test_the_paper_needs_weights_images_and_voc(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.delenv("IMAGENET_ROOT", raising=False)
    monkeypatch.delenv("VOC_ROOT", raising=False)
    paper = load_profile("paper")
    (images, voc), (weights, voc_weights) = missing(paper), downloads(paper)
    file = tmp_path / "checkpoints" / "vgg19_bn-c79401a0.pth"
    assert "https://download.pytorch.org/models/vgg19_bn-c79401a0.pth" in weights and str(file) in weights
    assert "https://dl.fbaipublicfiles.com/torchray/vgg16_voc-b050e8c3.pth.tar" in voc_weights
    assert "$IMAGENET_ROOT" in images and "https://image-net.org" in images
    assert "$VOC_ROOT" in voc and "VOCtest_06-Nov-2007.tar" in voc
    assert missing(paper, ["localization"]) == [images] and missing(paper, ["pointing"]) == [voc]
    file.parent.mkdir()
    file.touch()
    assert missing(paper) == [images, voc] and downloads(paper) == [voc_weights]


def test_photographs_without_boxes_are_counted(tmp_path) -> None:
    for name in "ab":
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    (problem,) = missing(with_photographs(tmp_path))
    assert problem.startswith("the boxes of 2 of 2 photographs, a for one.")


def test_a_folder_that_is_not_there(tmp_path) -> None:
    (problem,) = missing(with_photographs(tmp_path / "none"))
    assert str(tmp_path / "none") in problem and "IMAGENET_ROOT" not in problem


def test_a_folder_at_home(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (problem,) = missing(with_photographs("~/none"))
    assert f"{tmp_path}/none is not an existing file" in problem


def test_a_file_of_weights_that_is_not_there(tmp_path) -> None:
    (problem,) = missing(with_classifier(model="resnet18", weights=str(tmp_path / "own.pth")))
    assert str(tmp_path / "own.pth") in problem
    assert missing(with_classifier(model="resnet18", weights="random")) == []
