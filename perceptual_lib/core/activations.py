"""The activations of a network, in the order in which a forward pass computes them.

Calls are watched, not modules: torchvision's ResNet calls one in-place ReLU module several times, DenseNet and
Inception call the function, and each of these calls is an activation. A `TorchFunctionMode` sees modules,
functions and methods alike, and leaves nothing on the network.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from perceptual_lib.core.calling import ask
from perceptual_lib.core.errors import InputError, see, warn

# The pointwise functions whose outputs are features; sigmoid and softmax are left out, as gates and attention.
ACTIVATION_FUNCTIONS = frozenset(
    """celu elu gelu hardshrink hardswish hardtanh leaky_relu log_sigmoid logsigmoid mish prelu relu relu6 rrelu selu
    silu softplus softshrink softsign tanh tanhshrink threshold""".split()
)
OUTPUT = "output"  # in place of a function's name, for the output of a module that is held by its path
# Functions with which activations are written out. On feature maps they may also be gates: see `say_what_is_hidden`.
PARTS = frozenset("clamp clamp_min erf maximum pow sigmoid where".split())
PARTS_OF_TOKENS = frozenset("erf pow sigmoid".split())  # tokens are masked and clamped for other reasons, too


@dataclass(frozen=True)
class Activation:
    """One activation call of a forward pass, or the output of a module.

    Its name is the module's path ("features.2"), or that of the enclosing module with the function if this was called
    directly ("Mixed_5b.branch1x1.relu"). The name of a second call ends in "_1".
    """

    name: str
    function: str  #: "relu", or OUTPUT
    shape: tuple[int, ...]  #: of the output for one image


def function_name(func: Any) -> str:
    """A function's plain name: "relu" also for "relu_" in place, and for "relu.default" in exported networks."""
    return getattr(func, "__name__", "").partition(".")[0].strip("_")


