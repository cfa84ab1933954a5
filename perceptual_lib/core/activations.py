"""The activations of a network, in the order in which a forward pass computes them.

Calls are watched, not modules: torchvision's ResNet calls one in-place ReLU module several times, DenseNet and
Inception call the function, and each of these calls is an activation. A `TorchFunctionMode` sees modules,
functions and methods alike, and leaves nothing on the network.
"""

import operator
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from threading import RLock, get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakIdKeyDictionary

from perceptual_lib.core.errors import InputError, see
from perceptual_lib.core.settings import Layers

# The pointwise functions whose outputs are features. Sigmoid, its hard form and softmax are gates and
# attention in the networks of today; they are not counted.
ACTIVATION_FUNCTIONS = frozenset(
    """celu elu gelu hardshrink hardswish hardtanh leaky_relu log_sigmoid logsigmoid mish prelu relu relu6 rrelu selu
    silu softplus softshrink softsign tanh tanhshrink threshold""".split()
)


OUTPUT = "output"  # in the place of a function's name: what a module returns, held because it was named


# What activations are written out with. On maps of features they may be a gate, too: see `say_what_is_hidden`.
PARTS = frozenset("clamp clamp_min erf maximum sigmoid where".split())


@dataclass(frozen=True)
class Activation:
    """One activation call of a forward pass, or what a module returns.

    Attributes:
        name: path of the module that was called ("features.2"); of the enclosing module and the function where the
            function was called directly ("Mixed_5b.branch1x1.relu"). The second call of one name ends in "_1".
        function: the function's name ("relu"), or OUTPUT.
        shape: shape of the output for one image, without the batch dimension.
    """

    name: str
    function: str
    shape: tuple[int, ...]


