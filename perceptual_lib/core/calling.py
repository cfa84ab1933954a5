"""How a network is called: in evaluation mode, without gradients for its weights, for its logits; and what is inside of
what others have put around it."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from itertools import chain
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from perceptual_lib.core.errors import InputError, see
from perceptual_lib.core.precision import PRECISIONS, Shared

HALF = torch.bfloat16, torch.float16
FEATURES = frozenset(("last_hidden_state", "pooler_output", "features", "embeddings"))  # keys of networks without head

NO_GRADIENT = (
    "the network's outputs have no gradient in the image (torch.no_grad, detach or NumPy on the way, or quantized "
    f"weights?); use a network that can be trained, or a method that needs none, as rise{see('No gradient')}."
)


class Wrapper(nn.Module):
    """A module around a network, in which layers have their own names; `precision` as for `Classifier`."""

    def __init__(self, network: nn.Module, precision: str = "full") -> None:
        super().__init__()
        self.network, self.precision = network, precision
        self.training = _is_training(network)

    def forward(self, inputs: Tensor) -> Tensor:
        return ask(self.network, inputs)


class Scored(nn.Module):
    """A network of two classes, whose first has a number of your own for its logit, and whose second has 0.

    So what is explained may be anything: a pixel of a segmentation, the score of a detection, a similarity of
    embeddings. Its margin (Eq. 1) is that number. Layers have their paths below `network`.

    Args:
        network: any module that is called with images (B, C, H, W).
        objective: from what it returns to one number an image, (B,), differentiable; each from its own image alone.
    """

    def __init__(self, network: nn.Module, objective: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.network, self.objective = network_of(network), objective
        self.precision, self.training = precision_of(network), _is_training(network)

    def forward(self, images: Tensor) -> Tensor:
        score = self.objective(self.network(images))
        is_tensor = isinstance(score, Tensor)
        if not is_tensor or score.shape != (len(images),) or not score.is_floating_point():
            got = f"{score.dtype} {tuple(score.shape)}" if is_tensor else type(score).__name__
            raise InputError(f"objective must give one number for each of {len(images)} images, not {got}.")
        return torch.stack([score, torch.zeros_like(score)], dim=1)


def _is_training(module: nn.Module) -> bool:
    """What is asked of it then; not that of what stands around it, which its owner has never set."""
    return bool(getattr(module, "training", False))


def precision_of(model: nn.Module) -> str:
    """What it is explained in: a `Classifier`'s own; another module may mean something else by the word."""
    own = getattr(model, "precision", None)
    return own if isinstance(own, str) and (own in PRECISIONS or isinstance(model, Wrapper)) else "full"


def ask(network: nn.Module, images: Tensor) -> Tensor:
    """The logits of images (B, C, H, W); a network of half precision gets them in its own type. Of images that are not
    computed on the way it gets a copy: some write over what they are given."""
    weight = first_weight(network, images)
    images = images.clone() if images.grad_fn is None else images
    return logits_of(network(images.to(weight.dtype) if weight.dtype in HALF else images))


def logits_of(output: Any) -> Tensor:
    """What a network returns, where that is one tensor, or it is plain which one is meant: by the name `logits`, or as
    the only tensor with a row of scores for each image. Raises InputError for others."""
    if isinstance(output, Tensor):
        return output
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(named, Tensor):
        return named
    parts = list(output.values() if isinstance(output, Mapping) else output if isinstance(output, Iterable) else ())
    if FEATURES.intersection(output if isinstance(output, Mapping) else ()):
        raise InputError(
            f"the network returns features ({', '.join(map(str, output))}) and no logits: give the network with its "
            f"classifying head{see('What a network returns')}."
        )
    tensors = [part for part in tree_leaves(parts) if isinstance(part, Tensor)]
    scores = tensors if len(tensors) == 1 else [part for part in tensors if part.ndim == 2]
    if len(scores) != 1:
        shapes = ", ".join(str(tuple(part.shape)) for part in tensors) or "none"
        raise InputError(
            f"the network must return a tensor of logits, not {type(output).__name__} (tensors in it: {shapes}); wrap "
            f"it in a module that returns the logits alone{see('What a network returns')}."
        )
    return scores[0]


def with_gradient(
    loss: Callable[..., Tensor], points: Tensor, *rest: Tensor, otherwise: str = NO_GRADIENT
) -> tuple[Tensor, Tensor]:
    """Losses (B,) that `loss(points, *rest)` gives, each of its own row, and their gradients in the points (B, ...).

    Raises InputError, which says `otherwise`, where they have none.
    """
    gradient = None
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        losses = loss(points, *rest)
        if losses.requires_grad:
            (gradient,) = torch.autograd.grad(losses.sum(), points, allow_unused=True)
    if gradient is None:
        raise InputError(otherwise)
    return losses.detach(), gradient


def network_of(model: nn.Module) -> nn.Module:
    """The network inside a `Wrapper` that only calls it, such as a `Classifier`, and inside what `torch.compile` makes
    of it; another module, and one of these with a `forward` or hooks of its own, as it is. InputError for no module."""
    if not isinstance(model, nn.Module):
        raise InputError(f"what is explained is a module, not {type(model).__name__}; call it in the forward of one.")
    inner: Any = getattr(model, "_orig_mod", None)
    if isinstance(model, Wrapper) and type(model).forward is Wrapper.forward and "forward" not in vars(model):
        inner = model.network
    return model if inner is None or model._forward_hooks or model._forward_pre_hooks else network_of(inner)


