"""Keys: everything that determines a result changes its key, and nothing else."""

import ast
import hashlib
import sys
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from stand_ins import Small, fragile, map_shard, score_shard

from perceptual_lib.core.errors import InputError
from perceptual_lib.methods import explainer
from perceptual_lib.photographs.mosaics import Mosaic
from perceptual_lib.photographs.photographs import Photograph
from perceptual_lib.runs import shard as keys_module
from perceptual_lib.runs.shard import Shard, check_code, code_digest, digest, versions
from perceptual_lib.runs.worker import Worker


def forget() -> None:
    """Have modules read again."""
    keys_module._filed_digest.cache_clear()
    keys_module._read_module.cache_clear()
    keys_module._read.clear()


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
        *(shard.key(Worker({"model": Small(), "precision": name}).identity()) for name in ("tf32", "bf16")),
        shard.key(Worker({"model": Small(1)}).identity()),
    ]
    torch.save(Small(2).state_dict(), tmp_path / "weights.pth")
    keys.append(shard.key(Worker({"model": Small(), "weights": tmp_path / "weights.pth"}).identity()))
    with monkeypatch.context() as patch:
        patch.setattr(keys_module, "code_digest", lambda *modules: "edited")
        keys.append(shard.key(network))
    with monkeypatch.context() as patch:
        patch.setattr(keys_module, "versions", lambda: {"torch": "0"})
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
    assert Worker({"model": Small(), "precision": "full"}).identity() == network


def test_key_of_a_mosaic_depends_on_all_that_it_is_made_of(photographs, network, monkeypatch) -> None:
    mosaic = Mosaic("mosaic", tuple(photographs[:4]))
    swapped = replace(mosaic, cells=(*photographs[1::-1], *photographs[2:4]))
    pictures = [mosaic, swapped, replace(mosaic, name="other")]
    keys = [map_shard([picture]).key(network) for picture in pictures]
    assert map_shard([replace(mosaic)]).key(network) == keys[0]
    parse = ast.parse
    with monkeypatch.context() as patch:
        patch.setattr(keys_module.ast, "parse", lambda text: parse(text + "\nedited = 1" * ("class Mosaic" in text)))
        forget()
        keys.append(map_shard([mosaic]).key(network))
    forget()
    photographs[3].path.write_bytes(photographs[4].path.read_bytes())
    keys.append(map_shard([mosaic]).key(network))
    photographs[3].path.unlink()
    assert digest(mosaic) == "unreadable"
    keys.append(map_shard([mosaic]).key(network))
    assert len(set(keys)) == len(keys)


def test_digest_of_a_photograph_is_its_files(photographs) -> None:
    assert digest(photographs[0]) == hashlib.sha256(photographs[0].path.read_bytes()).hexdigest()


