"""What is found out about a network when it is first explained: whether its answers can be used as they are."""

import weakref
from dataclasses import dataclass, replace
from functools import partial
from types import FunctionType, MethodType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from perceptual_lib.core.activations import watch
from perceptual_lib.core.calling import HALF, NO_GRADIENT, Scored, ask, network_of
from perceptual_lib.core.errors import InputError, is_out_of_memory, see, warn
from perceptual_lib.core.graphs import parts_of


@dataclass(frozen=True)
class Findings:
    """What was found out about a network."""

    depends: bool = False  # its answer for an image depends on the others in the batch: it must get each alone
    mixed: bool = False  # its activations are not of one image after the other: each image is explained alone
    probabilities: bool = False  # its outputs are those of a softmax or sigmoid, no logits
    no_gradient: str = ""  # why its outputs have no gradient in the image; "" if they have one
    notes: tuple[str, ...] = ()  # what users are warned of


RESHAPED = frozenset(
    """View ReshapeAlias UnsafeView Squeeze Unsqueeze Slice Select Index Split Expand Permute T Clone ToCopy
    Clamp ClampMin ClampMax""".split()
)
"""Operations, as autograd names them, that leave numbers as they are, or nearly."""

AVERAGED = frozenset("Add Mean Sum Stack Cat".split())
"""Operations, as autograd names them, of which a mean of several scores is made; and what scales it."""


class _Known(NamedTuple):
    """The findings about a network in one state."""

    state: object
    of_sizes: dict[torch.Size, Findings]  # by an image's shape; the one asked for last comes last


_known: weakref.WeakKeyDictionary[nn.Module, _Known] = weakref.WeakKeyDictionary()


def findings(model: nn.Module) -> Findings:
    """What was found out about a network the last time."""
    known = _known.get(network_of(model))
    return next(reversed(known.of_sizes.values()), Findings()) if known else Findings()


def look_at(model: nn.Module, images: Tensor) -> Findings:
    """What is found out about a frozen network with images of this size. Users are warned the first time, and again if
    it has other modules, hooks, buffers or plain attributes."""
    network = network_of(model)
    state, known = (parts_of(network), _switches(network)), _known.get(network)
    if known is None or known.state != state:
        _known[network] = known = _Known(state, {})
    said = {note for each in known.of_sizes.values() for note in each.notes}
    if (found := known.of_sizes.pop(images.shape[1:], None) or _look(network, images[:1])) is not None:
        for note in (each for each in found.notes if each not in said):
            warn(note)
        known.of_sizes[images.shape[1:]] = found
    return findings(network)


def _switches(network: nn.Module) -> list[object]:
    """What may switch a forward pass: flags and words among attributes (numbers may be counters), which buffers are
    missing, and references to attributes that can be called."""
    modules = list(network.modules())
    attributes = [value for each in modules for value in (getattr(type(each), "forward", None), *vars(each).values())]
    missing = [value is None for each in modules for value in each._buffers.values()]
    switches = [value for value in attributes if value is None or isinstance(value, (bool, str))]
    return [*switches, *missing, *(_reference(value) for value in attributes if callable(value))]


def _reference(function: object) -> object:
    """What identifies a callable, without keeping the network alive: a function's code, as it may be made anew."""
    if isinstance(function, partial):
        function = function.func
    if isinstance(function, MethodType):
        function = function.__func__
    if isinstance(function, FunctionType):
        return function.__code__
    try:
        return weakref.ref(function)
    except TypeError:
        return id(function)


def _look(network: nn.Module, image: Tensor) -> Findings | None:
    """Ask the network for an image (1, C, H, W) beside another, and alone; None if it fails, or memory is too small."""
    pair = torch.cat([image, 1 - 2 * image])
    for images in (pair, image):  # exported networks may not take two
        try:
            asked = _ask(network, images)
            break
        except Exception as error:
            if is_out_of_memory(error):
                return None
            words, cause = " ".join(str(error).split()), error
    else:
        if "type" in words and ("Half" in words or "BFloat16" in words):
            raise InputError(
                "the network casts its inputs to half precision itself, and is computed in float32 here "
                f"({words}); let it cast to the type of its weights{see('Half precision')}."
            ) from cause
        return None  # any other error is reported where the network is called next
    found = _compared(network, pair, asked) if len(images) > 1 else Findings(depends=len(asked.scores) == 1)
    found = replace(found, no_gradient=_why_no_gradient(asked.scores, asked.leaf))
    if not _are_probabilities(asked.scores):
        return found
    note = (
        f"the {'objective' if isinstance(network, Scored) else 'network'} returns probabilities, not logits: where it "
        "is sure their gradients vanish, and a margin of -2 is never reached; explain it without its last softmax or "
        f"sigmoid{see('Probabilities')}."
    )
    return replace(found, probabilities=True, notes=(*found.notes, note))


class _Asked(NamedTuple):
    leaf: Tensor
    scores: Tensor
    activations: list[Tensor]


def _ask(network: nn.Module, images: Tensor) -> _Asked:
    leaf, activations = images.detach().clone().requires_grad_(), list[Tensor]()
    with torch.enable_grad(), watch(lambda _, output: activations.append(output.detach().clone())):
        return _Asked(leaf, ask(network, leaf), activations)