_eagerly = Shared()
_locks = WeakIdKeyDictionary()  # of weights: networks that have one in common queue


def _called_eagerly() -> AbstractContextManager[Any]:
    """Context in which what `torch.compile` has made is called as it was written: compiled code has no activations."""
    # Loading the compiler takes a second: where it is not, nothing is compiled.
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def first_weight(network: nn.Module, otherwise: Tensor) -> Tensor:
    """The first parameter that is a number with a fraction: others are of no image's type."""
    return next((each for each in network.parameters() if each.dtype.is_floating_point), otherwise)


@contextmanager
def freeze(network: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients for the weights, half precision in float32, between whose numbers a small change
    of an image would vanish; on leaving all is put back as it was, also by an error.

    So are buffers that networks write, as observers and counters do, and what they keep in plain attributes, as caches
    of what they computed of weights. Other threads that want to freeze some of the same weights wait. The network's own
    `train` is called both ways, and what one that is not PyTorch's does to weights (LoRA adds its product to them) is
    undone to the bit. Raises InputError for weights that can have no gradients.
    """
    with ExitStack() as held:  # which is left in the opposite order, all of it
        modules = list(network.modules())
        weights, buffers = (
            [each for module in modules for each in getattr(module, kind).values() if each is not None]
            for kind in ("_parameters", "_buffers")
        )
        owners: list[Any] = sorted(weights, key=id) or [network]
        for weight in owners:  # in one order, so that no two wait for each other
            held.enter_context(_locks.setdefault(weight, RLock()))
        held.enter_context(_eagerly("eager", _called_eagerly))
        if any(each.is_inference() for each in weights + buffers):
            raise InputError(
                "the network was made inside torch.inference_mode, where nothing has a gradient; make it outside."
            )
        for module in modules:
            if not type(module).__module__.startswith("torch.nn."):
                held.callback(_put_back_attributes, module, _attributes(module))
        modes = [(module, _is_training(module)) for module in modules]
        training = any(mode for _, mode in modes)
        written: list[Any] = [module._buffers for module in modules]
        for module in modules:
            if training and type(module).train is not nn.Module.train:
                written += [own for part in module.modules() for own in (part._parameters, part._buffers)]
        values = []
        for own in written:
            there = [(name, each) for name, each in own.items() if each is not None]
            values.append((own, _names(own), [(name, each, each.clone()) for name, each in there]))
        held.callback(_put_back_tensors, values)
        for weight in weights:
            held.callback(weight.requires_grad_, weight.requires_grad)
        for module, mode in reversed(modes):  # outer ones are the first that are put back
            held.callback(_put_back_mode, module, mode)
        if training:
            with suppress(NotImplementedError):  # exported networks have no modes
                network.train(False)  # not by its `eval`, which may be something else than what a wrapper asks for
        for weight in weights:
            weight.requires_grad = False
        for each in weights + buffers:
            if each.dtype in HALF:
                held.callback(setattr, each, "data", each.data)
                each.data = each.data.float()
        yield


_OWN = vars(nn.Module()).keys()  # attributes of every module


def _attributes(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Plain attributes by name, and what was in those that are lists or dictionaries."""
    plain = ((name, value) for name, value in vars(module).items() if name not in _OWN)
    return {name: (value, value.copy() if type(value) in (dict, list) else None) for name, value in plain}


def _put_back_attributes(module: nn.Module, before: Mapping[str, tuple[Any, Any]]) -> None:
    """Those that hold tensors, or did."""
    own = vars(module)
    for name in before.keys() | (own.keys() - _OWN):
        value, content = before.get(name, (None, None))
        if own.get(name) is not value and _holds_tensors(own.get(name), value):
            own.pop(name, None)
            own |= {name: value} if name in before else {}
        if content is not None and _contained(value) != _contained(content) and _holds_tensors(value, content):
            value.clear()
            value.update(content) if isinstance(value, dict) else value.extend(content)


def _contained(value: dict[Any, Any] | list[Any]) -> list[int]:
    return [id(each) for each in (chain(*value.items()) if isinstance(value, dict) else value)]


def _holds_tensors(*values: Any) -> bool:
    return any(isinstance(each, Tensor) for each in tree_leaves(values))


def _names(own: Mapping[str, Any]) -> list[str]:
    """Of parameters or buffers; what TorchScript has of them cannot be gone through otherwise."""
    return [name for name, _ in own.items()]


def _put_back_tensors(written: Iterable[tuple[Any, list[str], Sequence[tuple[str, Tensor, Tensor]]]]) -> None:
    """Of what holds parameters or buffers, which had these names: name, tensor, and a copy of what was in it."""
    both = []
    for own, names, before in written:
        is_merged = _names(own) != names  # by a `train` that has merged some for good
        for name, each, value in before:
            if not is_merged:
                own[name] = each
            if each.shape != value.shape:  # observers find out how many channels there are
                each.data = value
            if not each.is_meta:
                both.append((each, value))
    with torch.no_grad():
        differ = [(each != value).any() for each, value in both]  # of a GPU all are asked before one is waited for
        for (each, value), differs in zip(both, differ, strict=True):
            if differs:  # what is not written keeps its version, by which a recorded graph knows it
                each.copy_(value)


def _put_back_mode(module: nn.Module, mode: bool) -> None:
    if _is_training(module) != mode:
        with suppress(NotImplementedError):  # see above
            module.train(mode)
