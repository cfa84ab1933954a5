"""What a network is while it is explained: in evaluation mode, without gradients for its weights, in float32; and how
it is left as it was."""

import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from copy import copy
from dataclasses import is_dataclass
from itertools import chain
from operator import is_
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from perceptual_lib.core.calling import HALF, is_training
from perceptual_lib.core.errors import InputError
from perceptual_lib.core.precision import Shared

_eagerly = Shared()
_locks = WeakIdKeyDictionary()  # of weights and modules: networks that have one in common queue


def _called_eagerly() -> AbstractContextManager[Any]:
    """Context in which what `torch.compile` has made is called as it was written: compiled code has no activations."""
    # Loading the compiler takes a second: where it is not, nothing is compiled.
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


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
        others = [module for module in modules if not type(module).__module__.startswith("torch.nn.")]
        owners: list[Any] = sorted([*weights, *others], key=id) or [network]
        for each in owners:  # in one order, so that no two wait for each other
            held.enter_context(_locks.setdefault(each, RLock()))
        held.enter_context(_eagerly("eager", _called_eagerly))
        if any(map(is_lazy, weights + buffers)):
            raise InputError("the network has lazy layers, whose sizes are not known yet; call it once before.")
        if any(each.is_inference() for each in weights + buffers):
            raise InputError(
                "the network was made inside torch.inference_mode, where nothing has a gradient; make it outside."
            )
        held.callback(_put_back_attributes, [(module, _attributes(module)) for module in others])
        modes = [(module, is_training(module)) for module in modules]
        training = any(mode for _, mode in modes)
        written: list[Any] = [module._buffers for module in modules]
        for module in modules:
            if training and type(module).train is not nn.Module.train:
                written += [own for part in module.modules() for own in (part._parameters, part._buffers)]
        owned = [(own, [*own.items()]) for own in written]  # what TorchScript has of them can be read so alone
        groups = _together(each for _, items in owned for _, each in items if each is not None)
        copies = [(group, _flat(group, anew=True), [*map(Tensor.size, group)]) for group in groups]
        held.callback(_put_back_tensors, owned, copies)
        held.callback(_put_back, "requires_grad", [(weight, weight.requires_grad) for weight in weights])
        held.callback(_put_back_modes, modes)
        if training:
            with suppress(NotImplementedError):  # exported networks have no modes
                network.train(False)  # not by its `eval`, which may be something else than what a wrapper asks for
        for weight in weights:
            weight.requires_grad = False
        halves = [(each, each.data) for each in weights + buffers if each.dtype in HALF]
        held.callback(_put_back, "data", halves)
        for each, value in halves:
            each.data = value.float()
        yield


_OWN = vars(nn.Module()).keys()  # attributes of every module
COLLECTIONS = dict, list, set, deque, tuple
SMALL = 100_000  # numbers in a buffer


def _attributes(module: nn.Module) -> dict[str, tuple[Any, list[tuple[Any, Any]]]]:
    """Plain attributes by name, and the collections in them, each with what was in it."""
    return {name: (value, _collections(value)) for name, value in vars(module).items() if name not in _OWN}


def _collections(value: Any) -> list[tuple[Any, Any]]:
    found, met, waiting = [], set[int](), [value] if isinstance(value, COLLECTIONS) else []
    while waiting:
        each = waiting.pop()
        if id(each) in met:
            continue
        met.add(id(each))
        inside = each.values() if isinstance(each, dict) else each
        waiting += [deeper for deeper in inside if isinstance(deeper, COLLECTIONS)]
        if not isinstance(each, tuple):
            found.append((each, copy(each)))
    return found


def _put_back_attributes(
    attributes: Iterable[tuple[nn.Module, Mapping[str, tuple[Any, list[tuple[Any, Any]]]]]],
) -> None:
    """Of modules, those that hold tensors, or did."""
    for module, before in attributes:
        own = vars(module)
        for name in before.keys() | (own.keys() - _OWN):
            value, collections = before.get(name, (None, []))
            if own.get(name) is not value and _holds_tensors(own.get(name), value):
                own.pop(name, None)
                own |= {name: value} if name in before else {}
            for each, content in collections:
                if not _is_as(each, content) and _holds_tensors(each, content):
                    each.clear()
                    each.update(content) if isinstance(each, (dict, set)) else each.extend(content)


def _is_as(one: Any, other: Any) -> bool:
    """Whether two collections have the very same things in them."""
    things = [chain.from_iterable(each.items()) if isinstance(each, dict) else each for each in (one, other)]
    return len(one) == len(other) and all(map(is_, *things))


def _holds_tensors(*values: Any) -> bool:
    leaves = tree_leaves(values)
    inside = tree_leaves([vars(each) for each in leaves if is_dataclass(each)])
    return any(isinstance(each, Tensor) for each in (*leaves, *inside))


def _put_back(name: str, values: Iterable[tuple[Tensor, Any]]) -> None:
    for each, value in values:
        setattr(each, name, value)


def _together(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Small ones that fit into one, which a GPU is asked about at once, and large ones; none of an unusual layout."""
    groups: dict[Any, list[Tensor]] = {}
    for each in tensors:
        if each.layout is torch.strided and not (each.is_meta or each.is_quantized or each.is_nested):
            groups.setdefault((each.device, each.dtype, id(each) if each.numel() > SMALL else 0), []).append(each)
    return list(groups.values())


def _flat(group: Sequence[Tensor], anew: bool = False) -> Tensor:
    if len(group) > 1:
        return torch.cat([each.detach().reshape(-1) for each in group])
    return group[0].detach().reshape(-1).clone() if anew else group[0].detach().reshape(-1)


def _put_back_tensors(
    owned: Iterable[tuple[Any, list[tuple[str, Tensor | None]]]],
    copies: Iterable[tuple[list[Tensor], Tensor, list[torch.Size]]],
) -> None:
    """Of what holds parameters or buffers by name; and groups of these, with a copy of what was in them, and shapes."""
    for own, before in owned:
        if [name for name, _ in own.items()] == [name for name, _ in before]:  # else `train` has merged some for good
            for name, each in before:
                if each is not None:
                    own[name] = each
    with torch.no_grad():
        for group, flat, shapes in copies:
            for each, shape in zip(group, shapes, strict=True):
                if each.shape != shape:  # observers find out how many channels there are
                    each.data = each.new_zeros(shape)
            if not torch.equal(_flat(group), flat):
                values = flat.split([shape.numel() for shape in shapes])
                for each, value, shape in zip(group, values, shapes, strict=True):
                    if not torch.equal(each, value.view(shape)):  # others keep their versions, which graphs go by
                        each.copy_(value.view(shape))


def _put_back_modes(modes: Sequence[tuple[nn.Module, bool]]) -> None:
    """Of outer modules first, which take inner ones with them; all of them, also where one raises an error."""
    if all(is_training(module) == mode for module, mode in modes):
        return
    with ExitStack() as left:
        for module, mode in reversed(modes):
            left.callback(_put_back_mode, module, mode)


def _put_back_mode(module: nn.Module, mode: bool) -> None:
    if is_training(module) != mode:
        with suppress(NotImplementedError):  # exported networks have no modes
            module.train(mode)
