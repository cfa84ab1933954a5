"""Shards and runs: what a key depends on, what fails alone, and what survives being killed."""

import ast
import multiprocessing
import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from perceptual_lib import engine, load_classifier
from perceptual_lib.engine import Local, Processes, Ray, Run, Shard, Worker, code_digest, make_executor
from perceptual_lib.errors import InputError
from perceptual_lib.explainers import METHODS, explainer
from perceptual_lib.images import Photograph
from perceptual_lib.results import Store


class Small(nn.Sequential):
    """Fast, with weights that depend on nothing but the seed."""

    def __init__(self, seed: int = 0) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            super().__init__(
                nn.Conv2d(3, 4, 3, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 5)
            )


class Deadly(Small):
    """Kills the process that it runs in."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def photographs(tmp_path) -> list[Photograph]:
    return make_photographs(tmp_path / "photographs", 8)


def make_photographs(folder: Path, count: int) -> list[Photograph]:
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return [Photograph(path.stem, path, 0, ((5, 5, 30, 30),), (50, 40)) for path in sorted(folder.iterdir())]


def map_shard(photographs, method: str = "gradient", **settings) -> Shard:
    return Shard("explanation", {"method": method, "settings": settings}, tuple(photographs), label=method)


def score_shard(needs: Shard, sigmas=(0.0, 4.0)) -> Shard:
    boxes = [photograph.scaled_boxes(224, 224) for photograph in needs.photographs]
    arguments = {"array": "maps", "sigmas": list(sigmas), "by_image": {"boxes": boxes}}
    return Shard("localization", arguments, needs.photographs, False, needs, f"score {needs.label}")


def work(photographs, size: int = 2) -> list[Shard]:
    """Scores of three methods, shards of so many photographs, behind maps of the same."""
    return [
        score_shard(map_shard(photographs[start : start + size], method, **settings))
        for method, settings in (("gradient", {}), ("center", {}), ("perceptual", {"max_iter": 2}))
        for start in range(0, len(photographs), size)
    ]


def local_run(folder: Path, report=lambda *_: None, network: nn.Module | None = None) -> Run:
    return Run(Store(folder), Local({"model": network or Small()}), report)


def kept(folder: Path) -> dict[str, dict[str, bytes]]:
    """Every finished shard's arrays but `seconds`, as bytes."""
    store = Store(folder)
    return {
        path.stem: {
            name: (array.dtype.str, array.shape, array.tobytes())
            for name, array in store.load(path.stem).items()
            if name != "seconds"
        }
        for path in folder.glob("??/*.npz")
    }


def partials(folder: Path) -> list[Path]:
    return list(folder.glob("??/*.partial"))


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
    assert scores["iou"].shape == (3, 2, 250) and (maps["seconds"] > 0).all()


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


