"""Runs: what is computed, and what fails alone."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from stand_ins import (
    Small,
    fragile,
    kept,
    local_run,
    map_shard,
    score_shard,
    work,
)

from perceptual_lib import load_classifier
from perceptual_lib.core.errors import InputError
from perceptual_lib.methods import METHODS
from perceptual_lib.photographs.photographs import Photograph
from perceptual_lib.runs import run as engine
from perceptual_lib.runs.shard import Shard

PASSES = {"grad_cam": (100, 0), "gradient": (2, 4), "center": (9, 0)}
"""Of an image, forward and backward, as a shard says; the dearest first: a backward pass takes the time of two."""

# ---- results


def test_a_run_is_what_the_functions_give(tmp_path, photographs) -> None:
    run = local_run(tmp_path / "store")
    shard = score_shard(map_shard(photographs[:3], "gradient"))
    run.complete([shard])
    classifier = load_classifier(Small())
    images = classifier.preprocess(photographs[:3])
    targets = classifier(images).argmax(1)
    pixels = images.clone().requires_grad_()
    chosen = classifier(pixels)[torch.arange(3), targets].sum()
    expected = METHODS["gradient"].function(classifier, images, targets)
    assert torch.allclose(expected, torch.autograd.grad(chosen, pixels)[0].abs().amax(1), atol=1e-7)
    maps, scores = run.load(shard.needs), run.load(shard)
    restored = maps["maps"].astype(np.float32) * maps["maps_scales"][:, None, None]
    assert np.allclose(restored, expected.detach().numpy(), rtol=1e-3, atol=1e-8)
    assert maps["targets"].tolist() == targets.tolist() and maps["failure"].tolist() == ["", "", ""]
    assert scores["hits"].shape == (3, 2, 250) and (maps["seconds"] > 0).all()


def test_nothing_is_computed_twice(tmp_path, photographs) -> None:
    states = []
    run = local_run(tmp_path / "store", lambda shard, state: states.append((state, shard.label)))
    shards = work(photographs[:2])
    run.complete(shards)
    assert Counter(state for state, _ in states) == {"started": 6, "finished": 6}
    assert [state for state, _ in states] == ["started", "finished"] * 6
    again = local_run(tmp_path / "store", lambda *state: states.append(state))
    again.complete(shards)
    assert len(states) == 12 and again.unfinished(shards) == []


@pytest.mark.parametrize("lost", ["maps", "scores"])
def test_lost_or_damaged_shard_is_computed_again(tmp_path, photographs, lost) -> None:
    run, shard = local_run(tmp_path / "store"), score_shard(map_shard(photographs[:2]))
    run.complete([shard])
    before = kept(tmp_path / "store")
    path = run.store.path(run.key(shard.needs if lost == "maps" else shard))
    path.write_bytes(path.read_bytes()[:-7])
    again = local_run(tmp_path / "store")
    with pytest.warns(UserWarning, match="damaged"):
        assert again.load(shard if lost == "scores" else shard.needs) is None
    again.complete([shard])  # also where scores are left of maps that are not: a table would lack them
    assert kept(tmp_path / "store") == before


def test_the_dearest_come_first_and_scores_behind_their_maps(tmp_path, photographs) -> None:
    maps = [
        replace(map_shard([photographs[0]], name), passes=PASSES[name]) for name in ("gradient", "center", "grad_cam")
    ]
    started = []
    run = local_run(tmp_path / "store", lambda shard, state: started.extend([shard.label] * (state == "started")))
    run.complete([*map(score_shard, maps), map_shard([photographs[1]], "deconvnet")])
    assert started == [label for name in PASSES for label in (name, f"score {name}")] + ["deconvnet"]


def test_needed_shard_that_vanishes_in_the_middle_is_computed_again(tmp_path, photographs) -> None:
    shards, finished = work(photographs[:4], 4), []

    def report(shard: Shard, state: str) -> None:
        finished.extend([shard.label] * (state == "finished"))
        if state == "finished" and finished == ["gradient", "score gradient", "center"]:
            run.store.path(run.key(shards[1].needs)).unlink()

    run = local_run(tmp_path / "store", report)
    run.complete(shards)
    assert Counter(finished)["center"] == 2 and run.unfinished(shards) == []


# ---- failures of images


def bright(images: torch.Tensor) -> torch.Tensor:
    """(B,) bool: the images that are white all over."""
    return (images.flatten(1).amin(1) > 2).cpu()


def raising(images, maps):
    if bright(images).any():
        raise ZeroDivisionError("too\nbright")
    return maps


def not_a_number(images, maps):
    maps[bright(images)] = torch.nan
    return maps


def short_of_memory(images, maps):
    if len(images) > 1:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")
    return maps


@pytest.mark.parametrize(
    ("fails", "reason"),
    [(raising, "ZeroDivisionError: too bright"), (not_a_number, "gave a map with NaN or infinity")],
)
def test_method_that_fails_on_one_image(tmp_path, photographs, register, fails, reason) -> None:
    Image.new("RGB", (50, 40), "white").save(photographs[2].path)
    register("fragile", fragile(fails))
    run = local_run(tmp_path / "store")
    others = [photograph for photograph in photographs[:5] if photograph is not photographs[2]]
    with_it, without_it = (score_shard(map_shard(some, "fragile")) for some in (photographs[:5], others))
    run.complete([with_it, without_it])
    for shard in (with_it.needs, with_it):
        failures = run.load(shard)["failure"].tolist()
        assert reason in failures.pop(2) and failures == [""] * 4
    for one, other in ((with_it, without_it), (with_it.needs, without_it.needs)):
        ours, theirs = run.load(one), run.load(other)
        for name in ours.keys() - {"failure", "seconds"}:
            assert len(ours[name]) == 4 and np.array_equal(ours[name], theirs[name])


def test_too_little_memory_for_all_at_once(tmp_path, photographs, register) -> None:
    register("plain", fragile(lambda images, maps: maps))
    register("greedy", fragile(short_of_memory))
    run = local_run(tmp_path / "store")
    greedy, plain = (map_shard(photographs[:5], method) for method in ("greedy", "plain"))
    run.complete([greedy, plain])
    assert run.load(greedy)["failure"].tolist() == [""] * 5
    assert np.array_equal(run.load(greedy)["maps"], run.load(plain)["maps"])


def test_method_that_fails_on_every_image(tmp_path, photographs, register) -> None:
    register("hopeless", fragile(lambda images, maps: 1 / 0))
    run, shard = local_run(tmp_path / "store"), score_shard(map_shard(photographs[:3], "hopeless"))
    run.complete([shard])
    assert run.load(shard)["failure"].tolist() == ["ZeroDivisionError: division by zero"] * 3
    assert run.load(shard).keys() == {"failure", "seconds"}


def test_method_that_a_worker_does_not_know_is_no_failure_of_an_image(tmp_path, photographs, monkeypatch) -> None:
    run = local_run(tmp_path / "store")
    with pytest.raises(InputError, match="no method 'unheard'"):
        run.executor.submit(
            "compute", "perceptual_lib.evaluation.maps", {"method": "unheard", "settings": {}}, [""], None
        )


@pytest.mark.parametrize("harm", ["remove", "damage"])
def test_image_that_is_lost_in_the_middle_and_comes_back(tmp_path, photographs, harm) -> None:
    shards, victim = work(photographs), photographs[5]
    content = victim.path.read_bytes()

    def report(shard: Shard, state: str) -> None:
        if state == "finished" and victim.path.exists() and run.store.path(run.key(shards[0])).exists():
            victim.path.unlink() if harm == "remove" else victim.path.write_bytes(content[:200])

    undisturbed = local_run(tmp_path / "undisturbed")
    undisturbed.complete(shards)
    run = local_run(tmp_path / "store", report)
    run.complete(shards)
    reason = "does not exist" if harm == "remove" else "cannot be decoded"
    for shard in shards:
        failures = dict(zip([each.name for each in shard.photographs], run.load(shard)["failure"], strict=True))
        assert all((name == victim.name) == bool(failure) for name, failure in failures.items())
        assert reason in failures.get(victim.name, reason)
    victim.path.write_bytes(content)
    states = Counter()
    again = local_run(tmp_path / "store", lambda shard, state: states.update([state]))
    again.complete(shards)
    assert 0 < states["finished"] <= 6  # one shard of maps and one of scores for each of three methods
    assert kept(tmp_path / "undisturbed").items() <= kept(tmp_path / "store").items()
    for shard in shards:
        assert not any(again.load(shard)["failure"])


def test_image_that_changes_in_the_middle_leaves_nothing_stale(tmp_path, photographs) -> None:
    shards, changed = work(photographs), photographs[0]
    new = photographs[7].path.read_bytes()

    def report(shard: Shard, state: str) -> None:
        if state == "finished" and shard.label == "center":
            changed.path.write_bytes(new)

    run = local_run(tmp_path / "store", report)
    run.complete(shards)
    fresh = local_run(tmp_path / "fresh")
    fresh.complete(shards)
    for shard in shards:
        assert np.array_equal(run.load(shard)["hits"], fresh.load(shard)["hits"])


def test_image_that_changes_while_it_is_read_is_not_kept_under_the_old_key(tmp_path, photographs, monkeypatch) -> None:
    read, new = engine._open, photographs[7].path.read_bytes()

    def slow(photograph: Photograph) -> Image.Image | str:
        monkeypatch.setattr(engine, "_open", read)
        photographs[0].path.write_bytes(new)
        return read(photograph)

    run, shard = local_run(tmp_path / "store"), map_shard(photographs[:2])
    old = run.key(shard)
    monkeypatch.setattr(engine, "_open", slow)
    run.complete([shard])
    assert run.key(shard) != old and run.store.load(old) is None and run.load(shard) is not None
