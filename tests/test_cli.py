"""The command line as a user meets it: results, pictures, and one sentence for what is wrong."""

import os
import re
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from stand_ins import leftovers

from perceptual_lib import load_photographs
from perceptual_lib.evaluation.localization.experiment import Localization
from perceptual_lib.evaluation.profile import load_profile
from perceptual_lib.evaluation.publishing import load_results
from perceptual_lib.runs.store import Store


@pytest.fixture
def eagle():
    return load_photographs()[17]


def test_explain_prints_and_writes(run, tmp_path, eagle, embedded) -> None:
    status, out, err = run("explain", eagle.path, "--out", tmp_path / "new", "--device", "cpu")
    assert status == 0, err
    with torch.no_grad():
        probability = float(embedded(embedded.preprocess(eagle)).softmax(1)[0, 22])
    assert f"bald eagle ({probability:.1%})" in out and "in 5 evaluations" in out and "margin 1.4" in out
    picture = Image.open(tmp_path / "new" / "imagenet_17_22_explained.png")
    assert picture.size == (512, 512) and picture.mode == "RGB"
    assert np.asarray(picture).std() > 10


def test_target_by_name_and_layers_by_name(run, tmp_path, eagle) -> None:
    arguments = ["explain", eagle.path, "--out", tmp_path, "--device", "cpu"]
    status, out, _ = run(*arguments, "--target", "kite", "--layers", "0-3,bn2.act", "--sigma", "2")
    assert status == 0 and "kite (" in out and "margin -" in out
    assert run(*arguments, "--layers", "none")[0] == 0


def test_precision(run, tmp_path, eagle) -> None:
    arguments = ["explain", eagle.path, "--out", tmp_path, "--device", "cpu"]
    (status, full, _), (_, reduced, _) = run(*arguments), run(*arguments, "--precision", "bf16")
    assert status == 0 and "bald eagle (" in full and "bald eagle (" in reduced and full != reduced


def test_a_folder_is_its_photos_without_earlier_overlays(run, tmp_path, eagle) -> None:
    (tmp_path / "eagle.jpg").write_bytes(eagle.path.read_bytes())
    arguments = ["explain", tmp_path, "--out", tmp_path, "--device", "cpu"]
    for _ in range(2):
        status, out, _ = run(*arguments)
        assert status == 0 and out.count("bald eagle") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"eagle.jpg", "eagle_explained.png"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "resnet5"], "no network 'resnet5'"),
        (["--weights", "nowhere.pth"], "no weights file nowhere.pth"),
        (["--layers", "0-40"], "layer 33 is out of range: the network has 33 activations"),
        (["--layers", "conv1"], "no layer 'conv1'"),
        (["--target", "bold eagle"], "knows no class 'bold eagle' (nearest: bald eagle"),
        (["--target", "1000"], "1000 classes"),
        (["--device", "abacus"], "no device 'abacus'"),
        (["--precision", "half"], "no precision 'half'; there are full, tf32, bf16"),
        (["--out", "/dev/null/folder"], "/dev/null/folder cannot be written: Not a directory"),
    ],
)
def test_bad_input_is_one_sentence(run, tmp_path, eagle, arguments, message) -> None:
    status, _, err = run("explain", eagle.path, "--out", tmp_path, *arguments)
    assert status == 2 and err.startswith("perceptual-ball: ") and message in err
    assert len(err.strip().splitlines()) == 1


def test_no_traceback_in_a_real_process() -> None:
    command = [sys.executable, "-m", "perceptual_lib.cli", "data", "check", "nothing"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 2
    assert process.stderr.startswith("perceptual-ball: there is no profile 'nothing'")
    assert "Traceback" not in process.stderr


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys; sys.argv=['perceptual-ball', '--help']\nfrom perceptual_lib.cli import app\n"
        "try: app()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("missing", "command", "extra"),
    [("typer", "methods", "experiments"), ("pydantic", "data check smoke", "experiments"), ("doit", "book", "book")],
)
def test_a_missing_extra_is_one_sentence(missing, command, extra) -> None:
    code = f"import sys; sys.modules['{missing}'] = None; sys.argv = ['perceptual-ball', *'{command}'.split()]\n"
    code += "from perceptual_lib.cli import main\nmain()"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode and process.stderr == (
        f"perceptual-ball: it needs {missing}: pip install 'perceptual-ball[{extra}]'.\n"
    )


# ---- experiments


@pytest.fixture
def experiment(run, tmp_path):
    """A command about weak localization by one method of the profile smoke, with a store of its own."""

    def call(command: str, *options, store=None) -> tuple[int, str, str]:
        chosen = ["--experiment", "localization", "--only", "gradient"]
        return run(command, "smoke", *chosen, "--store", store or tmp_path / "store", *options)

    return call


