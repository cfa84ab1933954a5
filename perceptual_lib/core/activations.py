"""The activations of a network, in the order in which a forward pass computes them.

Calls are watched, not modules: torchvision's ResNet calls one in-place ReLU module several times, DenseNet and
Inception call the function, and each of these calls is an activation. A `TorchFunctionMode` sees modules,
functions and methods alike, and leaves nothing on the network.
"""

import operator
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from perceptual_lib.core.errors import InputError
from perceptual_lib.core.settings import Layers

# The pointwise functions whose outputs are features. Sigmoid, its hard form and softmax are gates and
# attention in the networks of today; they are not counted.
ACTIVATION_FUNCTIONS = frozenset(
    "celu elu gelu hardswish hardtanh leaky_relu mish prelu relu relu6 rrelu selu silu softplus tanh threshold".split()
)


@dataclass(frozen=True)
class Activation:
    """One activation call of a forward pass.

    Attributes:
        name: path of the module that was called ("features.2"); of the enclosing module and the function where the
            function was called directly ("Mixed_5b.branch1x1.relu"). The second call of one name ends in "_1".
        function: the function's name ("relu").
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

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = self.run(func, args, kwargs or {})
        name = getattr(func, "__name__", "").rstrip("_")
        # An activation of parameters alone (Swin V2's position bias) has no gradient towards the input.
        if name in ACTIVATION_FUNCTIONS and output.requires_grad:
            replacement = self.see(name, output)
            return output if replacement is None else replacement
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
        output: Tensor = self.network(inputs)
        return output


def network_of(model: nn.Module) -> nn.Module:
    """The network inside a `Wrapper` that only calls it, such as a `Classifier`; another module, and a subclass with a
    `forward` of its own, as it is."""
    return model.network if isinstance(model, Wrapper) and type(model).forward is Wrapper.forward else model


@contextmanager
def freeze(network: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients for the weights, both put back as they were on leaving, also by an error."""
    training = [module for module in network.modules() if module.training]
    wanting = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        if training:
            network.eval()
        for parameter in wanting:
            parameter.requires_grad = False
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in wanting:
            parameter.requires_grad = True


@contextmanager
def module_paths(network: nn.Module) -> Iterator[list[tuple[str, nn.Module]]]:
    """The stack of modules being called, outermost first. Uses torch's global hooks, none on the network."""
    paths = {module: path for path, module in network.named_modules()}
    stack: list[tuple[str, nn.Module]] = []
    enter = register_module_forward_pre_hook(lambda module, _: stack.append((paths.get(module, ""), module)))
    leave = register_module_forward_hook(lambda module, *_: stack.pop() and None, always_call=True)
    try:
        yield stack
    finally:
        enter.remove()
        leave.remove()


def call_name(stack: Sequence[tuple[str, nn.Module]], function: str) -> str:
    """Name of an activation call: the path of a pure activation module, else path and function."""
    path, module = stack[-1]
    is_pure = not any(module.children()) and not any(p.ndim > 1 for p in module.parameters())
    return path if is_pure and path else f"{path}.{function}".lstrip(".")


def trace(network: nn.Module, inputs: Tensor) -> tuple[Tensor, list[Activation], list[Tensor]]:
    """One forward pass in which all activations are kept.

    Args:
        network: any module; call it inside `freeze`.
        inputs: (B, C, H, W).

    Returns:
        The network's output, the activations' descriptions in forward order, and their values, each with a
        leading batch dimension: (B, ...). Output and values have the type of the inputs, also inside autocast.

    Raises:
        InputError: an activation's leading dimension is not a multiple of the batch size.
    """
    found: list[Activation] = []
    values: list[Tensor] = []
    calls: Counter[str] = Counter()

    def see(function: str, output: Tensor) -> None:
        name = call_name(stack, function)
        value = by_image(output, len(inputs), name)
        found.append(Activation(name + (f"_{calls[name]}" if calls[name] else ""), function, tuple(value.shape[1:])))
        values.append(value.detach().to(inputs.dtype, copy=True))  # an in-place operation may follow
        calls[name] += 1

    with torch.enable_grad(), module_paths(network) as stack, watch(see):
        output = network(inputs.detach().requires_grad_())
    return output.detach().to(inputs.dtype), found, values


def by_image(value: Tensor, batch: int, name: str = "an activation") -> Tensor:
    """The activation with its leading dimension split into images: (B n, ...) -> (B, n, ...), n left out when 1."""
    if value.ndim == 0 or value.shape[0] % batch:
        raise InputError(
            f"{name} has shape {tuple(value.shape)}, whose first dimension is not a multiple of the batch's {batch}; "
            "networks that keep the batch first can be explained."
        )
    return value if value.shape[0] == batch else value.unflatten(0, (batch, -1))


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


def list_layers(layers: Layers) -> list[int | str | range]:
    """The layers one by one, to be read more than once."""
    return [layers] if isinstance(layers, (int, str, range)) or not isinstance(layers, Iterable) else list(layers)


def _indices(layer: int | str | range, names: Sequence[str]) -> Iterator[int]:
    if isinstance(layer, range):
        for index in layer:
            yield from _indices(index, names)
    elif isinstance(layer, str) and layer in names:
        yield names.index(layer)
    elif isinstance(layer, str):
        span = parse_span(layer)
        if span is None:
            raise InputError(
                f"there is no layer {layer!r}; the network has {_extent(names)}: give their names, indices, or an "
                "inclusive range such as 4-9."
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


def _extent(names: Sequence[str]) -> str:
    if not names:
        return "no activations that are known"
    return f"{len(names)} activations, from 0 ({names[0]}) to {len(names) - 1} ({names[-1]})"
