"""The state that a network is in while it is explained (evaluation mode, no gradients for its weights, no half
precision), and how it is put back afterwards."""

import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from copy import copy
from dataclasses import is_dataclass
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
_locks = WeakIdKeyDictionary()  # of weights and modules: networks that share one wait for each other


def _called_eagerly() -> AbstractContextManager[Any]:
    """Context in which compiled modules run as they were written: no activations are seen in compiled code."""
    # Loading the compiler takes a second; where it is not loaded, nothing is compiled.
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


@contextmanager
def freeze(network: nn.Module) -> Iterator[None]:
    """Context in which a network is in evaluation mode, has no gradients for its weights, and computes in float32 in
    place of half precision, which would round small changes of an image away. On leaving, also by an error, all is as
    it was.

    This includes buffers that networks write, as observers and counters do, and tensors that they keep in plain
    attributes, such as caches of what they computed from weights. Other threads that want to freeze some of the same
    weights wait. The network's own `train` is called on the way in and out. What a `train` that is not PyTorch's does
    to weights (LoRA's adds its product to them) is undone to the bit. Raises InputError for lazy layers, and for
    weights that can have no gradients.
    """
    with ExitStack() as held:  # undoes everything on leaving, the last first
        modules = list(network.modules())
        weights, buffers = (
            [each for module in modules for each in getattr(module, kind).values() if each is not None]
            for kind in ("_parameters", "_buffers")
        )
        others = [each for each in modules if _keeps_attributes(each)]
        owners: list[Any] = sorted([*weights, *others], key=id) or [network]
        for each in owners:  # in one order for all threads, so that no two wait for each other
            held.enter_context(_locks.setdefault(each, RLock()))
        held.enter_context(_eagerly("eager", _called_eagerly))
        if any(map(is_lazy, weights + buffers)):
            raise InputError("the network has lazy layers, whose sizes are not known yet; call it once before.")
        if any(each.is_inference() for each in weights + buffers):
            raise InputError(
                "the network was made inside torch.inference_mode, where nothing has a gradient; make it outside."
            )
        for module in others:
            held.callback(_put_back_attributes, vars(module), copy(vars(module)))
            for each in _collections(module):
                held.callback(_put_back_collection, each, copy(each))
        training = any(map(is_training, modules))
        written: list[Any] = [module._buffers for module in modules]
        for module in modules:
            if training and type(module).train is not nn.Module.train:
                written += [own for part in module.modules() for own in (part._parameters, part._buffers)]
        owned = [(own, [*own.items()]) for own in written]  # TorchScript's can only be read by `items`
        copies = _copies(each for _, items in owned for _, each in items if each is not None)
        held.callback(_put_back_tensors, owned, copies)
        for weight in weights:
            held.callback(setattr, weight, "requires_grad", weight.requires_grad)
        for module in reversed(modules):  # so that outer ones are put back first: they change inner ones, too
            held.callback(_put_back_mode, module, is_training(module))
        if training:
            with suppress(NotImplementedError):  # exported networks have no modes
                network.train(False)  # not `eval`, which a network may override with something else
        for weight in weights:
            weight.requires_grad = False
        for each in weights + buffers:
            if each.dtype in HALF:
                held.callback(setattr, each, "data", each.data)
                each.data = each.data.float()
        yield


_OWN = vars(nn.Module()).keys()  # attributes of every module
COLLECTIONS = dict, list, set, deque, tuple
SMALL = 100_000  # the most numbers in a small buffer


def _keeps_attributes(module: nn.Module) -> bool:
    """Whether a module's plain attributes may be written. PyTorch's own have none, but weights that hooks compute."""
    own = not type(module).__module__.startswith("torch.nn.")
    return own or any(isinstance(value, Tensor) for value in vars(module).values())


def _collections(module: nn.Module) -> Iterator[Any]:
    """Collections that can be changed, at any depth of a module's plain attributes."""
    met, waiting = set[int](), [value for name, value in vars(module).items() if name not in _OWN]
    while waiting:
        each = waiting.pop()
        if isinstance(each, COLLECTIONS) and id(each) not in met:
            met.add(id(each))
            waiting += each.values() if isinstance(each, dict) else each
            if not isinstance(each, tuple):
                yield each


def _put_back_attributes(own: dict[str, Any], before: Mapping[str, Any]) -> None:
    """Put back a module's attributes that are or were, or hold or held, tensors. Numbers, such as counters, stay as the
    network left them."""
    for name in before.keys() | own.keys():
        if own.get(name) is not before.get(name) and _holds_tensors(own.get(name), before.get(name)):
            own.pop(name, None)
            own |= {name: before[name]} if name in before else {}


def _put_back_collection(own: Any, before: Any) -> None:
    """Put back a collection that holds or held tensors, as a whole: with the numbers beside the tensors."""
    things = [(*each, *each.values()) if isinstance(each, dict) else (*each,) for each in (own, before)]
    is_as_before = len(own) == len(before) and all(map(is_, *things))
    if not is_as_before and _holds_tensors(own, before):
        own.clear()
        own.update(before) if isinstance(own, (dict, set)) else own.extend(before)


def _holds_tensors(*values: Any) -> bool:
    leaves = tree_leaves(values)
    inside = tree_leaves([vars(each) for each in leaves if is_dataclass(each)])
    return any(isinstance(each, Tensor) for each in (*leaves, *inside))


def _copies(tensors: Iterable[Tensor]) -> list[tuple[list[Tensor], Tensor, list[Tensor]]]:
    """Groups of tensors, without those of an unusual layout, and copies of their contents: flat, and each in its shape.

    A group is one large tensor, or all small ones of one device and type: a GPU compares them at a single request.
    """
    groups: dict[Any, list[Tensor]] = {}
    for each in tensors:
        if each.layout is torch.strided and not (each.is_meta or each.is_quantized or each.is_nested):
            groups.setdefault((each.device, each.dtype, id(each) if each.numel() > SMALL else 0), []).append(each)
    copies = []
    for group in groups.values():
        flat = _flat(group)
        parts = flat.split([each.numel() for each in group])
        copies.append((group, flat, [part.view(each.shape) for part, each in zip(parts, group, strict=True)]))
    return copies


def _flat(group: Iterable[Tensor]) -> Tensor:
    return torch.cat([each.detach().reshape(-1) for each in group])


def _put_back_tensors(
    owned: Iterable[tuple[Any, list[tuple[str, Tensor | None]]]],
    copies: Iterable[tuple[list[Tensor], Tensor, list[Tensor]]],
) -> None:
    """Put back parameters or buffers in the dictionaries that hold them; and their contents, see `_copies`."""
    for own, before in owned:
        if [name for name, _ in own.items()] == [name for name, _ in before]:  # else `train` has merged some for good
            for name, each in before:
                if each is not None:
                    own[name] = each
    with torch.no_grad():
        for group, flat, values in copies:
            for each, value in zip(group, values, strict=True):
                if each.shape != value.shape:  # observers' buffers grow to as many channels as they meet
                    each.data = each.new_zeros(value.shape)
            if not torch.equal(_flat(group), flat):
                for each, value in zip(group, values, strict=True):
                    if not torch.equal(each, value):  # equal ones keep their versions, which tell graphs of changes
                        each.copy_(value)


def _put_back_mode(module: nn.Module, mode: bool) -> None:
    if is_training(module) != mode:
        with suppress(NotImplementedError):  # exported networks have no modes
            module.train(mode)
