"""The activations of a network, in the order in which a forward pass computes them.

Calls are watched, not modules: torchvision's ResNet calls one in-place ReLU module several times, DenseNet and
Inception call the function, and each of these calls is an activation. A `TorchFunctionMode` sees modules,
functions and methods alike, and leaves nothing on the network.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import get_ident
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from perceptual_lib.core.calling import ask
from perceptual_lib.core.errors import InputError, see, warn

# The pointwise functions whose outputs are features; sigmoid and softmax are left out, as gates and attention.
ACTIVATION_FUNCTIONS = frozenset(
    """celu elu gelu hardshrink hardswish hardtanh leaky_relu log_sigmoid logsigmoid mish prelu relu relu6 rrelu selu
    silu softplus softshrink softsign tanh tanhshrink threshold""".split()
)
OUTPUT = "output"  # in place of a function's name, for the output of a module that is held by its path
# Functions of single values. Those of `CURVED` are no straight lines, and those of `JOINED` make an activation of a
# value and of what such a function made of it.
CURVED = ACTIVATION_FUNCTIONS.union(
    """abs erf erfc exp expm1 ge greater greater_equal gt hardsigmoid le less less_equal lt sigmoid special_erf
    special_erfc special_expit special_ndtr""".split()
)
JOINED = frozenset(
    """div divide idiv imul itruediv masked_fill max maximum mul multiply rdiv rmul true_divide truediv where""".split()
)
POINTWISE = CURVED.union(
    JOINED,
    """add bfloat16 clamp clamp_min clip clone contiguous detach double float half iadd isub log log1p neg pow radd
    reciprocal rsqrt rsub rtruediv sqrt square sub to type type_as""".split(),
)


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

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = self.run(func, args, kwargs or {})
        name = function_name(func)
        # An activation of parameters alone (Swin V2's position bias) has no gradient towards the input.
        if name in ACTIVATION_FUNCTIONS and output.requires_grad:
            replacement = self.visit(name, output)
            return output if replacement is None else replacement
        return output

    def run(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(*args, **kwargs)


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
    with torch.enable_grad(), outputs as stack, calls_seen, Unseen() as unseen:
        output = ask(network, inputs.detach().requires_grad_())
    if found:
        say_what_is_unseen(network, unseen.found)
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


PICTURE = 0  # the number of the network's input


class Origin(NamedTuple):
    """What a value was computed from, point by point."""

    sources: frozenset[int]  # numbers of values that were computed otherwise, as by a convolution
    curved: frozenset[str] = frozenset()  # names of functions on the way that are no straight lines


class Unseen(TorchFunctionMode):
    """Context for one call of a network, in which activations that are written out are counted, by their functions."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.origins = WeakIdKeyDictionary()
        self.numbers = itertools.count(PICTURE + 1)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output, name = func(*args, **(kwargs or {})), function_name(func)
        if not isinstance(output, Tensor) or name in ("zeros_like", "new_zeros"):
            return output
        given = tree_leaves([args, kwargs])
        # Inside a function of autograd, which some have for SiLU, outputs require no gradient.
        open_ = [each for each in given if isinstance(each, Tensor) and (each.requires_grad or each in self.origins)]
        if not open_:
            return output
        origins = [self.origins.get(each) or self.new(each) for each in open_]
        self.origins[output] = self.new(output)
        if name in POINTWISE and (name != "max" or len(args) > 1):  # the largest of all is no point
            sources, curved = (frozenset().union(*every) for every in zip(*origins, strict=True))
            numbers = [each for each in given if isinstance(each, (int, float))]
            is_cut = name in ("max", "maximum") or (name in ("clamp", "clamp_min", "clip") and 0 in numbers)
            is_joined = name in JOINED and len({*map(id, open_)}) > 1 and len(sources) == 1 and (curved or is_cut)
            # Features are maps, or tokens of several places; what is cut may also be the picture, or boxes.
            is_wide = output.ndim in (3, 4) and min(output.shape[1:]) > 1 and PICTURE not in sources
            if is_wide and (is_joined or (is_cut and len(open_) == 1 and output.shape[-1] > 4)):
                self.found[", ".join(sorted(curved)) or name] += 1
            else:
                self.origins[output] = Origin(sources, curved | {name} & CURVED)
        return output

    def new(self, value: Tensor) -> Origin:
        is_picture = value.requires_grad and value.grad_fn is None
        return Origin(frozenset([PICTURE if is_picture else next(self.numbers)]))


def say_what_is_unseen(network: nn.Module, written_out: Counter[str]) -> None:
    """Warn of activations that are not seen, beside others that are."""
    if scripted := [path for path, each in network.named_modules() if isinstance(each, torch.jit.ScriptModule)]:
        warn(
            f"{scripted[0] or 'the network'} is compiled to TorchScript: its activations are not seen, and stay as "
            f"they are{see('Nothing is seen')}."
        )
    elif count := written_out.total():
        warn(
            f"{count} activation{'s are' if count > 1 else ' is'} written out (with {'; '.join(written_out)}), and not "
            f"seen, or a part taken for the whole; call them, as F.silu(x){see('Nothing is seen')}."
        )


SEEN = (
    "seen are calls of PyTorch's functions and modules, as ReLU, SiLU and GELU, and not what is written out, as "
    "x * x.sigmoid(), or compiled to TorchScript"
)