def fragile(fails):
    """A method whose map is the image's first channel, except for the images of which `fails(batch)` says so."""

    def method(network: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return fails(images, images[:, 0].clone())

    return method


@pytest.fixture
def register(monkeypatch):
    def add(name: str, function) -> None:
        monkeypatch.setitem(METHODS, name, None)  # so that it is gone after the test
        explainer(name, source="a test", cost="none")(function)

    return add


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
        raise torch.OutOfMemoryError("CUDA out of memory")
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
        run.executor.submit("compute", "explanation", {"method": "unheard", "settings": {}}, [""], None)


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
        assert np.array_equal(run.load(shard)["iou"], fresh.load(shard)["iou"])


def test_image_that_changes_while_it_is_read_is_not_kept_under_the_old_key(tmp_path, photographs, monkeypatch) -> None:
    read, new = engine._pictures, photographs[7].path.read_bytes()

    def slow(shard: Shard) -> list:
        monkeypatch.setattr(engine, "_pictures", read)
        photographs[0].path.write_bytes(new)
        return read(shard)

    run, shard = local_run(tmp_path / "store"), map_shard(photographs[:2])
    old = run.key(shard)
    monkeypatch.setattr(engine, "_pictures", slow)
    run.complete([shard])
    assert run.key(shard) != old and run.store.load(old) is None and run.load(shard) is not None


# ---- killed, interrupted, and two at once


def background(folder: Path, photographs, progress, states=None) -> None:
    """A run in a process of its own."""

    def report(shard: Shard, state: str) -> None:
        if state == "finished":
            progress.send(None)
        if states is not None:
            states.put((os.getpid(), state, run.key(shard)))

    run = local_run(folder, report)
    run.complete(work(photographs, 1))


@pytest.fixture(scope="module")
def server():
    """Starts processes that have the imports behind them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "timm", "perceptual_lib.engine", "perceptual_lib.protocols.components"])
    return context


@pytest.mark.slow
def test_killed_at_twenty_random_moments(tmp_path, server) -> None:
    photographs = make_photographs(tmp_path / "photographs", 20)
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "store"
    start = time.perf_counter()
    local_run(undisturbed).complete(work(photographs, 1))
    whole = time.perf_counter() - start
    draw, kills, survivors = random.Random(0), 0, {}
    for _ in range(20):
        here, there = server.Pipe()
        process = server.Process(target=background, args=(folder, photographs, there))
        process.start()
        there.close()
        with suppress(EOFError):  # all is finished
            here.recv()
        time.sleep(draw.uniform(0, whole / 16))
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
    assert Store(folder).running() == {} and partials(folder) == []


@pytest.mark.slow
def test_two_runs_at_once_share_the_work(tmp_path, server) -> None:
    photographs = make_photographs(tmp_path / "photographs", 12)
    folder, states = tmp_path / "store", server.Queue()
    processes = []
    for _ in range(2):
        here, there = server.Pipe()
        process = server.Process(target=background, args=(folder, photographs, there, states))
        processes.append((process, here))
        process.start()
    reports = []
    while any(process.is_alive() for process, _ in processes) or not states.empty():
        while not states.empty():
            reports.append(states.get())
        time.sleep(0.05)
    assert [process.exitcode for process, _ in processes] == [0, 0]
    finished = Counter(key for _, state, key in reports if state == "finished")
    assert len(finished) == 72 and set(finished.values()) == {1}
    assert {pid for pid, state, _ in reports if state == "finished"} == {process.pid for process, _ in processes}
    local_run(tmp_path / "alone").complete(work(photographs, 1))
    assert kept(folder) == kept(tmp_path / "alone") and partials(folder) == []


def test_interrupt_leaves_nothing_unfinished_behind(tmp_path, photographs) -> None:
    def interrupt(shard: Shard, state: str) -> None:
        if len(kept(tmp_path / "store")) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        local_run(tmp_path / "store", interrupt).complete(work(photographs))
    assert len(kept(tmp_path / "store")) == 3 and partials(tmp_path / "store") == []


# ---- engines


@pytest.fixture
def processes():
    executors = []

    def make(network: nn.Module) -> Processes:
        executors.append(Processes({"model": network}, 2))
        return executors[-1]

    yield make
    for executor in executors:
        executor.close()


@pytest.mark.slow
def test_processes_give_the_same_bits_also_when_one_is_killed(tmp_path, photographs, processes) -> None:
    torch.set_num_threads(2)  # numbers must not depend on it
    local_run(tmp_path / "local").complete(work(photographs, 1))
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    killed: list[int] = []

    def report(shard: Shard, state: str) -> None:
        if state == "finished" and not killed:
            killed.append(next(iter(executor.pool._processes)))
            os.kill(killed[-1], signal.SIGKILL)

    executor = processes(Small())
    run = Run(Store(tmp_path / "store"), executor, report)
    run.complete(work(photographs, 1))
    assert killed
    assert kept(tmp_path / "store") == kept(tmp_path / "local") and partials(tmp_path / "store") == []


@pytest.mark.slow
def test_processes_that_die_every_time_are_one_sentence(tmp_path, photographs, processes) -> None:
    run = Run(Store(tmp_path / "store"), processes(Deadly()), lambda *_: None)
    with pytest.raises(InputError, match="workers died 3 times in a row, computing (gradient|center)"):
        run.complete(work(photographs))
    with pytest.raises(InputError, match="a worker died while it was asked for its pass_seconds"):
        run.ask("pass_seconds", 1)
    assert kept(tmp_path / "store") == {} and partials(tmp_path / "store") == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("abacus",), "no engine 'abacus'; there are local, processes and ray"),
        (("local", 2), "engine local has one worker"),
        (("processes", 2, "auto"), "address and gpus are for the engine ray"),
        (("local", 1, None, 0.5), "address and gpus are for the engine ray"),
    ],
)
def test_engines_that_do_not_exist(arguments, message) -> None:
    engine_name, *rest = arguments
    with pytest.raises(InputError, match=message):
        make_executor(engine_name, {"model": Small()}, *rest)


def test_ray_is_asked_for_where_it_is_missing(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"needs Ray: pip install 'perceptual-ball\[ray\]'"):
        make_executor("ray", {"model": Small()})


@pytest.fixture
def ray_executor(monkeypatch):
    """Makes executors on this machine, whose workers find this module."""
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    executors = []

    def make(network: nn.Module, **arguments) -> Ray:
        executors.append(Ray({"model": network}, 2, **arguments))
        return executors[-1]

    yield make
    for executor in executors:
        executor.close()


@pytest.mark.slow
def test_ray_gives_the_same_bits_also_when_a_worker_is_killed(tmp_path, photographs, ray_executor) -> None:
    local_run(tmp_path / "local").complete(work(photographs, 1))
    executor = ray_executor(Small())
    import ray

    pids = {}

    def report(shard: Shard, state: str) -> None:
        if state == "finished" and not pids:
            pids.update({info["pid"]: info for info in map(_actor, executor.actors)})
            os.kill(next(iter(pids)), signal.SIGKILL)

    def _actor(handle) -> dict:
        return {"pid": ray.get(handle.__ray_call__.remote(lambda worker: os.getpid()))}

    run = Run(Store(tmp_path / "store"), executor, report)
    run.complete(work(photographs, 1))
    assert len(pids) == 2 and not Path(f"/proc/{next(iter(pids))}").exists()
    assert kept(tmp_path / "store") == kept(tmp_path / "local") and partials(tmp_path / "store") == []


@pytest.mark.slow
def test_ray_workers_that_die_every_time_are_one_sentence(tmp_path, photographs, ray_executor) -> None:
    run = Run(Store(tmp_path / "store"), ray_executor(Deadly()))
    with pytest.raises(InputError, match="workers died 3 times in a row, computing"):
        run.complete([map_shard(photographs[:1])])
    assert partials(tmp_path / "store") == []


@pytest.mark.slow
def test_ray_cluster_that_is_too_small_or_not_there_is_one_sentence(ray_executor) -> None:
    with pytest.raises(InputError, match="no room for 2 workers with 100 GPUs each, only for 0"):
        ray_executor(Small(), gpus=100)
    with pytest.raises(InputError, match="Ray cannot be started or reached at nowhere"):
        ray_executor(Small(), address="nowhere")


# ---- keys


@pytest.fixture
def network() -> dict:
    return Worker({"model": Small()}).identity()


def test_key_depends_on_everything_that_determines_the_result(tmp_path, photographs, network, monkeypatch) -> None:
    shard = map_shard(photographs[:2], "smoothgrad", samples=2)
    scores = score_shard(shard)
    keys = [shard.key(network), scores.key(network)]
    renamed = [Photograph("other", photographs[0].path), photographs[1]]
    keys += [
        map_shard(photographs[:2], "smoothgrad", samples=3).key(network),
        map_shard(photographs[:2], "gradient").key(network),
        map_shard(photographs[1::-1], "smoothgrad", samples=2).key(network),
        map_shard(photographs[:3], "smoothgrad", samples=2).key(network),
        map_shard(renamed, "smoothgrad", samples=2).key(network),
        score_shard(shard, (0.0,)).key(network),
        score_shard(map_shard(photographs[:2], "smoothgrad", samples=3)).key(network),
        shard.key(network | {"device": "cuda"}),
        shard.key(Worker({"model": Small(1)}).identity()),
    ]
    torch.save(Small(2).state_dict(), tmp_path / "weights.pth")
    keys.append(shard.key(Worker({"model": Small(), "weights": tmp_path / "weights.pth"}).identity()))
    with monkeypatch.context() as patch:
        patch.setattr(engine, "code_digest", lambda *modules: "edited")
        keys.append(shard.key(network))
    with monkeypatch.context() as patch:
        patch.setattr(engine, "versions", lambda: {"torch": "0"})
        keys.append(shard.key(network))
    photographs[0].path.write_bytes(photographs[1].path.read_bytes())
    keys += [shard.key(network), scores.key(network)]
    photographs[0].path.unlink()
    keys.append(shard.key(network))
    assert len(set(keys)) == len(keys)


def test_key_does_not_depend_on_what_changes_no_result(photographs, network) -> None:
    shard = map_shard(photographs[:2])
    other = Shard(shard.kind, dict(shard.arguments), shard.photographs, label="other", passes=(5, 5))
    photographs[0].path.touch()
    assert other.key(network) == shard.key(network)
    assert Worker({"model": Small()}).identity() == network


MODULE = '''"""Documentation."""

from perceptual_lib.{imported} import something


# a comment
def double(value):
    """More of it."""
    return 2 * value
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module, and say what its digest is."""
    monkeypatch.syspath_prepend(tmp_path)

    def digest(source: str) -> str:
        (tmp_path / "written_module.py").write_text(source)
        engine._code_digest.cache_clear()
        return code_digest("written_module")

    yield digest
    engine._code_digest.cache_clear()


def test_code_digest_sees_code_and_not_words(module) -> None:
    source = MODULE.format(imported="errors")
    digest = module(source)
    assert module(source.replace("Documentation", "Words").replace("More", "Less").replace("# a", "# no")) == digest
    assert module(source.replace("    return", "\n\n    return")) == digest
    assert module(source.replace("2 *", "3 *")) != digest
    assert module(MODULE.format(imported="checks")) != digest


def test_code_digest_sees_what_is_imported_in_the_package(module, monkeypatch) -> None:
    digest = module(MODULE.format(imported="explainers.baselines"))
    parse, seen = ast.parse, []

    def edited(text: str) -> ast.Module:
        seen.append(text)
        return parse(text.replace("2 * math.pi", "3 * math.pi") + "\nedited = 1" * ("gaussian_blur" in text))

    monkeypatch.setattr(engine.ast, "parse", edited)
    assert module(MODULE.format(imported="explainers.baselines")) != digest
    assert any("def perceptual_ball" in text for text in seen) is False  # which baselines do not import
    assert any("def gaussian_blur" in text for text in seen)


def typed(source: str) -> None:
    """Run source as a notebook does: in a module without a file, with lines that `inspect` finds."""
    import linecache

    name = f"<cell {hash(source)}>"
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    exec(compile(source, name, "exec"), {"__name__": "a_notebook", "explainer": explainer})


CELL = """
@explainer("typed", source="a notebook", cost="none")
def typed(network, images, targets):
    return images[:, {channel}]  # {comment}
"""


def test_method_typed_into_a_notebook_enters_the_key(photographs, network, register) -> None:
    register("typed", lambda: None)
    keys = []
    for channel, comment in ((0, ""), (1, ""), (0, "the same")):
        typed(CELL.format(channel=channel, comment=comment))
        keys.append(map_shard(photographs[:1], "typed").key(network))
    assert keys[0] != keys[1] and keys[0] == keys[2]
    exec('@explainer("typed", source="", cost="")\ndef typed(): pass', {"__name__": "other", "explainer": explainer})
    with pytest.raises(InputError, match="a method of other has no source .* define it in a file"):
        map_shard(photographs[:1], "typed").key(network)


def test_method_of_a_script_enters_the_key(tmp_path, photographs, network, register, monkeypatch) -> None:
    script = tmp_path / "script.py"
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(script))
    function = fragile(lambda images, maps: maps)
    function.__module__ = "__main__"
    register("scripted", function)
    keys = []
    for source in ("a = 1", "a = 2", "a = 1  # the same"):
        script.write_text(source)
        engine._code_digest.cache_clear()
        keys.append(map_shard(photographs[:1], "scripted").key(network))
    engine._code_digest.cache_clear()
    assert keys[0] != keys[1] and keys[0] == keys[2]
