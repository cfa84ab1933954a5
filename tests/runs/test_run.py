"""Runs: what is computed, what fails alone, and what survives being killed."""

import multiprocessing
import multiprocessing.connection
import os
import random
import signal
import sys
import time
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from stand_ins import (
    Small,
    fragile,
    keep_a_worker_busy,
    kept,
    leftovers,
    local_run,
    make_photographs,
    map_shard,
    run_beside,
    score_shard,
    work,
)

from perceptual_lib import load_classifier
from perceptual_lib.core.errors import InputError
from perceptual_lib.methods import METHODS
from perceptual_lib.photographs.photographs import Photograph
from perceptual_lib.runs import run as engine
from perceptual_lib.runs.shard import Shard
from perceptual_lib.runs.store import Store

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
    again.complete([shard, shard.needs])
    assert kept(tmp_path / "store") == before


def test_needed_shard_that_vanishes_in_the_middle_is_computed_again(tmp_path, photographs) -> None:
    shards, finished = work(photographs[:4], 4), []

    def report(shard: Shard, state: str) -> None:
        finished.extend([shard.label] * (state == "finished"))
        if len(finished) == 3:  # all maps are there, and known to be
            run.store.path(run.key(shards[1].needs)).unlink(missing_ok=True)

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


# ---- killed, interrupted, and two at once


@pytest.fixture(scope="module")
def server():
    """Starts processes that have the imports behind them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["stand_ins", "timm", "perceptual_lib.evaluation.localization.components"])
        yield context


@pytest.mark.slow
def test_killed_at_twenty_random_moments(tmp_path, server) -> None:
    photographs = make_photographs(tmp_path / "photographs", 10)
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "store"
    start = time.perf_counter()
    local_run(undisturbed).complete(work(photographs, 1))
    whole = time.perf_counter() - start
    draw, kills, survivors = random.Random(0), 0, {}
    for _ in range(20):
        states = server.SimpleQueue()
        process = server.Process(target=run_beside, args=(folder, photographs, states))
        process.start()
        multiprocessing.connection.wait([states._reader, process.sentinel])  # until a shard starts, or all is finished
        time.sleep(draw.uniform(0, whole / 10))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        finished = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("??/*.npz")}
        assert survivors.items() <= finished.items()  # none was computed twice
        survivors = finished
    assert kills >= 10 and survivors
    local_run(folder).complete(work(photographs, 1))
    assert kept(folder) == kept(undisturbed)
    assert survivors.items() <= {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.glob("??/*.npz")}.items()
    assert Store(folder).running() == {} and leftovers(folder) == []


@pytest.mark.slow
def test_workers_end_with_a_run_that_is_killed(server) -> None:
    here, there = server.Pipe()
    process = server.Process(target=keep_a_worker_busy, args=(there,))
    process.start()
    worker = here.recv()
    os.kill(worker, 0)  # it is there
    process.kill()
    process.join()
    deadline = time.monotonic() + 20
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(worker, 0)
            time.sleep(0.05)


@pytest.mark.slow
def test_two_runs_at_once_share_the_work(tmp_path, server) -> None:
    photographs = make_photographs(tmp_path / "photographs", 6)
    folder, states = tmp_path / "store", server.Queue()
    processes = [server.Process(target=run_beside, args=(folder, photographs, states)) for _ in range(2)]
    for process in processes:
        process.start()
    reports = []
    while any(process.is_alive() for process in processes) or not states.empty():
        while not states.empty():
            reports.append(states.get())
        time.sleep(0.05)
    assert [process.exitcode for process in processes] == [0, 0]
    finished = Counter(key for _, state, key in reports if state == "finished")
    assert len(finished) == 36 and set(finished.values()) == {1}
    assert {pid for pid, state, _ in reports if state == "finished"} == {process.pid for process in processes}
    local_run(tmp_path / "alone").complete(work(photographs, 1))
    assert kept(folder) == kept(tmp_path / "alone") and leftovers(folder) == []


def test_interrupt_leaves_nothing_unfinished_behind(tmp_path, photographs) -> None:
    def interrupt(shard: Shard, state: str) -> None:
        if len(kept(tmp_path / "store")) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        local_run(tmp_path / "store", interrupt).complete(work(photographs))
    assert len(kept(tmp_path / "store")) == 3 and leftovers(tmp_path / "store") == []
