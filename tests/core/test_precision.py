"""What a network computes in while it is explained, and that torch's switches are afterwards what they were."""

import subprocess
import sys
from itertools import product

import pytest
import torch
from stand_ins import Small
from torch import Tensor

from perceptual_lib import Classifier, InputError, explain, load_classifier, perceptual_ball
from perceptual_lib.core.precision import PRECISIONS, _older_switches, computing
from perceptual_lib.core.saliency import class_gradient

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
NEWER = hasattr(torch.backends, "fp32_precision")
needs_newer = pytest.mark.skipif(not NEWER, reason="torch before 2.9 has one interface alone")
cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul


def rounded() -> tuple[bool, bool]:
    """Whether CUDA rounds convolutions, and matrix products, to TF32 now."""
    if NEWER:
        return cudnn.conv.fp32_precision == "tf32", matmul.fp32_precision == "tf32"
    return cudnn.allow_tf32, matmul.allow_tf32


def older() -> list[object]:
    """What the older switches say, where they can be read."""
    said = []
    for read in (lambda: cudnn.allow_tf32, lambda: matmul.allow_tf32, torch.get_float32_matmul_precision):
        try:
            said.append(read())
        except RuntimeError:
            said.append("a mix")
    return said


def behaviour() -> list[object]:
    """All that the switches say, whatever is then said of CUDA and of all backends: so also which of them follow."""
    if not NEWER:
        return older()
    backends, mkldnn = torch.backends, torch.backends.mkldnn
    kinds = (cudnn.conv, cudnn.rnn, matmul, mkldnn, mkldnn.conv, mkldnn.matmul)
    general = backends.fp32_precision
    said: list[object] = [general, *older(), *(kind.fp32_precision for kind in kinds)]
    backends.fp32_precision = "none"
    own = cudnn.fp32_precision
    for backends.fp32_precision, cudnn.fp32_precision in product(["none", "tf32", "ieee"], repeat=2):
        said += [kind.fp32_precision for kind in kinds]
    backends.fp32_precision, cudnn.fp32_precision = general, own
    return [*said, own]


@pytest.fixture(autouse=True)
def restored():
    """The switches as they are in a new process, before and after: but torch's own TF32 is then one that was set."""

    def reset() -> None:
        if NEWER:
            torch.backends.fp32_precision = cudnn.fp32_precision = "none"
        torch.set_float32_matmul_precision("highest")
        cudnn.allow_tf32 = True
        if NEWER:
            matmul.fp32_precision = torch.backends.mkldnn.matmul.fp32_precision = "none"

    reset()
    yield
    reset()


USERS = {
    "nothing": "",
    "older, allowed": "cudnn.allow_tf32 = matmul.allow_tf32 = True",
    "older, forbidden": "cudnn.allow_tf32 = matmul.allow_tf32 = False",
    "high": "torch.set_float32_matmul_precision('high')",
    "medium": "torch.set_float32_matmul_precision('medium')",
}
NEWER_USERS = {
    "all allowed": "torch.backends.fp32_precision = 'tf32'",
    "all forbidden": "torch.backends.fp32_precision = 'ieee'",
    "all bfloat16": "torch.backends.fp32_precision = 'bf16'",
    "CUDA allowed": "cudnn.fp32_precision = 'tf32'",
    "CUDA as all": "torch.backends.fp32_precision = cudnn.fp32_precision = 'tf32'",
    "CUDA against all": "torch.backends.fp32_precision = 'tf32'; cudnn.fp32_precision = 'ieee'",
    "convolutions as all": "torch.backends.fp32_precision = cudnn.conv.fp32_precision = 'ieee'",
    "convolutions forbidden": "cudnn.conv.fp32_precision = 'ieee'",
    "products alone": "cudnn.fp32_precision = cudnn.conv.fp32_precision = 'ieee'; matmul.fp32_precision = 'tf32'",
    "both interfaces": "cudnn.allow_tf32 = False; cudnn.conv.fp32_precision = 'tf32'; matmul.allow_tf32 = True",
}
every_user = pytest.mark.parametrize(
    "said",
    [*USERS.values(), *(pytest.param(said, marks=needs_newer) for said in NEWER_USERS.values())],
    ids=[*USERS, *NEWER_USERS],
)


class Noted(Small):
    """Notes what CUDA's switches say during its passes, and the type of what its convolution returns."""

    def __init__(self) -> None:
        super().__init__()
        self.rounded: set[tuple[bool, bool]] = set()
        self.types: set[torch.dtype] = set()

    def forward(self, images: Tensor) -> Tensor:
        self.rounded.add(rounded())
        first = self[0](images)
        self.types.add(first.dtype)
        for layer in list(self)[1:]:
            first = layer(first)
        return first


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


# ---- the switches


@every_user
@pytest.mark.parametrize("precision", PRECISIONS)
def test_inside_and_after(precision: str, said: str) -> None:
    exec(said)
    before = behaviour()
    with computing(precision, CPU):
        assert rounded() == ((precision == "tf32"),) * 2
        assert torch.is_autocast_enabled("cpu") == (precision == "bf16")
    assert behaviour() == before and not torch.is_autocast_enabled("cpu")


@every_user
def test_after_an_error(said: str) -> None:
    exec(said)
    before = behaviour()
    for precision in PRECISIONS:
        with pytest.raises(ZeroDivisionError), computing(precision, CPU):
            raise ZeroDivisionError
        assert behaviour() == before and not torch.is_autocast_enabled("cpu")