class watch(TorchFunctionMode):
    """Context in which `see(function name, output)` is called at each activation that depends on the input.

    What it returns takes the output's place in the network; None leaves it as it is.
    """

    def __init__(self, see: Callable[[str, Tensor], Tensor | None]) -> None:
        super().__init__()
        self.see = see
        self.parts: Counter[str] = Counter()  # calls on maps of features that may be activations written out

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = self.run(func, args, kwargs or {})
        name = getattr(func, "__name__", "").strip("_")  # "_threshold", "relu_"
        # An activation of parameters alone (Swin V2's position bias) has no gradient towards the input.
        if name in ACTIVATION_FUNCTIONS and output.requires_grad:
            replacement = self.see(name, output)
            return output if replacement is None else replacement
        if name in PARTS and output.requires_grad and output.ndim == 4 and min(output.shape[1:]) > 1:
            self.parts[name] += 1
        return output

    def run(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the function."""
        return func(*args, **kwargs)


class Wrapper(nn.Module):
    """A module around a network, in which layers have their own names."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        return ask(self.network, inputs)


HALF = torch.bfloat16, torch.float16
FEATURES = frozenset(("last_hidden_state", "pooler_output", "features", "embeddings"))  # keys of networks without head


def ask(network: nn.Module, images: Tensor) -> Tensor:
    """The logits of images (B, C, H, W); a network of half precision gets them in its own type."""
    weight = next(network.parameters(), images)
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
    tensors = [part for part in parts if isinstance(part, Tensor)]
    scores = tensors if len(tensors) == 1 else [part for part in tensors if part.ndim == 2]
    if len(scores) != 1:
        shapes = ", ".join(str(tuple(part.shape)) for part in tensors) or "none"
        raise InputError(
            f"the network must return a tensor of logits, not {type(output).__name__} (tensors in it: {shapes}); wrap "
            f"it in a module that returns the logits alone{see('What a network returns')}."
        )
    return scores[0]


def network_of(model: nn.Module) -> nn.Module:
    """The network inside a `Wrapper` that only calls it, such as a `Classifier`, and inside what `torch.compile` makes
    of it; another module, and a wrapper with a `forward` or hooks of its own, as it is."""
    if isinstance(model, Wrapper) and type(model).forward is Wrapper.forward:
        if not ("forward" in vars(model) or model._forward_hooks or model._forward_pre_hooks):
            return network_of(model.network)
        return model
    return network_of(model._orig_mod) if "_orig_mod" in model._modules else model  # type: ignore[arg-type]


class _Eagerly:
    """Context in which what `torch.compile` has made is called as it was written: compiled code has no activations.

    Torch has one switch for all threads; the last one to leave puts it back.
    """

    def __init__(self) -> None:
        self.lock, self.inside = RLock(), 0
        self.stance: Any = None

    def __enter__(self) -> None:
        with self.lock:
            self.inside += 1
            if self.inside == 1:  # loading the compiler takes a second: where it is not, nothing is compiled
                self.stance = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else None

    def __exit__(self, *error: Any) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0 and self.stance is not None:
                self.stance.__exit__(*error)


_eagerly = _Eagerly()
_locks = WeakIdKeyDictionary()  # of weights: networks that have one in common queue


@contextmanager
def freeze(network: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients for the weights; on leaving all is put back as it was, also by an error.

    Half precision is computed in float32 inside: a small change of an image vanishes between its numbers.

    Other threads that want to freeze some of the same weights wait. The network's own `train` is called both ways, and
    what one that is not PyTorch's does to weights (LoRA adds its product to them) is undone to the bit.
    """
    with ExitStack() as held:
        owners: list[Any] = sorted(network.parameters(), key=id) or [network]
        for weight in owners:  # in one order, so that no two wait for each other
            held.enter_context(_locks.setdefault(weight, RLock()))
        held.enter_context(_eagerly)
        modes = [(module, getattr(module, "training", False)) for module in network.modules()]
        training = any(mode for _, mode in modes)
        theirs = [module for module, _ in modes if training and type(module).train is not nn.Module.train]
        values = [(each, each.clone()) for module in theirs for each in (*module.parameters(), *module.buffers())]
        halves = [(each, each.data) for each in (*network.parameters(), *network.buffers()) if each.dtype in HALF]
        wanting = [parameter for parameter in network.parameters() if parameter.requires_grad]
        try:
            if training:
                with suppress(NotImplementedError):  # exported networks have no modes
                    network.eval()
            for parameter in wanting:
                parameter.requires_grad = False
            for each, value in halves:
                each.data = value.float()
            yield
        finally:
            for each, value in halves:
                each.data = value
            for module, mode in modes:  # outer ones first
                if training and module.training != mode:
                    module.train(mode)
            with torch.no_grad():
                for each, value in values:
                    if not (each.is_meta or torch.equal(each, value)):
                        each.copy_(value)
            for parameter in wanting:
                parameter.requires_grad = True


@contextmanager
def module_paths(network: nn.Module) -> Iterator[list[tuple[str, nn.Module]]]:
    """The stack of modules that this thread is calling, outermost first. By torch's hooks, none of the network's."""
    paths = {module: path for path, module in network.named_modules()}
    stack: list[tuple[str, nn.Module]] = []
    thread = get_ident()

    def enter(module: nn.Module, _: Any) -> None:
        if get_ident() == thread:
            stack.append((paths.get(module, ""), module))

    def leave(*_: Any) -> None:
        if get_ident() == thread:
            stack.pop()

    with register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True):
        yield stack


def call_name(stack: Sequence[tuple[str, nn.Module]], function: str) -> str:
    """Name of an activation call: the path of a pure activation module, else path and function."""
    path, module = stack[-1]
    is_pure = not any(module.children()) and not any(p.ndim > 1 for p in module.parameters())
    return path if is_pure and path else f"{path}.{function}".lstrip(".")


def at_modules(see: Callable[[nn.Module, Any], Any]) -> RemovableHandle:
    """Context in which `see(module, output)` may replace what a module returns. Nothing is left on the network.

    The hook is torch's global one: what another thread computes is not shown.
    """
    thread = get_ident()
    return register_module_forward_hook(
        lambda module, _, output: see(module, output) if get_ident() == thread else None
    )


def outputs_of(network: nn.Module, paths: Collection[str], see: Callable[[str, Tensor], None]) -> RemovableHandle:
    """Context in which `see(path, output)` is called with what modules return. InputError where that is no tensor."""
    wanted = {module: path for path, module in network.named_modules() if path in paths}

    def look(module: nn.Module, output: Any) -> None:
        if (path := wanted.get(module)) is not None:
            if not isinstance(output, Tensor):
                raise InputError(f"{path} returns no tensor but {type(output).__name__}; hold another module.")
            see(path, output)

    return at_modules(look)


def trace(
    network: nn.Module, inputs: Tensor, modules: Collection[str] = ()
) -> tuple[Tensor, list[Activation], list[Tensor]]:
    """One forward pass in which all activations are kept.

    Args:
        network: any module; call it inside `freeze`.
        inputs: (B, C, H, W).
        modules: paths of those whose outputs are kept, too.

    Returns:
        The network's output, the activations' descriptions in forward order, and their values, each with a
        leading batch dimension: (B, ...). Output and values have the type of the inputs, also inside autocast.

    Raises:
        InputError: an activation's leading dimension is not a multiple of the batch size.
    """
    found: list[Activation] = []
    values: list[Tensor] = []
    calls: Counter[str] = Counter()

    def look(function: str, output: Tensor) -> None:
        keep(call_name(stack, function), function, output)

    def keep(name: str, function: str, output: Tensor) -> None:
        value = by_image(output, len(inputs), name)
        found.append(Activation(name + (f"_{calls[name]}" if calls[name] else ""), function, tuple(value.shape[1:])))
        values.append(value.detach().to(inputs.dtype, copy=True))  # an in-place operation may follow
        calls[name] += 1

    at_outputs = outputs_of(network, modules, lambda path, output: keep(path, OUTPUT, output))
    with torch.enable_grad(), at_outputs, module_paths(network) as stack, watch(look) as seen:
        output = ask(network, inputs.detach().requires_grad_())
    if found:
        say_what_is_hidden(network, len(found), seen.parts)
    return output.detach().to(inputs.dtype), found, values


def by_image(value: Tensor, batch: int, name: str = "an activation") -> Tensor:
    """The activation with its leading dimension split into images: (B n, ...) -> (B, n, ...), n left out when 1."""
    if value.ndim == 0 or value.shape[0] % batch:
        raise InputError(
            f"{name} has shape {tuple(value.shape)}, whose first dimension is not a multiple of the batch's {batch}; "
            f"networks that keep the batch first can be explained{see('What a network returns')}."
        )
    return value if value.shape[0] == batch else value.unflatten(0, (batch, -1))


def held_modules(choices: Iterable[Layers | None], names: Collection[str], network: nn.Module) -> tuple[str, ...]:
    """Paths of modules that choices of layers name, where these are not names or indices of activations."""
    words = {layer for layers in choices for layer in list_layers(layers) if isinstance(layer, str)}
    paths = {path for path, _ in network.named_modules() if path and parse_span(path) is None}  # "3" is an index
    return tuple(sorted(words.difference(names) & paths))


def held_layers(layers: Layers | None, activations: Sequence[Activation]) -> list[int]:
    """Indices of what is held: of the activations that `select_layers` finds, and of outputs of modules by their paths.

    None stands for all but the top fifth of the activations, and at least one; InputError where there are none.
    """
    own = [index for index, each in enumerate(activations) if each.function != OUTPUT]
    if layers is None:
        if not own:
            raise InputError(
                f"no activation of the network is seen ({SEEN}), so none can be held: name modules as layers, whose "
                f"outputs are held then; with layers=() nothing is, which is the paper's NoPer{see('Nothing is seen')}."
            )
        layers = range(max(1, len(own) * 4 // 5))
    outputs = {each.name: index for index, each in enumerate(activations) if each.function == OUTPUT}
    wanted = list_layers(layers)
    modules = [each for each in wanted if isinstance(each, str) and each in outputs]
    plain = select_layers([each for each in wanted if each not in modules], [activations[index].name for index in own])
    return sorted({own[index] for index in plain} | {outputs[each] for each in modules})


def say_what_is_hidden(network: nn.Module, seen: int, parts: Mapping[str, int]) -> None:
    """Warn of activations that cannot be seen, beside those that are: in TorchScript, or more of them written out."""
    scripted = [path for path, each in network.named_modules() if isinstance(each, torch.jit.ScriptModule)]
    if scripted:
        what = f"{scripted[0] or 'the network'} is compiled to TorchScript: its activations are not seen"
    elif sum(parts.values()) > seen:
        what = f"beside {seen} activations, calls of {', '.join(parts)} may be others, written out, which are not seen"
    else:
        return
    warnings.warn(f"{what}, and stay as they are{see('Nothing is seen')}.", stacklevel=2)


def select_layers(layers: Layers, names: Sequence[str]) -> list[int]:
    """Indices of the activations that `layers` names, ascending and without repeats.

    Args:
        layers: an index (negative from the end), a name, a `range`, a string "4-9" (both ends included, as the
            paper writes ranges), or any number of these together. An empty collection selects none.
        names: the activations' names in forward order.

    Raises:
        InputError: an index out of range or an unknown name.
    """
    return sorted({index for layer in list_layers(layers) for index in _indices(layer, names)})


def list_layers(layers: Layers | None) -> list[int | str | range]:
    """The layers one by one, to be read more than once; none of None."""
    if layers is None:
        return []
    if getattr(layers, "ndim", None) == 0:  # a number of NumPy or torch
        return [int(layers)]  # type: ignore[arg-type]
    if isinstance(layers, (bool, slice, Mapping)):
        raise InputError(f"layers are indices, names or ranges, not {layers!r}.")
    return [layers] if isinstance(layers, (int, str, range)) or not isinstance(layers, Iterable) else list(layers)


def _indices(layer: int | str | range, names: Sequence[str]) -> Iterator[int]:
    if isinstance(layer, range):
        for index in layer:
            yield from _indices(index, names)
    elif isinstance(layer, bool):
        raise InputError(f"a layer is an index, a name or a range, not {layer!r}.")
    elif isinstance(layer, str) and layer in names:
        yield names.index(layer)
    elif isinstance(layer, str) and layer.startswith("-") and layer[1:].isdecimal():
        yield from _indices(int(layer), names)
    elif isinstance(layer, str):
        span = parse_span(layer)
        if span is None:
            raise InputError(
                f"there is no layer {layer!r}; the network has {_extent(names)}: give their names, indices, an "
                "inclusive range such as 4-9, or for the perturbation the path of a module that is called."
            )
        yield from _indices(range(span[0], span[1] + 1), names)
    else:
        try:
            index = operator.index(layer)
        except TypeError:
            raise InputError(f"a layer is an index, a name or a range, not {layer!r}.") from None
        if not -len(names) <= index < len(names):
            raise InputError(f"layer {index} is out of range: the network has {_extent(names)}.")
        yield index % len(names)


def parse_span(layers: str) -> tuple[int, int] | None:
    """First and last layer of a range as the paper writes it: (4, 9) of "4-9", (4, 4) of "4"; None for other words."""
    first, dash, last = layers.partition("-")
    if not (first.isdecimal() and (last.isdecimal() or not dash)):
        return None
    return int(first), int(last or first)


SEEN = (
    "seen are calls of PyTorch's functions and modules, as ReLU, SiLU and GELU, and not what is written out, as "
    "x * x.sigmoid(), or compiled to TorchScript"
)


def _extent(names: Sequence[str]) -> str:
    if not names:
        return f"no activations that are known ({SEEN})"
    return f"{len(names)} activations, from 0 ({names[0]}) to {len(names) - 1} ({names[-1]})"