def test_an_experiment_from_estimate_to_table(experiment, tmp_path) -> None:
    status, out, _ = experiment("run", "--dry-run")
    assert status == 0 and "To compute: 2 shards" in out and "1 worker," in out and "s forward," in out
    status, _, err = experiment("results", store=tmp_path / "typo")
    assert status == 2 and "/typo; give that of a perceptual-ball run." in err and not (tmp_path / "typo").exists()
    assert experiment("status")[1].split() == "gradient 0 of 1 localization of gradient 0 of 1".split()
    status, _, err = experiment("results")
    assert status == 2 and "compute it: perceptual-ball run smoke" in err
    status, out, err = experiment("run")
    assert status == 0 and out.startswith("Finished, no failures.") and "100%" in err
    assert all(len(line) < 100 and "\r" not in line for line in err.splitlines())  # no terminal
    assert experiment("run", "--dry-run")[1] == "Everything is finished.\n"
    assert experiment("status")[1].split() == "gradient 1 of 1 localization of gradient 1 of 1".split()
    status, out, err = experiment("results", "--format", "markdown", "--add", tmp_path / "published")
    assert (
        status == 0 and err == "" and [line.split("|")[2].strip(" :-") for line in out.splitlines()] == ["n", "", "4"]
    )
    assert {path.name for path in (tmp_path / "published").iterdir()} == {"localization.json", "localization.parquet"}
    (tmp_path / "published" / "localization.parquet").unlink()
    status, _, err = experiment("results", "--add", tmp_path / "published")
    assert status == 2 and "there are no results of localization in" in err
    status, _, err = experiment("results", "--publish", tmp_path / "published")
    assert status == 2 and "--publish is of whole runs: leave out --only and --limit" in err
    status, out, err = experiment("results", "--limit", 1)
    assert status == 2 and "nothing of smoke is finished" in err  # one photograph is another shard


def test_a_method_that_fails_on_every_picture_is_no_success(run, tmp_path) -> None:
    profile = tmp_path / "mine.yaml"
    profile.write_text(
        "base: smoke\nmethods: {grad_cam: {layer: classifier}}\nlocalization: {methods: [grad_cam, center], ranges: 0}"
    )
    status, out, err = run("run", profile, "--experiment", "localization", "--store", tmp_path / "store")
    assert status == 1 and out.startswith("Finished, 4 failures.") and err.count("grad_cam failed on imagenet_") == 4
    assert (
        err.splitlines()[-1] == "perceptual-ball: there is nothing to compare: grad_cam on all of localization failed."
    )
    limited = ["--experiment", "localization", "--limit", 1, "--store", tmp_path / "store"]
    assert run("run", profile, *limited)[1].startswith("Finished, 1 failure. The tables")
    published = tmp_path / "published"
    chosen = ["results", profile, "--experiment", "localization", "--store", tmp_path / "store"]
    assert run(*chosen, "--publish", published)[0] == 0
    assert {path.name for path in published.iterdir()} == {"localization.json", "localization.parquet"}


def test_all_experiments_of_a_profile(run, tmp_path) -> None:
    chosen = ["smoke", "--only", "gradient", "--store", tmp_path / "store"]
    status, out, _ = run("run", *chosen, "--dry-run")
    # Maps of the photographs, of a scene at two scales, and of random networks; scores of all but the last.
    assert status == 0 and "To compute: 8 shards" in out
    assert run("run", *chosen)[0] == 0
    status, out, err = run("results", *chosen, "--add", tmp_path / "published")
    titles = [line for line in out.splitlines() if line.startswith("#")]
    assert status == 0 and err == ""
    assert [title[:9] for title in titles[:4]] == ["# Table 1", "# Table 2", "# Table 3", "# Table 3"]
    assert "randomization: it has fewer than two photographs with results, and no table is of them." in out
    alone = run("results", *chosen, "--experiment", "pointing")[1].splitlines()
    assert [line[:29] for line in alone if line.startswith("#")] == [f"# Table 3, pointing game at {x}" for x in "11"]
    status, _, err = run("results", "smoke", "--limit", 2, "--publish", tmp_path, "--store", tmp_path)
    assert status == 2 and "--publish is of whole runs: leave out --only and --limit" in err
    status, _, err = run("results", "smoke", "--limit", 2, "--add", tmp_path, "--store", tmp_path)
    assert status == 2 and "--add is of rows with all their pictures: leave out --limit" in err
    names = {path.name for path in (tmp_path / "published").glob("*.parquet")}
    assert names == {f"{name}.parquet" for name in ("localization", "insertion_deletion", "pointing", "randomization")}
    status, _, err = run("run", "smoke", "--experiment", "pionting")
    assert status == 2 and "there is no experiment 'pionting'; there are change, localization, " in err
    status, _, err = run("run", "smoke", "--only", "gradent")
    assert status == 2 and "there is no method 'gradent' (nearest: gradient" in err
    status, _, err = run("run", "smoke", "--experiment", "pointing", "--only", "center", "--only", "grad_cam")
    assert status == 2 and "profile smoke has no pointing with grad_cam." in err


