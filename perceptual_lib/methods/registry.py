"""One shape for everything that explains: `explain(classifier, images, targets, method=...)` -> maps."""

import difflib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from perceptual_lib.core.activations import freeze
from perceptual_lib.core.checks import all_finite, check_inputs, check_targets, resolve_targets
from perceptual_lib.core.errors import InputError


@dataclass(frozen=True)
class Method:
    """An explanation method.

    Attributes:
        name: what `explain` calls it.
        function: `function(network, images (B, C, H, W), targets (B,), **settings) -> maps (B, H, W)`. It gets the
            network in evaluation mode, its parameters without gradients, and gradients disabled.
        source: where it was published.
        formula: passes of the network for one image, in words, with settings in braces.
        predicts: its own pass shows what the network returns: it looks whether the targets fit, and for the predicted
            classes where it gets none. For the others a pass is made before.
    """

    name: str
    function: Callable[..., Tensor]
    source: str
    formula: str
    predicts: bool = False

    @property
    def settings(self) -> dict[str, object]:
        """The keyword arguments that it takes, with their defaults."""
        parameters = list(inspect.signature(self.function).parameters.values())[3:]
        return {parameter.name: parameter.default for parameter in parameters}

    @property
    def cost(self) -> str:
        """Passes of the network for one image at the default settings, for readers: "50 forward, 50 backward"."""
        return self.formula.format(**self.settings)

    def passes(self, settings: Mapping[str, object]) -> tuple[int, int]:
        """Passes of the network for one image with these settings, forward and backward."""
        words = self.formula.format(**(self.settings | dict(settings)))
        forward, backward = (
            sum(map(int, re.findall(rf"(\d+) {direction}", words))) for direction in ("forward", "backward")
        )
        return forward, backward


METHODS: dict[str, Method] = {}


def explainer(
    name: str, *, source: str, cost: str, predicts: bool = False
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Decorator that adds a method to the registry.

    Args:
        name: a new name, or that of a method to replace.
        source: where it was published.
        cost: passes of the network for one image, for readers and for estimates of time; settings may stand in it in
            braces: "{samples} forward, {samples} backward".
        predicts: see `Method`.
    """

    def add(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        METHODS[name] = Method(name, function, source, cost, predicts)
        return function

    return add


def explain(
    classifier: nn.Module,
    images: Tensor,
    targets: None | int | Tensor = None,
    *,
    method: str = "perceptual",
    **settings: object,
) -> Tensor:
    """Saliency maps by any of the methods, one call for all.

    Args:
        classifier: a `Classifier`, or any module from images to logits (B, K); left as it was, also after an error.
        images: (B, C, H, W) in the network's normalized input space. Each image is explained for itself.
        targets: the class explained: None for the network's prediction, one index for all, or (B,) int64.
        method: a name from `METHODS`; `perceptual-ball methods` lists them.
        settings: the method's own keyword arguments.

    Returns:
        (B, H, W), finite, on the images' device, detached and not normalized; higher is more salient.

    Raises:
        InputError: an unknown method or setting, inputs or targets that do not fit, no layer that the method could
            use, or a map that is not finite.
    """
    chosen = find_method(method)
    unknown = sorted(settings.keys() - chosen.settings.keys())
    if unknown:
        raise InputError(f"{method} has no setting {unknown[0]!r}; it has {', '.join(chosen.settings) or 'none'}.")
    check_inputs(classifier, images)
    with torch.inference_mode(False), torch.no_grad(), freeze(classifier):
        images, targets = images.clone(), check_targets(targets, images)
        if not chosen.predicts:
            seen = images if targets is None else images[:1]  # one shows what the network returns
            targets = resolve_targets(classifier(seen), len(seen), targets)
        maps = chosen.function(classifier, images, targets, **settings).detach()
    if not all_finite(maps):
        raise InputError(f"{method} gave a map with NaN or infinity; the network's scores may overflow.")
    return maps


def find_method(name: str) -> Method:
    """A method by name. Raises InputError for an unknown one, with the nearest names."""
    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, n=3, cutoff=0.4) or list(METHODS)
        raise InputError(f"there is no method {name!r}; nearest: {', '.join(close)}.")
    return METHODS[name]
