"""Mosaics: pixels, boxes and the dealing of photographs by counting; response maps against the network's logits."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from conftest import assert_same_state, model_state
from PIL import Image

from perceptual_lib import InputError, load_photographs, perceptual_ball
from perceptual_lib.classifiers import Classifier
from perceptual_lib.images import Photograph
from perceptual_lib.mosaics import Mosaic, ResponseMaps, draw_mosaics, mosaic_classifier
from perceptual_lib.protocols.pointing import is_hit

COLOURS = ["red", "lime", "blue", "white"]


def photograph(name: str, target: int | None, box: tuple = (0, 0, 9, 9)) -> Photograph:
    return Photograph(name, Path(name), target, (box,) if box else (), (20, 20))


@pytest.fixture
def mosaic(tmp_path: Path) -> Mosaic:
    """Coloured photographs of 20 x 10 pixels, each with a grey object that differs in place and size."""
    boxes = [((0, 0, 9, 4),), ((10, 5, 19, 9), (0, 0, 1, 1)), ((0, 0, 19, 9),), ((6, 4, 7, 5),)]
    cells = []
    for index, (colour, of_cell) in enumerate(zip(COLOURS, boxes, strict=True)):
        picture = Image.new("RGB", (20, 10), colour)
        for left, top, right, bottom in of_cell:
            picture.paste("gray", (left, top, right + 1, bottom + 1))
        picture.save(tmp_path / f"{index}.png")
        cells.append(Photograph(str(index), tmp_path / f"{index}.png", 10 + index, of_cell, (20, 10)))
    return Mosaic("mosaic", tuple(cells))


# --- picture, boxes, difficult subset ------------------------------------------------------------------------


def test_cells_stand_in_rows_and_are_warped(mosaic: Mosaic) -> None:
    picture = mosaic.picture(30, 24)
    assert picture.mode == "RGB" and picture.size == (48, 60)
    for index, (column, row) in enumerate([(0, 0), (24, 0), (0, 30), (24, 30)]):
        expected = mosaic.cells[index].open().resize((24, 30), Image.Resampling.BILINEAR)
        assert picture.crop((column, row, column + 24, row + 30)).tobytes() == expected.tobytes()


def test_boxes_cover_the_objects_in_the_picture(mosaic: Mosaic) -> None:
    pixels = np.asarray(mosaic.picture(20, 40, Image.Resampling.NEAREST))  # twice as large: boxes stay whole
    mask = np.zeros(pixels.shape[:2], dtype=bool)
    for boxes in mosaic.boxes(20, 40):
        for left, top, right, bottom in boxes:
            mask[round(top) : round(bottom) + 1, round(left) : round(right) + 1] = True
    assert np.array_equal(mask, (pixels == 128).all(2))
    assert mosaic.boxes(20, 40)[1] == [(60, 10, 79, 19), (40, 0, 43, 3)]
    assert mosaic.targets == (10, 11, 12, 13)


def test_hard_is_below_a_quarter_of_the_cell(mosaic: Mosaic) -> None:
    assert mosaic.hard == (False, False, False, True)  # 50, 54, 200 and 4 of 200 pixels


def test_a_neighbour_is_not_hit_from_afar(mosaic: Mosaic) -> None:
    boxes = mosaic.boxes(224, 224)
    middles = [[(left + right) / 2, (top + bottom) / 2] for ((left, top, right, bottom), *_) in boxes]
    hits = np.array([is_hit(middles, of_class) for of_class in boxes])
    assert np.array_equal(hits, np.eye(4, dtype=bool))


# --- the list ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [1, 3])
def test_each_photograph_equally_often_and_four_classes_each(rounds: int) -> None:
    photographs = load_photographs()
    mosaics = draw_mosaics(photographs, rounds=rounds, seed=5)
    assert len(mosaics) == len({each.name for each in mosaics}) == 5 * rounds
    assert all(len(set(each.targets)) == 4 for each in mosaics)
    for turn in range(rounds):
        cells = [cell.name for each in mosaics[5 * turn : 5 * turn + 5] for cell in each.cells]
        assert sorted(cells) == [each.name for each in photographs]


def test_the_seed_decides() -> None:
    photographs = [photograph(str(index), index) for index in range(16)]
    mosaics = draw_mosaics(photographs, rounds=4, seed=1)
    assert mosaics == draw_mosaics(photographs, rounds=4, seed=1)
    assert mosaics != draw_mosaics(photographs, rounds=4, seed=2)
    assert mosaics[:4] == draw_mosaics(photographs, seed=1)
    assert len({frozenset(each.targets) for each in mosaics}) > 12  # hardly any four meet twice


def test_cells_of_a_photograph_vary() -> None:
    photographs = [photograph(str(index), index) for index in range(4)]
    corners = Counter(each.targets[0] for each in draw_mosaics(photographs, rounds=400))
    assert set(corners) == {0, 1, 2, 3} and min(corners.values()) > 60


def test_classes_with_several_photographs() -> None:
    """Four classes, a quarter each: each mosaic must take one of each."""
    photographs = [photograph(str(index), index % 4) for index in range(12)]
    for seed in range(20):
        assert all(set(each.targets) == {0, 1, 2, 3} for each in draw_mosaics(photographs, seed=seed))


@pytest.mark.parametrize(
    ("photographs", "rounds", "message"),
    [
        ([], 1, "0 photographs"),
        ([photograph(str(index), index) for index in range(6)], 1, "multiple of four"),
        ([photograph(str(index), index) for index in range(4)], 0, "0 rounds"),
        ([photograph(str(index), index // 2) for index in range(4)], 1, "more than a quarter"),
        ([photograph(str(index), None) for index in range(4)], 1, "0 has no class"),
        ([photograph(str(index), index, ()) for index in range(4)], 1, "no boxes"),
    ],
)
def test_bad_photographs(photographs: list, rounds: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw_mosaics(photographs, rounds=rounds)


# --- the network ---------------------------------------------------------------------------------------------


def test_the_mean_response_is_the_logit(embedded: Classifier) -> None:
    before = model_state(embedded)
    classifier = mosaic_classifier(embedded)
    picture = draw_mosaics(load_photographs())[0].picture(96, 128, classifier.interpolation)
    images = classifier.preprocess(picture, size=(192, 256))
    with torch.no_grad():
        responses = classifier(images)
        logits = embedded(images)
    assert responses.shape == (1, 1000, 6, 8)
    assert torch.allclose(responses.mean((2, 3)), logits, atol=1e-5)
    assert_same_state(before, model_state(embedded))


def test_pictures_are_twice_as_large_and_read_alike(embedded: Classifier) -> None:
    classifier = mosaic_classifier(embedded)
    mosaic = draw_mosaics(load_photographs())[0]
    images = classifier.preprocess(mosaic.picture(*embedded.input_size, classifier.interpolation))
    cells = embedded.preprocess(mosaic.cells)
    top, bottom = torch.cat(list(cells[:2]), 2), torch.cat(list(cells[2:]), 2)
    assert torch.equal(images[0], torch.cat([top, bottom], 1))
    assert classifier.class_names == embedded.class_names and classifier.name == embedded.name


def test_a_perturbation_takes_the_largest_response(embedded: Classifier) -> None:
    network = mosaic_classifier(embedded)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([3, 500])
    result = perceptual_ball(network, images, targets, layers=0, multilabel=True, max_iter=3, layer_weight=0.1)
    with torch.no_grad():
        regions = network(images).flatten(2)
    assert torch.allclose(result.margin_before, regions[torch.arange(2), targets].amax(1), atol=1e-4)
    assert ((result.margin + 2).abs() < (result.margin_before + 2).abs()).all()


def test_other_networks_are_refused() -> None:
    with pytest.raises(InputError, match="Linear is not an EfficientNet"):
        ResponseMaps(torch.nn.Linear(2, 2))
    with torch.device("meta"):
        for name, pool in (("mobilenetv3_small_050", "avg"), ("tf_efficientnet_lite0", "max")):
            with pytest.raises(InputError, match="averages over places"):
                ResponseMaps(timm.create_model(name, global_pool=pool))
