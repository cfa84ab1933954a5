"""Workers: all that is computed, also what calls the classifier itself, is in the classifier's precision."""

import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from stand_ins import Small
from torch import Tensor

from perceptual_lib.runs.worker import Worker


class Noted(Small):
    """Notes the type of what it returns, and whether CUDA's convolutions are rounded to TF32 meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[torch.dtype, bool]] = set()

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        newer = hasattr(torch.backends, "fp32_precision")
        convolutions = torch.backends.cudnn
        self.seen.add((logits.dtype, convolutions.conv.fp32_precision == "tf32" if newer else convolutions.allow_tf32))
        return logits


@pytest.mark.parametrize(
    ("precision", "expected"),
    [("full", (torch.float32, False)), ("tf32", (torch.float32, True)), ("bf16", (torch.bfloat16, False))],
)
def test_precision(precision: str, expected: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    def compute(classifier, pictures) -> dict[str, np.ndarray]:
        with torch.no_grad():
            return {"logits": classifier(classifier.preprocess(pictures)).float().numpy()}

    monkeypatch.setitem(sys.modules, "game", SimpleNamespace(compute=compute))
    network = Noted()
    worker = Worker({"model": network, "precision": precision})
    arrays = worker.compute("game", {}, [Image.new("RGB", (40, 50))] * 2, None)
    assert arrays["failure"].tolist() == ["", ""] and arrays["logits"].shape == (2, 5)
    assert network.seen == {expected}
    network.seen.clear()
    assert min(worker.pass_seconds(2)) >= 0
    assert network.seen == {expected} and worker.identity()["precision"] == precision


def test_the_time_of_a_shard_is_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was stopped, or had to wait for other work, took no longer."""

    def compute(classifier, pictures) -> dict[str, np.ndarray]:
        time.sleep(0.5)
        return {}

    monkeypatch.setitem(sys.modules, "game", SimpleNamespace(compute=compute))
    worker = Worker({"model": Small(), "device": "cpu"})
    worker.identity()  # the network is loaded
    assert worker.compute("game", {}, [Image.new("RGB", (40, 50))], None)["seconds"] < 0.25
