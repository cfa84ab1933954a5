"""One interface for all methods: `explain(classifier, images, targets, method=...)` -> maps."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from perceptual_lib.core.batches import portions
from perceptual_lib.core.calling import Scored, Wrapper, network_of, precision_of
from perceptual_lib.core.checks import ready, resolve_targets
from perceptual_lib.core.errors import InputError, MachineError, nearest, see
from perceptual_lib.core.first_look import say_what_is_flat
from perceptual_lib.core.settings import Settings

Counts = tuple[int, int] | Callable[[Mapping[str, Any]], tuple[int, int]]
"""Forward and backward passes of the network for one image, or a function from the settings to them."""

Function = TypeVar("Function", bound=Callable[..., Tensor])


KINDS = {bool: "true or false", Integral: "a whole number", Real: "a number", str: "a word", Sequence: "a list"}
"""Kinds of settings, in words. A setting is of the first of them that its default is of."""


@dataclass(frozen=True)
class Method:
    """An explanation method. Its function gets the network in evaluation mode, and gradients disabled."""

    name: str  #: what `explain` calls it
    title: str  #: what readers call it
    function: Callable[..., Tensor]  #: `(network, images (B, C, H, W), targets (B,), **settings) -> maps (B, H, W)`
    source: str  #: where it was published
    counts: Counts = (0, 0)  #: passes, without those that prepare all images at once or predict classes
    predicts: bool = False  #: its own pass checks targets or predicts them; others need a pass before for that
    ours: bool = False  #: it perturbs on the perceptual ball, and takes the hyperparameters of `Settings`

    @property
    def settings(self) -> dict[str, Any]:
        """The keyword arguments that it takes, with their defaults; None stands for what suits the network."""
        parameters = list(inspect.signature(self.function).parameters.values())[3:]
        own = {each.name: each.default for each in parameters if each.kind is not each.VAR_KEYWORD}
        return own | {each.name: None for each in fields(Settings) if self.ours and each.name not in own}

    def check_types(self, settings: Mapping[str, Any]) -> None:
        """Raise InputError for a setting that is not of the kind of its default, see `KINDS`."""
        for name, value in settings.items():
            default = self.settings[name]
            kind = next((kind for kind in KINDS if isinstance(default, kind) and default != ()), object)  # () of layers
            other = bool if kind in (Integral, Real) else str if kind is Sequence else ()  # Python's are of these, too
            if value is not None and (not isinstance(value, kind) or isinstance(value, other)):
                raise InputError(f"{name} of {self.name} is {value!r}, and must be {KINDS[kind]}.")

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raise InputError as `check_types`, and for what its function refuses before it asks the network for anything;
        for ours `Settings` refuses it."""
        self.check_types(settings)
        if not settings or self.ours:
            return
        image, target = torch.linspace(0, 1, 3 * 64 * 64).view(1, 3, 64, 64), torch.zeros(1, dtype=torch.long)
        try:
            with torch.no_grad():
                self.function(nn.Module(), image, target, **settings)  # NotImplementedError where the network is called
        except Exception as error:
            if isinstance(error, (InputError, TypeError)) and not isinstance(error, MachineError):
                raise InputError(f"{self.name} cannot take the settings {dict(settings)}: {error}") from error

    def passes(self, settings: Mapping[str, Any]) -> tuple[int, int]:
        """Passes of the network for one image, forward and backward; settings not given have their defaults."""
        return self.counts(self.settings | {**settings}) if callable(self.counts) else self.counts

    def cost(self, **settings: Any) -> str:
        """The passes in words, for readers: "50 forward, 50 backward"."""
        counts = zip(self.passes(settings), ("forward", "backward"), strict=True)
        return ", ".join(f"{count} {direction}" for count, direction in counts if count) or "none"


METHODS: dict[str, Method] = {}


def explainer(
    name: str,
    *,
    source: str,
    title: str | None = None,
    passes: Counts = (0, 0),
    predicts: bool = False,
    ours: bool = False,
) -> Callable[[Function], Function]:
    """Decorator that adds a method to the registry, under a new name or in place of another.

    `title` is for readers, where it is not just the name in words; `passes` are the `counts` of `Method`, where the
    other arguments are explained. Methods name their settings alike: `samples` are random draws, `steps` an exact
    number of steps, `max_iter` a limit of iterations that may end earlier.
    """

    def add(function: Function) -> Function:
        words = title or name.replace("_", " ")
        METHODS[name] = Method(name, words, function, source, passes, predicts, ours)
        return function

    return add