@every_user
def test_nested(said: str) -> None:
    exec(said)
    before = behaviour()
    with computing("full", CPU):
        with computing("tf32", CPU):
            with computing("full", CPU), computing("full", CPU):
                assert rounded() == (False, False)
            assert rounded() == (True, True)
        assert rounded() == (False, False)
    assert behaviour() == before


@needs_newer
def test_the_default_of_torch_still_gives_way() -> None:
    """In a process that has set nothing: what is set afterwards reaches as much as without us."""
    script = """
import os, torch
from perceptual_lib.core.precision import PRECISIONS, computing
if child := os.fork():
    os.wait()
for precision in () if child else PRECISIONS:
    with computing(precision, torch.device("cpu")):
        pass
cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
said = [cudnn.conv.fp32_precision, matmul.fp32_precision]
torch.backends.fp32_precision = "ieee"
print(said, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, matmul.fp32_precision)
"""
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    without, behind = said.splitlines()
    assert behind == without


@needs_newer
@pytest.mark.parametrize("precision", PRECISIONS)
def test_switches_of_the_cpu_stay(precision: str) -> None:
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    with computing(precision, CPU):
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
        assert torch.backends.mkldnn.conv.fp32_precision == "none"


@pytest.mark.parametrize("said", USERS.values(), ids=USERS)
@pytest.mark.parametrize("allowed", [False, True])
def test_older_switches(said: str, allowed: bool) -> None:
    exec(said)
    before = older()
    with _older_switches(allowed, CUDA):
        assert older() == [allowed, allowed, "high" if allowed else "highest"]
    assert older() == before
    with _older_switches(allowed, CPU):  # which reads that of products, too
        assert older() == [allowed, *before[1:]]
    assert older() == before


def test_an_autocast_around_stays() -> None:
    with torch.autocast("cpu", torch.float16), computing("full", CPU):
        assert torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.float16


@pytest.mark.parametrize(
    "ask",
    [
        lambda name: computing(name, CPU).__enter__(),
        lambda name: Classifier(Small(), precision=name),
        lambda name: load_classifier(Small(), precision=name),
        lambda name: load_classifier("no network at all", precision=name),
    ],
    ids=["computing", "Classifier", "load_classifier", "load_classifier by name"],
)
def test_unknown_precision(ask) -> None:
    with pytest.raises(InputError, match="no precision 'half'; there are full, tf32, bf16"):
        ask("half")


# ---- what explains

EXPLAIN = {
    "explain": lambda *asked: explain(*asked, method="gradient"),
    "explain with ours": lambda *asked: explain(*asked, method="perceptual", max_iter=2),
    "perceptual_ball": lambda *asked: perceptual_ball(*asked, layers=0, max_iter=2).delta,
    "class_gradient": class_gradient,
}
everything = pytest.mark.parametrize("function", EXPLAIN.values(), ids=EXPLAIN)


@everything
@every_user
def test_a_network_is_explained_in_full(function, said: str, images: Tensor) -> None:
    exec(said)
    before, network = behaviour(), Noted()
    function(network, images)
    assert network.rounded == {(False, False)} and network.types == {torch.float32}
    assert behaviour() == before


@everything
def test_a_classifier_in_its_own_precision(function, images: Tensor) -> None:
    cudnn.allow_tf32 = False
    before, maps = behaviour(), {}
    for precision, passes in (("full", (False, False)), ("tf32", (True, True)), ("bf16", (False, False))):
        network = Noted()
        classifier = load_classifier(network, precision=precision)
        assert classifier.precision == precision
        maps[precision] = function(classifier, images)
        assert network.rounded == {passes} and behaviour() == before
        # Where convolutions are folded, that is done in float32 also inside an autocast.
        assert (torch.bfloat16 in network.types) == (precision == "bf16")
        assert maps[precision].dtype == torch.float32
    assert torch.equal(maps["full"], maps["tf32"])  # on a CPU
    assert not torch.equal(maps["full"], maps["bf16"])


@everything
def test_after_an_error_of_the_network(function, images: Tensor) -> None:
    class Broken(Small):
        def forward(self, images: Tensor) -> Tensor:
            assert rounded() == (False, False)
            raise ZeroDivisionError

    before = behaviour()
    with pytest.raises(ZeroDivisionError):
        function(Broken(), images)
    assert behaviour() == before


def test_calling_a_classifier_leaves_the_switches_alone(images: Tensor) -> None:
    network = Noted()
    for precision in PRECISIONS:
        for allowed in (False, True):
            cudnn.allow_tf32 = matmul.allow_tf32 = allowed
            network.rounded.clear()
            Classifier(network, precision=precision)(images)
            assert network.rounded == {(allowed, allowed)} and network.types == {torch.float32}


def test_a_classifier_keeps_its_precision(images: Tensor) -> None:
    for function in (
        lambda model: explain(model, images, method="gradient", objective=lambda logits: logits[:, 0]),
        lambda model: perceptual_ball(model, images, objective=lambda logits: logits[:, 0], max_iter=1),
        lambda model: explain(torch.compile(model), images, method="gradient"),
    ):
        function(Classifier(network := Noted(), precision="bf16"))
        assert torch.bfloat16 in network.types


@pytest.mark.parametrize("own", [16, "fp32", torch.ones(2)], ids=str)
def test_a_precision_that_is_none_of_ours_is_the_networks_own_affair(own: object, images: Tensor) -> None:
    network = Noted()
    network.precision = own
    explain(network, images, method="gradient")
    assert network.rounded == {(False, False)}