def _compared(network: nn.Module, pair: Tensor, beside: _Asked) -> Findings:
    """Compare outputs and activations for two images, (2, ...), passed together, with those of each passed alone."""
    try:
        alone = [_ask(network, each) for each in pair.split(1)]
    except Exception as error:
        raise InputError(
            f"the network cannot be asked for one image alone ({' '.join(str(error).split())}), so its answers are of "
            "a batch; give its batch norms running statistics, or export it for any batch"
            f"{see('Neighbours that matter')}."
        ) from error
    if near(beside.scores, torch.cat([each.scores for each in alone])):
        apart = list(zip(*(each.activations for each in alone), strict=False))
        if len(apart) == len(beside.activations) and all(
            near(both, torch.cat(each)) for both, each in zip(beside.activations, apart, strict=True)
        ):
            return Findings()
        note = (
            "the network's activations are not of one image after the other (sequences first, several views of each?): "
            f"each image is explained alone, which is right and slow{see('Neighbours that matter')}."
        )
        told = (beside.scores[0] != beside.scores[-1]).any()  # a head of zeros tells nothing of its neighbours
        return Findings(depends=not told, mixed=True, notes=(note,))
    if near(_ask(network, pair[:1]).scores, alone[0].scores):
        note = (
            "the network's answer for an image depends on the others in the batch (batch norm without running "
            f"statistics?): each image is passed alone, which is right and slow{see('Neighbours that matter')}."
        )
        return Findings(depends=True, notes=(note,))
    note = (
        "the network answers otherwise each time it is asked for the same image (dropout that stays on, noise?): "
        f"what explains it is as random{see('Answers at random')}."
    )
    return Findings(notes=(note,))


def near(one: Tensor, other: Tensor, share: float = 0.01) -> bool:
    """Whether both agree but for rounding, also of half precision in an autocast: to this share of their spread."""
    if one.shape != other.shape:
        return False
    fixed = (one == other) & (other == (other[:1] if other.ndim else other))  # what masks fill in says nothing of it
    finite = other.detach()[other.isfinite() & ~fixed]
    share = 0.05 if one.dtype in HALF else share  # or a tenth of it, as a share of the values themselves
    tolerance = (
        max(share * (finite - finite.mean()).abs().amax(), share / 10 * finite.abs().amax()) if len(finite) else 0
    )
    usual = other.detach().abs()[other.abs() < 1e4]
    rounding = 1e-6 * usual.amax() if len(usual) else 0  # of what is near 0 beside what is not
    return torch.allclose(one, other, rtol=0, atol=float(max(tolerance, rounding)), equal_nan=True)


def _are_probabilities(scores: Tensor) -> bool:
    """Whether rows sum to 1, or a softmax or sigmoid computed the scores, which may be sliced, reshaped or averaged
    since."""
    if not ((scores >= 0) & (scores <= 1)).all():
        return False
    sums = scores.ndim == 2 and scores.shape[1] > 1 and bool(((scores.float().sum(1) - 1).abs() < 1e-2).all())
    return sums or _is_of_probabilities(scores.grad_fn)


def _is_of_probabilities(node: Node | None) -> bool:
    """Whether all that an operation of autograd is computed from comes from a softmax or sigmoid."""
    waiting, met = [node], set[Node | None]()
    while waiting:
        if (node := waiting.pop()) in met:
            continue
        met.add(node)
        operation = node.name().partition("Backward")[0] if node else ""
        if operation in ("Sigmoid", "Hardsigmoid", "Softmax"):
            continue
        scaled = operation in ("Mul", "Div") and getattr(getattr(node, "_saved_other", None), "ndim", 0) == 0
        parents = [each for each, _ in node.next_functions if each is not None] if node else []
        if not parents or not (scaled or operation in RESHAPED | AVERAGED):
            return False
        waiting += parents
    return True


def class_probabilities(model: nn.Module, scores: Tensor, dtype: torch.dtype, rule: str = "softmax") -> Tensor:
    """Probabilities of a network's scores (B, K): softmax or sigmoid, unless `look_at` found that they are that."""
    if findings(model).probabilities:
        return scores.to(dtype)
    return scores.softmax(1, dtype) if rule == "softmax" else scores.to(dtype).sigmoid()


def _why_no_gradient(scores: Tensor, images: Tensor) -> str:
    """Why scores have no gradient in the images, the leaf that they were computed from; "" if they have one."""
    nodes, met, reached = [scores.grad_fn], set(), False
    while nodes:
        if (node := nodes.pop()) is None or node in met:
            continue
        if node.name() == "CheckpointFunctionBackward":
            return (
                "the network computes its activations a second time (checkpoint with use_reentrant=True), which gives "
                f"no gradient in the image; switch it off, or use use_reentrant=False{see('Checkpointing')}."
            )
        reached = reached or getattr(node, "variable", None) is images
        met.add(node)
        nodes += [each for each, _ in node.next_functions]
    return "" if reached or scores is images else NO_GRADIENT


def say_what_is_flat(values: Tensor, what: str) -> None:
    """Warn if values (B, ...) are the same everywhere for an image, which could be taken for an explanation."""
    rows = values.flatten(1)
    flat = rows.amax(1) == rows.amin(1)
    if count := int(flat.sum()):
        warn(
            f"{what} is {'the same' if rows[flat].any() else 'zero'} everywhere for {count} of {len(rows)} images: the "
            "score does not depend on their pixels, as behind a softmax that is sure, or nothing speaks for the class"
            f"{see('The same everywhere')}."
        )
