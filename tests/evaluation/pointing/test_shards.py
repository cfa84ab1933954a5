"""Shards of the pointing game: against the perturbation and the methods called by hand, and distances by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from stand_ins import Regions, kept, local_run

from perceptual_lib import explain, load_classifier, perceptual_ball, saliency_map
from perceptual_lib.evaluation.pointing import protocol, regions
from perceptual_lib.evaluation.pointing.regions import class_scores
from perceptual_lib.photographs.mosaics import Mosaic
from perceptual_lib.runs.shard import Shard

SETTINGS = {"layers": "0", "layer_weight": 10.0, "normalize_layers": False, "max_iter": 4}


@pytest.fixture
def mosaics(photographs) -> list[Mosaic]:
    return [Mosaic(f"mosaic {start}", tuple(photographs[start : start + 4])) for start in (0, 4)]


def maps_of(mosaics: list[Mosaic], method: str, settings: dict, scale: float = 1.0) -> Shard:
    arguments = {"method": method, "settings": settings, "scale": scale, "by_image": {"targets": [[4, 0, 1]] * 2}}
    return Shard(regions.__name__, arguments, tuple(mosaics), label=method)


def distances_of(maps: Shard, boxes: list) -> Shard:
    arguments = {"sigmas": [0.0, 3.0], "by_image": {"size": [[448, 448]] * 2, "boxes": boxes}}
    return Shard(protocol.__name__, arguments, maps.photographs, False, maps)


def by_hand(mosaic: Mosaic, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The mosaic three times, and the three classes."""
    images = load_classifier(Regions()).preprocess(mosaic.open(), size=(int(224 * scale), int(224 * scale)))
    return images.repeat(3, 1, 1, 1), torch.tensor([4, 0, 1])


def run(folder: Path, shard: Shard) -> dict[str, np.ndarray]:
    one = local_run(folder, network=Regions())
    one.complete([shard])
    arrays = one.load(shard)
    assert arrays["failure"].tolist() == ["", ""]
    return arrays


@pytest.mark.parametrize("scale", [1.0, 1.5])
@pytest.mark.parametrize("method", ["perceptual", "no_perceptual"])
def test_the_papers_maps_are_the_perturbations(tmp_path: Path, mosaics: list, method: str, scale: float) -> None:
    settings = SETTINGS if method == "perceptual" else {"layers": (), "max_iter": 4}
    arrays = run(tmp_path / "store", maps_of(mosaics, method, settings, scale))
    for mosaic, maps, scales in zip(mosaics, arrays["maps"], arrays["maps_scales"], strict=True):
        images, targets = by_hand(mosaic, scale)
        expected = saliency_map(perceptual_ball(Regions(), images, targets, multilabel=True, **settings).delta)
        assert maps.shape == expected.shape and maps.dtype == np.float16
        assert np.allclose(maps * scales[:, None, None], expected, rtol=1e-2, atol=1e-3 * scales.max())


def test_other_maps_are_the_methods(tmp_path: Path, mosaics: list) -> None:
    arrays = run(tmp_path / "store", maps_of(mosaics, "grad_cam", {"layer": "features.1"}))
    for mosaic, maps, scales in zip(mosaics, arrays["maps"], arrays["maps_scales"], strict=True):
        images, targets = by_hand(mosaic, 1.0)
        expected = explain(
            class_scores(load_classifier(Regions())), images, targets, method="grad_cam", layer="features.1"
        )
        assert np.allclose(maps * scales[:, None, None], expected, rtol=1e-2, atol=1e-3 * scales.max())


def test_a_run_goes_from_pictures_to_distances_the_same_each_time(tmp_path: Path, mosaics: list) -> None:
    boxes = [[question.boxes for question in mosaic.questions[:3]] for mosaic in mosaics]
    shard = distances_of(maps_of(mosaics, "perceptual", SETTINGS), boxes)
    arrays = run(tmp_path / "first", shard)
    assert arrays["distance"].shape == (2, 3 * 2) and arrays["distance"].dtype == np.float32
    run(tmp_path / "second", shard)
    assert kept(tmp_path / "first") == kept(tmp_path / "second")


def test_distances_by_hand() -> None:
    """Maps of half the picture's size: what is largest at (row, column) is so at (2 row, 2 column) or next to it."""
    maps = np.zeros((2, 2, 30, 40), dtype=np.float16)
    maps[0, 0, 10, 5] = maps[0, 1, 0, 0] = maps[1, 0, 29, 39] = maps[1, 1, 15, 20] = 1
    boxes = [
        [[[13, 24, 20, 30]], [[0, 0, 0, 0]]],  # 3 left of it and 4 above, inside
        [[[0, 0, 9, 59], [70, 0, 79, 49]], [[0, 0, 10, 59], [52, 0, 60, 20]]],  # below the second box; nearer to it
    ]
    arrays = {"maps": maps, "maps_scales": np.ones((2, 2), dtype=np.float32)}
    result = protocol.compute(None, None, needed=arrays, sigmas=[0], size=[[60, 80], [60, 80]], boxes=boxes)
    assert result["distance"].tolist() == [[5.0, 0.0], [10.0, pytest.approx(np.hypot(12, 10))]]
