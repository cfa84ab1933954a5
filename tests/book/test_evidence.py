"""Evidence as a user keeps and repeats it: by real repeats, with photos, maps, numbers and versions tampered with."""

import hashlib
import json
import re
import shutil
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr

from perceptual_lib import load_classifier, perceptual_ball, saliency_map

MODEL = ["--model", "squeezenet1_1", "--weights", "random", "--device", "cpu"]


@pytest.fixture
def explain(run):
    return partial(run, "explain")


@pytest.fixture
def photos(tmp_path) -> list[Path]:
    """Two of one name."""
    found = []
    for seed, folder in enumerate("ab"):
        found.append(tmp_path / folder / "cat.png")
        found[-1].parent.mkdir()
        pixels = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((90, 70)).save(found[-1])
    return found


@pytest.fixture
def evidence(explain, photos, tmp_path) -> Path:
    status, out, err = explain(*photos, *MODEL, "--sigma", 3, "--expected", "goldfish", "--save", tmp_path / "kept")
    assert status == 0 and out.count("; ") == 2, err
    return tmp_path / "kept"


def manifest(folder: Path, change=None) -> dict:
    path = folder / "manifest.json"
    found = json.loads(path.read_text())
    if change:
        change(found)
        path.write_text(json.dumps(found))
    return found


def test_what_is_kept(evidence, photos) -> None:
    names = {f"{stem}{end}" for stem in ("cat", "cat_2") for end in (".png", ".npy", "_explained.png")}
    assert {path.name for path in evidence.iterdir()} == names | {"manifest.json"}
    found = manifest(evidence)
    assert found["made_with"]["torch"] == version("torch") and found["made_with"]["device"] == "cpu"
    settings = found["made_with"]["settings"]
    assert settings["max_iter"] == 4 and settings["sigma"] == 3 and len(settings["layers"]) > 5
    classifier = load_classifier("squeezenet1_1", weights="random", device="cpu")
    for photo, each in zip(photos, found["photos"], strict=True):
        assert (evidence / each["photo"]).read_bytes() == photo.read_bytes()
        for what in ("photo", "map"):
            kept = (evidence / each[what]).read_bytes()
            assert each[f"{what}_sha256"] == hashlib.sha256(kept).hexdigest()
        inputs, numbers = classifier.preprocess(photo), each["found"]
        result = perceptual_ball(classifier, inputs)
        saliency = np.load(evidence / each["map"])
        assert saliency.dtype == np.float32 and saliency.shape == (224, 224)
        assert np.allclose(saliency, saliency_map(result.delta, 3)[0], rtol=1e-3, atol=1e-6)
        with torch.no_grad():
            before, after = (classifier(each).softmax(1)[0] for each in (inputs, inputs + result.delta))
        assert numbers["prediction"]["index"] == numbers["target"]["index"] == before.argmax()
        assert numbers["prediction"]["probability"] == pytest.approx(before.max().item(), rel=1e-4)
        assert numbers["becomes"]["index"] == after.argmax()
        assert numbers["margin_before"] == pytest.approx(result.margin_before.item(), abs=1e-4)
        assert numbers["margin"] == pytest.approx(result.margin.item(), abs=1e-3)
        assert numbers["expected"] == {"index": 1, "name": "goldfish"} and not numbers["as_expected"]


def test_no_file_of_the_evidence_is_written_on_another(explain, photos, tmp_path) -> None:
    named = photos[1].rename(photos[1].with_name("cat_explained.png"))
    assert explain(photos[0], named, *MODEL, "--method", "gradient", "--save", tmp_path / "kept")[0] == 0
    assert len([*(tmp_path / "kept").iterdir()]) == 7
    assert explain("--again", tmp_path / "kept")[1].count("the same to the bit") == 2


def test_it_is_repeated_to_the_bit_wherever_the_folder_is(explain, evidence, photos, tmp_path) -> None:
    for photo in photos:
        photo.unlink()
    moved = Path(shutil.move(evidence, tmp_path / "elsewhere"))
    before = {path: path.read_bytes() for path in moved.iterdir()}
    status, out, err = explain("--again", moved)
    assert (status, out, err) == (0, "cat.png: the same to the bit\ncat_2.png: the same to the bit\n", "")
    assert {path: path.read_bytes() for path in moved.iterdir()} == before


@pytest.mark.parametrize("name", ["cat.png", "cat.npy"])
def test_a_changed_file_is_said_and_costs_the_others_nothing(explain, evidence, name) -> None:
    changed = bytearray((evidence / name).read_bytes())
    changed[-1] ^= 1
    (evidence / name).write_bytes(changed)
    status, out, err = explain("--again", evidence)
    assert status == 2 and out == "cat_2.png: the same to the bit\n" and len(err.splitlines()) == 1
    assert f"{evidence / name} is not the {'map' if name.endswith('npy') else 'photo'} that was kept" in err
    (evidence / name).unlink()
    assert explain("--again", evidence)[2] == err


def test_another_version_is_said_and_a_changed_number_is_found(explain, evidence) -> None:
    manifest(evidence, lambda found: found["made_with"].update(torch="0.4.1", machine="an abacus"))
    status, out, _ = explain("--again", evidence)
    here = version("torch")
    assert status == 0 and out.splitlines()[0] == f"torch was 0.4.1, is {here}"
    assert out.splitlines()[1].startswith("machine was an abacus, is ") and out.count("the same to the bit") == 2
    manifest(evidence, lambda found: found["photos"][1]["found"].update(margin=-7.0))
    status, out, err = explain("--again", evidence)
    assert status == 2 and out.count("the same to the bit") == 1
    assert err.startswith("perceptual-ball: cat_2.png is explained differently: margin was -7.0, is ")


