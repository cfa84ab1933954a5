"""The command line as a user meets it: results, pictures, and one sentence for what is wrong."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from perceptual_lib import cli, load_photographs


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys, embedded):
    """Run a command in this process, with four steps of the optimiser; returns (status, stdout, stderr)."""
    settings = embedded.settings | {"max_iter": 4}
    monkeypatch.setattr(type(embedded), "settings", property(lambda self: dict(settings)))

    def call(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["perceptual-ball", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code or 0, *capsys.readouterr()

    return call


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


def test_one_bad_photo_does_not_cost_the_others(run, tmp_path, eagle) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not a picture")
    copy = tmp_path / "copy" / "imagenet_17_22.jpg"
    copy.parent.mkdir()
    copy.write_bytes(eagle.path.read_bytes())
    status, out, err = run(
        "explain",
        tmp_path / "empty.jpg",
        eagle.path,
        tmp_path / "text.jpg",
        tmp_path / "none.jpg",
        copy,
        "--out",
        tmp_path,
        "--device",
        "cpu",
    )
    assert status == 2
    assert out.count("bald eagle") == 2 and len(err.strip().splitlines()) == 3
    assert "empty file" in err and "not a picture" in err and "does not exist" in err
    written = {path.name for path in tmp_path.glob("*.png")}
    assert written == {"imagenet_17_22_2_explained.png", "imagenet_17_22_5_explained.png"}


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
        (["--target", "bold eagle"], "knows no class 'bold eagle'"),
        (["--target", "1000"], "1000 classes"),
        (["--device", "abacus"], "no device 'abacus'"),
        (["--out", "/dev/null/folder"], "cannot be made"),
    ],
)
def test_bad_input_is_one_sentence(run, tmp_path, eagle, arguments, message) -> None:
    status, _, err = run("explain", eagle.path, "--out", tmp_path, *arguments)
    assert status == 2 and err.startswith("perceptual-ball: ") and message in err
    assert len(err.strip().splitlines()) == 1


def test_no_traceback_in_a_real_process(tmp_path) -> None:
    command = [sys.executable, "-m", "perceptual_lib.cli", "explain", str(tmp_path / "none.jpg"), "--model", "nothing"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 2
    assert process.stderr.startswith("perceptual-ball: there is no network 'nothing'")
    assert "Traceback" not in process.stderr


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys; sys.argv=['perceptual-ball', '--help']\nfrom perceptual_lib.cli import app\n"
        "try: app()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