def find_method(name: str) -> Method:
    """A method by name. Raises InputError for an unknown one, with the nearest names."""
    if name not in METHODS:
        raise InputError(f"there is no method {name!r}{nearest(name, METHODS)}; there are {', '.join(METHODS)}.")
    return METHODS[name]


def explain(
    classifier: nn.Module,
    images: Tensor,
    targets: None | int | Tensor = None,
    *,
    method: str = "perceptual",
    objective: Callable[[Any], Tensor] | None = None,
    **settings: Any,
) -> Tensor:
    """Saliency maps by any of the methods.

    Args:
        classifier: a `Classifier`, or any module from images to logits (B, K); left as it was, also after an error.
        images: (B, C, H, W) in the network's normalized input space. Each image is explained independently.
        targets: the class explained: None for the network's prediction, one index for all, or (B,) int64.
        method: a name from `METHODS`; `perceptual-ball methods` lists them.
        objective: what is explained in place of a class, a function from the network's output to (B,): see `Scored`.
        settings: the method's own keyword arguments; None stands for the default.

    Returns:
        (B, H, W), finite, not normalized; higher is more salient.

    Raises InputError for an unknown method or setting, inputs or targets that do not fit, no layer that the method
    could use, or a map that is not finite.
    """
    if objective is not None:
        if targets is not None:
            raise InputError("targets and objective both say what is explained; give one of them.")
        classifier, targets = Scored(classifier, objective), 0
    chosen = find_method(method)
    settings = {name: _plain(value) for name, value in settings.items()}
    unknown = sorted(settings.keys() - chosen.settings.keys())
    if unknown:
        advice = "; the class is targets" if unknown[0] == "target" else ""
        known = ", ".join(chosen.settings) or "none"
        raise InputError(f"{method} has no setting {unknown[0]!r}{advice}; it has {known}.")
    # None is what a setting is without being given, also where its default is no None.
    settings = {name: each for name, each in settings.items() if each is not None or chosen.settings[name] is None}
    chosen.check_types(settings)
    if not (isinstance(classifier, Wrapper) and type(classifier).forward is Wrapper.forward):
        # A wrapper finds the logits in what a network returns.
        classifier = Wrapper(network_of(classifier), precision_of(classifier))
    with ready(classifier, images, targets, gradient=chosen.passes(settings)[1] > 0) as (images, targets):
        some = enumerate(portions(classifier, images, targets))  # each with the number of its first image
        maps = torch.cat([_maps(chosen, classifier, *each, _numbered(settings, first)) for first, each in some])
    if not maps.isfinite().all():
        raise InputError(
            f"{method} gave a map with NaN or infinity; the network's scores may overflow{see('NaN or infinity')}."
        )
    if not chosen.ours:  # these warn of it themselves
        say_what_is_flat(maps, f"the map of {method}")
    return maps


def _plain(value: Any) -> Any:
    """A setting as Python's own number or list. Iterators are read several times: to count passes, for each portion."""
    return list(value) if isinstance(value, (Iterator, Set)) else value.tolist() if hasattr(value, "tolist") else value


def _numbered(settings: Mapping[str, Any], first: int) -> Mapping[str, Any]:
    """The settings for images from number `first` on: a callback gets these numbers."""
    if (callback := settings.get("callback")) is None:
        return settings
    return {**settings, "callback": lambda step, rows, maps: callback(step, rows + first, maps)}


def _maps(
    method: Method, network: nn.Module, images: Tensor, targets: Tensor | None, settings: Mapping[str, Any]
) -> Tensor:
    if not method.predicts:
        seen = images if targets is None else images[:1]  # one image shows what the network returns
        targets = resolve_targets(network(seen), len(seen), targets)
    try:
        return method.function(network, images, targets, **settings).detach()
    except CheckpointError as error:
        raise InputError(
            f"the network computes its activations a second time (checkpointing), and {method.name} changes what that "
            f"gives; switch it off, as with network.set_grad_checkpointing(False){see('Checkpointing')}."
        ) from error