def test_how_a_map_differs(explain, evidence, photos, tmp_path) -> None:
    """With other settings, as another version of something might make it."""
    assert explain(*photos, *MODEL, "--sigma", 2, "--expected", "goldfish", "--save", tmp_path / "other")[0] == 0
    manifest(evidence, lambda found: found["asked"].update(sigma=2.0))
    status, out, err = explain("--again", evidence)
    assert status == 2 and out.startswith("settings was ") and "the same" not in out
    pair = [np.load(folder / "cat.npy") for folder in (evidence, tmp_path / "other")]
    said = re.match(
        r"perceptual-ball: cat.png is explained differently: the maps are up to (\S+) apart where the largest value is "
        r"(\S+), rank correlation (\S+)\.$",
        err.splitlines()[0],
    )
    expected = np.abs(pair[0] - pair[1]).max(), pair[0].max(), spearmanr(*(each.flatten() for each in pair)).statistic
    assert [float(each) for each in said.groups()] == pytest.approx(expected, rel=0.06)


def test_bad_input_is_one_sentence(explain, evidence, photos, tmp_path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text('{"asked": {}}')
    for name, kept in {"no photos": [], "half a photo": [{"photo": "cat.png"}]}.items():
        shutil.copytree(evidence, tmp_path / name)
        manifest(tmp_path / name, lambda found, kept=kept: found.update(photos=kept))
    long = photos[1].rename(photos[1].with_name(f"{'x' * 245}.png"))
    for arguments, sentence in (
        (["--again", tmp_path / "a"], "has no manifest.json that explain --save wrote"),
        (["--again", tmp_path / "broken"], "has no manifest.json that explain --save wrote"),
        (["--again", tmp_path / "no photos"], "has no manifest.json that explain --save wrote"),
        (["--again", tmp_path / "half a photo"], "has no manifest.json that explain --save wrote"),
        (["--again", evidence, "--sigma", 2], "give --again with --device alone"),
        (["--again", evidence, photos[0]], "give --again with --device alone"),
        (["--again", evidence, "--device", "abacus"], "no device 'abacus'"),
        ([photos[0], *MODEL, "--save", evidence], "is not empty; evidence is kept in a new folder"),
        ([photos[0], *MODEL, "--save", tmp_path / "new", "--out", tmp_path], "give it or --out"),
        ([photos[0], *MODEL, "--save", tmp_path / "new", "--expected", "goldfsh"], "nearest: goldfish"),
        (
            [photos[0], *MODEL, "--save", tmp_path / "new", "--target", 5000],
            "class 5000 is out of range: squeezenet1_1 has 1000",
        ),
        ([*MODEL], "there is no photo to explain"),
        ([long, *MODEL, "--save", tmp_path / "long"], "xxx_explained.png cannot be written: File name too"),
    ):
        status, out, err = explain(*arguments)
        assert status == 2 and out == "" and sentence in err and len(err.splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_a_manifest_of_other_types_is_one_sentence(explain, evidence) -> None:
    whole = (evidence / "manifest.json").read_bytes()
    for change, sentence in (
        (lambda found: found["asked"].update(sigma="five"), "asked.sigma: Input should be a valid number"),
        (lambda found: found["asked"].update(layers=5), "asked.layers: Input should be a valid string"),
        (lambda found: found["photos"][0].update(photo=5), "photos.0.photo: Input should be a valid string"),
        (lambda found: found["photos"][0].update(found=[]), "photos.0.found: Input should be an object"),
        (lambda found: found["made_with"].update(device=5), "there is no device '5'"),
    ):
        (evidence / "manifest.json").write_bytes(whole)
        manifest(evidence, change)
        status, out, err = explain("--again", evidence)
        assert status == 2 and out == "" and sentence in err and len(err.splitlines()) == 1
    (evidence / "cat.npy").write_bytes(b"no map")
    (evidence / "manifest.json").write_bytes(whole)
    manifest(evidence, lambda found: found["photos"][0].update(map_sha256=hashlib.sha256(b"no map").hexdigest()))
    status, out, err = explain("--again", evidence)
    assert status == 2 and err.endswith(f"cat.png is explained differently: {evidence / 'cat.npy'} is no map.\n")


def test_photos_with_the_names_of_what_is_written(explain, photos, tmp_path) -> None:
    for name in ("manifest.json", "cat.npy"):
        (tmp_path / name).write_bytes(photos[0].read_bytes())
    kept = tmp_path / "odd"
    status, _, err = explain(tmp_path / "manifest.json", tmp_path / "cat.npy", *MODEL, "--save", kept)
    assert status == 0, err
    status, out, _ = explain("--again", kept)
    assert status == 0 and out.count("the same to the bit") == 2


def test_what_was_finished_before_an_interruption_is_kept(explain, photos, tmp_path, monkeypatch) -> None:
    from perceptual_lib.book import evidence

    explained, own = [], evidence._explain

    def interrupted(*arguments):
        explained.append(arguments)
        if len(explained) == 2:
            raise KeyboardInterrupt
        return own(*arguments)

    monkeypatch.setattr(evidence, "_explain", interrupted)
    assert explain(*photos, *MODEL, "--save", tmp_path / "half")[0] == 130
    monkeypatch.setattr(evidence, "_explain", own)
    status, out, _ = explain("--again", tmp_path / "half")
    assert status == 0 and out.count("the same to the bit") == 1