class watch(TorchFunctionMode):
    """Context in which `visit(function name, output)` is called at each activation that depends on the input.

    What `visit` returns replaces the output in the network; None leaves the output as it is.
    """

    def __init__(self, visit: Callable[[str, Tensor], Tensor | None]) -> None:
        super().__init__()
        self.visit = visit
        self.parts: Counter[str] = Counter()  # calls that may be parts of activations written out

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = self.run(func, args, kwargs or {})
        name = function_name(func)
        # An activation of parameters alone (Swin V2's position bias) has no gradient towards the input.
        if name in ACTIVATION_FUNCTIONS and output.requires_grad:
            replacement = self.visit(name, output)
            return output if replacement is None else replacement
        if name in PARTS and _is_wide(output) and (output.ndim == 4 or name in PARTS_OF_TOKENS):
            # Inside a function of autograd, which some have for SiLU, outputs require no gradient, but inputs do.
            grows = any(isinstance(each, Tensor) and each.requires_grad for each in (output, *args))
            numbers = [each for each in (*args, *(kwargs or {}).values()) if isinstance(each, (int, float))]
            if grows and (name != "pow" or numbers == [3]):
                self.parts[name] += 1
        return output

    def run(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(*args, **kwargs)


def _is_wide(output: object) -> bool:
    """Whether an output may be features: maps or tokens of several places."""
    return isinstance(output, Tensor) and output.ndim in (3, 4) and min(output.shape[1:]) > 1


@contextmanager
def at_modules(
    network: nn.Module, visit: Callable[[str, Any], Any], wanted: Collection[str] | None = None
) -> Iterator[list[tuple[str, nn.Module]]]:
    """Context in which `visit(path, output)` may replace the outputs of the network's modules in this thread: of all,
    or of those with the wanted paths.

    Yields the stack of modules that this thread is calling, with their paths, outermost first.
    """
    paths, thread = {module: path for path, module in network.named_modules()}, get_ident()
    stack: list[tuple[str, nn.Module]] = [("", network)]  # there even if its own `__call__` bypasses hooks

    def enter(module: nn.Module, _: Any) -> None:
        if get_ident() == thread:
            stack.append((paths.get(module, ""), module))

    def look(module: nn.Module, _: Any, output: Any) -> Any:  # not called after an error
        is_asked = get_ident() == thread and module in paths and (wanted is None or paths[module] in wanted)
        return visit(paths[module], output) if is_asked else None

    def leave(*_: Any) -> None:
        if get_ident() == thread:
            stack.pop()

    left = register_module_forward_hook(leave, always_call=True)
    with register_module_forward_pre_hook(enter), register_module_forward_hook(look), left:
        yield stack


def call_name(stack: Sequence[tuple[str, nn.Module]], function: str) -> str:
    """Name of an activation call: the path of a pure activation module, else path and function."""
    path, module = stack[-1]
    is_pure = not any(module.children()) and not any(p.ndim > 1 for p in module.parameters())
    return path if is_pure and path else f"{path}.{function}".lstrip(".")


def trace(
    network: nn.Module, inputs: Tensor, modules: Collection[str] = ()
) -> tuple[Tensor, list[Activation], list[Tensor]]:
    """One forward pass in which all activations are kept.

    Args:
        network: any module; call it inside `freeze`.
        inputs: (B, C, H, W).
        modules: paths of modules whose outputs are kept, too; InputError for an output that is no tensor.

    Returns:
        The network's output, the activations in forward order, and their values (B, ...). Output and values have the
        type of the inputs, also inside autocast. Raises InputError as `by_image`.
    """
    found: list[Activation] = []
    values: list[Tensor] = []
    calls: Counter[str] = Counter()
    paths = {path for path, _ in network.named_modules()}

    def keep(name: str, function: str, output: Any) -> None:
        value, own = by_image(output, len(inputs), name), name
        while calls[name] and (own := f"{name}_{calls[name]}") in paths:  # another module's name
            calls[name] += 1
        found.append(Activation(own, function, tuple(value.shape[1:])))
        values.append(value.detach().to(inputs.dtype, copy=True))  # an in-place operation may follow
        calls[name] += 1

    outputs = at_modules(network, lambda path, output: keep(path, OUTPUT, output), modules)
    calls_seen = watch(lambda function, output: keep(call_name(stack, function), function, output))
    with torch.enable_grad(), outputs as stack, calls_seen:
        output = ask(network, inputs.detach().requires_grad_())
    if found:
        say_what_is_hidden(network, Counter(each.function for each in found), calls_seen.parts)
    return output.detach().to(inputs.dtype), found, values


def by_image(value: Any, batch: int, name: str = "an activation") -> Tensor:
    """The activation with its leading dimension split into images: (B n, ...) -> (B, n, ...), n left out when 1."""
    if not isinstance(value, Tensor):
        raise InputError(f"{name} returns no tensor but {type(value).__name__}; hold another module.")
    if value.ndim == 0 or value.shape[0] % batch:
        raise InputError(
            f"{name} has shape {tuple(value.shape)}, whose first dimension is not a multiple of the batch's {batch}; "
            f"networks that keep the batch first can be explained{see('What a network returns')}."
        )
    return value if value.shape[0] == batch else value.unflatten(0, (batch, -1))


def say_what_is_hidden(network: nn.Module, seen: Counter[str], parts: Counter[str]) -> None:
    """Warn of activations that cannot be seen, beside those that are: in TorchScript, or if more are written out."""
    what, cubes = "", parts.pop("pow", 0)
    if scripted := [path for path, each in network.named_modules() if isinstance(each, torch.jit.ScriptModule)]:
        what = f"{scripted[0] or 'the network'} is compiled to TorchScript: its activations are not seen"
    elif 0 < seen["tanh"] <= cubes:
        what = "tanh beside cubes is GELU written out (use F.gelu(x, approximate='tanh')): its tanh alone is seen"
    elif sum(parts.values()) > seen.total():
        words = ", ".join(parts)
        what = f"beside {seen.total()} activations, calls of {words} may be others, written out, which are not seen"
    if what:
        warn(f"{what}, and stay as they are{see('Nothing is seen')}.")


SEEN = (
    "seen are calls of PyTorch's functions and modules, as ReLU, SiLU and GELU, and not what is written out, as "
    "x * x.sigmoid(), or compiled to TorchScript"
)