MODULE = '''"""Documentation."""

from perceptual_lib.{imported} import something


# a comment
def double(value):
    """More of it."""
    return 2 * value


FACTOR = "of it"
"""More of what is above."""
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module, and say what its digest is."""
    monkeypatch.syspath_prepend(tmp_path)

    def digest(source: str) -> str:
        (tmp_path / "written_module.py").write_text(source)
        forget()
        return code_digest("written_module")

    yield digest
    forget()


def test_code_digest_sees_code_and_not_words(module) -> None:
    source = MODULE.format(imported="core.errors")
    digest = module(source)
    assert module(source.replace("Documentation", "Words").replace("More", "Less").replace("# a", "# no")) == digest
    assert module(source.replace("    return", "\n\n    return")) == digest
    assert module(source.replace("2 *", "3 *")) != digest
    assert module(source.replace('of it"\n', 'of them"\n')) != digest  # a string with a name is code
    assert module(MODULE.format(imported="core.checks")) != digest


def test_code_that_is_changed_while_a_run_goes_on(module, tmp_path) -> None:
    """What comes then would be kept under the key of what was before; words may change."""
    source = MODULE.format(imported="core.errors")
    module(source)
    for text, raises in (
        (source, False),
        (source.replace("More", "Less"), False),
        (source.replace("2 *", "3 *"), True),
        (source + "(", True),  # half written
    ):
        (tmp_path / "written_module.py").write_text(text)
        with pytest.raises(InputError, match="written_module was changed while") if raises else nullcontext():
            check_code()
    (tmp_path / "written_module.py").unlink()  # being replaced
    with pytest.raises(InputError, match="written_module was changed while"):
        check_code()


def test_code_digest_sees_what_is_imported_in_the_package(module, monkeypatch) -> None:
    digest = module(MODULE.format(imported="methods.baselines"))
    parse, seen = ast.parse, []

    def edited(text: str) -> ast.Module:
        seen.append(text)
        return parse(text.replace("2 * math.pi", "3 * math.pi") + "\nedited = 1" * ("gaussian_blur" in text))

    monkeypatch.setattr(keys_module.ast, "parse", edited)
    assert module(MODULE.format(imported="methods.baselines")) != digest
    assert any("def perceptual_ball" in text for text in seen) is False  # which baselines do not import
    assert any("def gaussian_blur" in text for text in seen)


@pytest.fixture
def parsed(monkeypatch) -> list[str]:
    """The sources that digests of code are made of."""
    seen: list[str] = []
    spy = SimpleNamespace(**vars(ast) | {"parse": lambda text: seen.append(text) or ast.parse(text)})
    monkeypatch.setattr(keys_module, "ast", spy)
    return seen


@pytest.mark.parametrize("import_", ["from perceptual_lib import perceptual_ball", "import perceptual_lib as ball"])
def test_code_digest_sees_through_the_packages_face(module, parsed, import_: str) -> None:
    """Whose modules are loaded when they are used, so that it imports none itself."""
    module(import_ + "\n")
    assert any("def perceptual_ball" in text for text in parsed)


def test_code_digest_sees_a_module_that_is_imported_whole(module, parsed) -> None:
    module("import math, perceptual_lib.core.lbfgs\n")
    assert any("def minimize" in text for text in parsed)


def test_versions_are_those_that_can_change_a_shard(monkeypatch) -> None:
    assert versions()["numpy"] == np.__version__ and versions().keys() > {"numba", "pillow", "captum"}
    assert versions()["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"  # a patch changes no number
    assert versions().keys().isdisjoint({"pandas", "pyarrow", "matplotlib"})
    monkeypatch.setattr(keys_module, "PACKAGES", ("numpy", "no-such-package"))
    assert versions.__wrapped__()["no-such-package"] == "none"


KINDS = [
    f"perceptual_lib.evaluation.{kind}"
    for kind in (
        *("maps", "change.protocol", "insertion_deletion.protocol", "localization.protocol"),
        *("pointing.regions", "pointing.protocol", "randomization.protocol"),
    )
]


@pytest.mark.parametrize("kind", KINDS)
def test_profiles_and_tables_do_not_enter_a_shards_key(kind, parsed) -> None:
    """Another profile must not cost hours that are done."""
    forget()
    code_digest(kind)
    assert parsed and not any("class Profile(" in text or "paper_table(" in text for text in parsed)


def typed(source: str) -> None:
    """Run source as a notebook does: in a module without a file, with lines that `inspect` finds."""
    import linecache

    name = f"<cell {hash(source)}>"
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    exec(compile(source, name, "exec"), {"__name__": "a_notebook", "explainer": explainer})


CELL = """
@explainer("typed", source="a notebook")
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
    exec('@explainer("typed", source="")\ndef typed(): pass', {"__name__": "other", "explainer": explainer})
    with pytest.raises(InputError, match="a method of other has no source .* define it in a file"):
        map_shard(photographs[:1], "typed").key(network)


def test_method_of_a_script_enters_the_key(tmp_path, photographs, network, register, monkeypatch) -> None:
    script = tmp_path / "script.py"
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(script), raising=False)
    function = fragile(lambda images, maps: maps)
    function.__module__ = "__main__"
    register("scripted", function)
    keys = []
    for source in ("a = 1", "a = 2", "a = 1  # the same"):
        script.write_text(source)
        forget()
        keys.append(map_shard(photographs[:1], "scripted").key(network))
    forget()
    assert keys[0] != keys[1] and keys[0] == keys[2]
