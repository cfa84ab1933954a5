"""`perceptual-ball explain` with photos as people have them: names, folders, methods, signals."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perceptual_lib import Classifier, InputError, load_photographs
from perceptual_lib.book.overlays import overlay_paths


@pytest.fixture
def explain(run):
    return lambda *arguments: run("explain", *arguments, "--device", "cpu")


def make(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def overlays(*names: str, folder: str = "out") -> list[str]:
    return [path.name for path in overlay_paths([Path(name) for name in names], Path(folder))]


def test_no_overlay_is_written_on_another_or_on_a_photo() -> None:
    assert overlays("a/cat.jpg", "b/cat.jpg") == ["cat_explained.png", "cat_2_explained.png"]
    mixed = overlays("a/cat.jpg", "b/cat_2.jpg", "c/cat.png", "d/CAT.jpg", "cat_3.jpg")
    assert len({name.casefold() for name in mixed}) == 5
    assert overlays("cat.jpg", "cat_explained.png", folder=".")[0] == "cat_2_explained.png"
    assert overlays("x/cat.jpg", "x/cat.jpg") == ["cat_explained.png", "cat_2_explained.png"]


def test_what_is_not_the_photos_own_overlay_stays(explain, tmp_path) -> None:
    """Pictures of one's own that end as overlays do, and overlays of other photos with the same name."""
    folder, own = tmp_path / "mine", make(tmp_path / "mine" / "cat_explained.png", 1)
    make(folder / "cat.png")
    kept, chosen = own.read_bytes(), ["--method", "center", "--out", folder]
    status, out, err = explain(folder, *chosen)
    assert status == 0 and err == "" and out.count("\n") == 2
    left_out = f"{folder}: left out, as overlays of an earlier run: cat_2_explained.png, cat_explained_explained.png\n"
    assert explain(folder, *chosen) == (0, left_out + out, "")
    assert own.read_bytes() == kept and len([*folder.iterdir()]) == 4
    before = (folder / "cat_2_explained.png").read_bytes()
    explain(make(tmp_path / "other" / "cat.png", 2), *chosen)
    assert (folder / "cat_2_explained.png").read_bytes() == before and (folder / "cat_3_explained.png").exists()


def test_one_bad_photo_does_not_cost_the_others(explain, tmp_path) -> None:
    eagle = load_photographs()[17]
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not a picture")
    copy = tmp_path / "copy" / "imagenet_17_22.jpg"
    copy.parent.mkdir()
    copy.write_bytes(eagle.path.read_bytes())
    bad = [tmp_path / f"{name}.jpg" for name in ("empty", "text", "none")]
    status, out, err = explain(bad[0], eagle.path, *bad[1:], copy, "--out", tmp_path)
    assert status == 2
    assert out.count("bald eagle") == 2 and len(err.strip().splitlines()) == 3
    assert "empty file" in err and "not a picture" in err and "does not exist" in err
    written = {path.name for path in tmp_path.glob("*.png")}
    assert written == {"imagenet_17_22_explained.png", "imagenet_17_22_2_explained.png"}


def test_several_photos_are_one_batch_and_as_alone(explain, tmp_path) -> None:
    photos = [make(tmp_path / folder / "cat.png", seed) for seed, folder in enumerate("abc")]
    status, out, _ = explain(*photos, "--out", tmp_path / "all")
    assert status == 0 and len(out.splitlines()) == 3
    for photo, line, name in zip(photos[::2], out.splitlines()[::2], ["cat", "cat_3"], strict=True):
        alone = explain(photo, "--out", tmp_path / "one" / name)[1]
        assert line.split("; ")[0] == alone.split("; ")[0]
        pictures = [
            Image.open(tmp_path / "all" / f"{name}_explained.png"),
            Image.open(tmp_path / "one" / name / "cat_explained.png"),
        ]
        first, second = (np.asarray(each, dtype=float) for each in pictures)
        assert np.abs(first - second).max() <= 3


@pytest.mark.parametrize("method", ["gradient", "center", "no_perceptual", "grad_cam"])
def test_any_method(explain, tmp_path, method) -> None:
    photo = make(tmp_path / "photo.png")
    status, out, err = explain(photo, "--method", method, "--out", tmp_path)
    assert status == 0 and out.startswith("photo.png: ") and "margin" not in out, err