def test_ranges_alone(run, tmp_path) -> None:
    """A run of ranges of layers, and not on the first picture: of whose methods it has none of a table."""
    profile = tmp_path / "mine.yaml"
    profile.write_text(
        "base: smoke\nperturbation: {max_iter: 1}\nlocalization: {methods: [], ranges: 3, ranges_after: 1}\n"
        "insertion_deletion: null\npointing: null\nrandomization: null\nchange: null"
    )
    chosen = [profile, "--store", tmp_path / "store"]
    assert "To compute: " in run("run", *chosen, "--only", "perceptual", "--dry-run")[1]
    assert run("run", *chosen)[0] == 0
    found = run("results", *chosen, "--publish", tmp_path / "published")
    assert found == (0, "localization: it has ranges of layers alone, and no table is of them.\n", "")
    published = load_results(tmp_path / "published", "localization")
    assert set(published.table.photograph) == {"imagenet_01", "imagenet_02"} and published.n == 2
    status, _, err = run("run", *chosen, "--limit", "1")
    assert status == 2 and "mine has no row of any method on 1 photograph." in err


def test_status_says_what_is_computed_where(experiment, tmp_path) -> None:
    going = Localization(load_profile("smoke"), tmp_path / "store", only=["gradient"])
    with (
        going.run.store.lease(going.run.key(going.shards[0])),
        going.run.store.lease("00" * 32),
    ):
        lines = experiment("status")[1].splitlines()[2:]
    assert sorted(line.split(": ")[0] for line in lines) == ["a shard of another profile", "gradient"]
    assert all(f", process {os.getpid()}, for " in line for line in lines)


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("run", ["--only", "rize"], "no method 'rize' (nearest: rise"),
        (
            "status",
            ["--store", "/dev/null/none"],
            "there is no store /dev/null/none; give that of a perceptual-ball run",
        ),
        ("run", ["--engine", "abacus"], "no engine 'abacus'"),
        ("run", ["--workers", "2"], "engine local has one worker"),
        ("run", ["--store", "/dev/null/store"], "give a folder that can be written"),
    ],
)
def test_a_run_that_cannot_be_is_one_sentence(experiment, command, options, message) -> None:
    status, _, err = experiment(command, *options)
    assert status == 2 and err.startswith("perceptual-ball: ") and message in err and len(err.splitlines()) == 1


def test_missing_data_stops_a_run_and_is_said_by_the_check(run, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("IMAGENET_ROOT", raising=False)
    status, out, _ = run("data", "check", "imagenet-300")
    assert status == 1 and out.startswith("Missing: the photographs: ") and "IMAGENET_ROOT" in out
    status, _, err = run("run", "imagenet-300", "--store", tmp_path / "store")
    assert status == 2 and "IMAGENET_ROOT" in err and not (tmp_path / "store").exists()
    assert run("data", "check", "smoke")[:2] == (0, "Everything that smoke needs is here.\n")


def test_full_disk_ends_a_run_with_one_sentence_and_the_next_goes_on(experiment, tmp_path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "none", disk, "-o"]
    if subprocess.run([*mount, "size=64k"], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        status, _, err = experiment("run", store=disk)
        assert status == 2 and "the disk is full: make room and run the same command again" in err.splitlines()[-1]
        assert "Traceback" not in err and not list(disk.glob("??/*"))
        subprocess.run([*mount, "remount,size=8m"], check=True)
        assert experiment("run", store=disk)[0] == 0 and len(list(disk.glob("??/*.npz"))) == 2
    finally:
        subprocess.run(["umount", disk], check=True)


def wait_until(condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_interrupted_run_says_what_is_left(tmp_path) -> None:
    command = [sys.executable, "-m", "perceptual_lib.cli", "run", "smoke", "--store", str(tmp_path)]
    command += ["--experiment", "localization"]
    # A shell's background job, which these tests may be, hands down an ignored Ctrl-C.
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, preexec_fn=listen, **pipes)
    wait_until(lambda: len(list(tmp_path.glob("??/*.npz"))) > 2, 120)  # all that it needs has been imported
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    finished = len(list(tmp_path.glob("??/*.npz")))
    every = len(Localization(load_profile("smoke"), tmp_path).shards)
    assert process.returncode == 130 and "Traceback" not in err and 0 < finished < every, err
    left = re.fullmatch(r"perceptual-ball: interrupted, (\d+) shards are left; .* from here\.", err.splitlines()[-1])
    assert 0 <= int(left[1]) + finished - every <= 1  # one may have been written and not been counted
    assert Store(tmp_path).running() == {} and leftovers(tmp_path) == []  # a lock that is no more held is swept away