def test_a_method_that_blurs_itself_is_blurred_once(explain, tmp_path, monkeypatch) -> None:
    seen = []
    for module in ("core.saliency", "book.overlays"):
        monkeypatch.setattr(f"perceptual_lib.{module}.gaussian_blur", lambda maps, sigma: seen.append(sigma) or maps)
    for method in ("no_perceptual", "perceptual_guided", "gradient"):
        explain(make(tmp_path / "photo.png"), "--method", method, "--sigma", "3", "--out", tmp_path)
    assert seen == [3.0] * 3


def test_methods_and_settings_that_do_not_fit(explain, tmp_path) -> None:
    photo = make(tmp_path / "photo.png")
    assert "there is no method 'grad-cam' (nearest: grad_cam" in explain(photo, "--method", "grad-cam")[2]
    status, _, err = explain(photo, "--method", "gradient", "--layers", "0-3", "--out", tmp_path)
    assert status == 2 and "gradient has no setting 'layers'" in err and len(err.splitlines()) == 1


def test_folders(explain, tmp_path) -> None:
    """Pictures of ImageNet need no boxes here; a folder with nothing to do is said."""
    make(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG")
    make(tmp_path / "val" / "other.png")
    status, out, _ = explain(tmp_path / "val", "--out", tmp_path / "out")
    assert status == 0 and len(out.splitlines()) == 2
    (tmp_path / "empty").mkdir()
    for folder, sentence in ((tmp_path / "empty", "has no pictures"), (tmp_path / "out", "overlays of an earlier run")):
        status, out, err = explain(folder, "--out", tmp_path / "new")
        assert status == 2 and sentence in err and len(err.splitlines()) == 1 and not (tmp_path / "new").exists()
    status, out, err = explain(tmp_path / "empty", tmp_path / "val", "--method", "center", "--out", tmp_path / "new")
    assert status == 2 and len(out.splitlines()) == 2 and len(err.splitlines()) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_a_name_that_cannot_be_printed(tmp_path) -> None:
    folder = os.fsencode(tmp_path)
    for name in (b"\xff\xfe.png", "fl\u00fc\u00df.png".encode(), b"plain.png"):
        make(tmp_path / "some.png").rename(os.fsdecode(folder + b"/" + name))
    command = [sys.executable, "-m", "perceptual_lib.cli", "explain", str(tmp_path), "--out", str(tmp_path / "out")]
    command += ["--device", "cpu", "--method", "gradient"]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3 and len(list((tmp_path / "out").iterdir())) == 3


def test_a_name_of_several_classes(embedded) -> None:
    with pytest.raises(InputError, match="Crane is the name of the classes 134 and 517; give the index of one"):
        embedded.class_index("Crane")
    assert embedded.class_index("517") == 517
    own = Classifier(embedded.network, class_names=["a", "b", "a", "A"])
    with pytest.raises(InputError, match="classes 0 and 2 and 3"):
        own.class_index("a")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_sigterm_ends_a_run_as_interrupt_does(tmp_path, engine) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
    command = [sys.executable, "-m", "perceptual_lib.cli", "run", "smoke", "--store", str(tmp_path), "--engine", engine]
    command += ["--experiment", "localization"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("??/*.npz")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143
    assert err.splitlines()[-1].startswith("perceptual-ball: interrupted, ") and err.endswith("from here.\n")
    assert "Traceback" not in err and "leaked" not in err
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".npz"] == []


@pytest.mark.slow
@pytest.mark.parametrize("method", ["perceptual", "rise"])
def test_sigterm_ends_an_explanation_with_a_sentence(tmp_path, method) -> None:
    photo = make(tmp_path / "photo.png")
    code = (
        "import os, signal; from perceptual_lib import cli\n"
        "from perceptual_lib.core.passes import Passes; measure = Passes.measure\n"
        "def once(*arguments):\n    os.kill(os.getpid(), signal.SIGTERM)\n    return measure(*arguments)\n"
        "Passes.measure = once; cli.main()"
    )
    arguments = ["explain", str(photo), "--out", str(tmp_path), "--device", "cpu", "--method", method]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 143 and done.stderr.splitlines()[-1] == "perceptual-ball: interrupted"
    assert "Traceback" not in done.stderr and [path.name for path in tmp_path.iterdir()] == ["photo.png"]
