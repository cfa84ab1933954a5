"""Eq. 5 and its gradient with respect to the image as one ONNX graph, for a reader's browser, which has no autograd.

Inputs: `image` (1, C, H, W), normalized; `target` (1, K), 1 at the class explained; `rival` (1,), 1 for the margin of
Eq. 1, 0 for the class's logit alone (Eq. 2); `margin_target` (1,), T; `scale` (L,), the factor of each activation's
squared change, 0 if it is not held; `reference_l`, C_l(x), or any single number if it is not held.

Outputs: `logits` (1, K); `margin` (1, 1); `perceptual` (1,), the sum over the layers; `gradient` (1, C, H, W) of
(margin - T)^2 plus that sum; `cam` (1, 1, H, W), Grad-CAM of the gradient that flows back, at the last activation that
is a map, upsampled; `activation_l`, C_l.

One graph serves every class, choice of layers, lambda' and T. It covers networks of convolutions without dilation, with
zero padding before and batch norms behind them, ReLU and ReLU6, sums, a global average and linear layers.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.nn.modules.utils import _pair
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode

from perceptual_lib.core.activations import function_name
from perceptual_lib.core.calling import network_of
from perceptual_lib.core.errors import InputError
from perceptual_lib.core.freezing import freeze
from perceptual_lib.core.passes import Passes
from perceptual_lib.core.perturbation import Objective
from perceptual_lib.core.settings import suited
from perceptual_lib.networks.classifier import Classifier

VERSIONS = {"opset_imports": [helper.make_opsetid("", 17)], "ir_version": 8}  # old enough for all current runtimes
TOLERANCE = 1e-4  # relative
DRAWS = 8  # random changes at which a graph is checked, each of another image if there are enough images


def equation_5(classifier: Classifier, images: Tensor) -> bytes:
    """The graph of a classifier as an ONNX file, checked against PyTorch on images (B, C, H, W).

    Raises InputError for a network that is not covered.
    """
    with torch.no_grad(), freeze(classifier), Graph(image := images[:1]) as graph:
        file = graph.file(network_of(classifier)(image))
    differences = np.array([differences_of(classifier, file, images[[n % len(images)]], n) for n in range(DRAWS)])
    # If an activation is within rounding of its bound, gradients may differ there: so in about every third image. A
    # wrong rule would make them differ in all images.
    if not (differences[:, :2].max() < TOLERANCE and differences[:, 2].min() < TOLERANCE):
        raise InputError("the graph for pages gives other numbers than the network: it does not cover a part of it.")
    return file


def differences_of(classifier: Classifier, file: bytes, image: Tensor, seed: int) -> tuple[float, float, float]:
    """Relative differences between graph and PyTorch in logits, loss and gradient of Eq. 5, near an image (1, C, H, W).

    They are taken at a normal random change of standard deviation 0.005, with the settings that suit the network.
    """
    import onnxruntime

    settings = suited(classifier.network)
    change = 0.005 * torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    with freeze(classifier):
        objective = Objective(Passes(classifier), image, None, [settings.layers], settings)
        logits = network_of(classifier)(image + change).detach().numpy()
        loss, gradient = (each.numpy() for each in objective.evaluate(change.flatten(1)))
    session = onnxruntime.InferenceSession(file)
    shapes = {each.name: each.shape for each in session.get_inputs()}
    given = {name: np.zeros([1] * len(shape), np.float32) for name, shape in shapes.items()}
    given["image"], given["rival"] = (image + change).numpy(), np.ones(1, np.float32)
    given["target"] = np.eye(logits.shape[1], dtype=np.float32)[objective.targets.numpy()]
    given["margin_target"] = np.array([settings.margin_target], np.float32)
    given["scale"] = np.zeros(shapes["scale"], np.float32)
    given["scale"][objective.layers] = objective.scales[:, 0]
    for layer, reference in zip(objective.layers, objective.references, strict=True):
        given[f"reference_{layer}"] = reference.numpy()
    names = "logits", "margin", "perceptual", "gradient"
    found, margin, perceptual, slope = session.run(names, given)
    pixels = settings.pixel_weight * change.square().mean().item()
    slope = slope + 2 * settings.pixel_weight / change.numel() * change.numpy()
    total = (margin[0] - settings.margin_target) ** 2 + perceptual + pixels
    pairs = (found, logits), (total, loss), (slope.ravel(), gradient.ravel())
    return tuple(float(np.linalg.norm(ours - truth) / np.linalg.norm(truth)) for ours, truth in pairs)


class Graph(TorchFunctionMode):
    """Context in which a network is called once: each torch call adds its nodes, and to a tape how gradients flow back.

    The rule `_NAME` handles calls of the function NAME. It has its parameters, but gets names of values in the graph in
    place of tensors that depend on the image. It returns the output's name, or None if it does not cover the call.
    """

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, TensorProto] = {}
        self.values: dict[int, tuple[str, Tensor]] = {}  # by the ids of the tensors; keeping these keeps the ids valid
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.tape: list[Callable[[], None]] = []
        self.gradients: dict[str, str] = {}
        self.padded: dict[str, tuple[str, Sequence[int]]] = {}
        self.inputs: dict[str, tuple] = {"image": tuple(image.shape)}
        self.outputs: dict[str, tuple] = {}
        self.squares: list[str] = []  # squared changes of the activations, last to first
        self.activations = 0
        self.convolved: tuple[Any, ...] = ("", None, None)  # the last convolution; weight and bias, tensors and names
        self._know(image, "image")

    def _know(self, value: Tensor, name: str) -> None:
        self.values[id(value)] = name, value
        self.shapes[name] = tuple(value.shape)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        given = [self.values.get(id(each), (each,))[0] for each in args]
        if isinstance(output, Tensor) and any(name is not each for name, each in zip(given, args, strict=True)):
            rule, name = getattr(self, f"_{function_name(func)}", None), None
            padded = any(isinstance(each, str) and each in self.padded for each in given)
            if rule and (rule == self._conv2d or not padded):  # only a convolution can do the padding before it
                with suppress(LookupError, TypeError, ValueError):  # arguments that the rule does not cover
                    name = rule(*given, **kwargs)
            if name is None:
                raise InputError(f"the graph for pages does not cover this call of {function_name(func)}.")
            self._know(output, name)
        return output

    def add(self, operator: str, *inputs: Any, name: str = "", **attributes: Any) -> str:
        """Add a node with one output, and return its name. Inputs that are not names become constants."""
        name = name or f"v{len(self.nodes)}"
        names = [each if isinstance(each, str) else self.constant(each) for each in inputs]
        self.nodes.append(helper.make_node(operator, names, [name], **attributes))
        return name

    def constant(self, values: Any, name: str = "") -> str:
        """Add a weight or another constant, and return its name: floats in single precision, integers with 64 bits."""
        array = np.array(values.detach().cpu() if isinstance(values, Tensor) else values)
        if array.dtype.kind == "f":
            array = array.astype(np.float32)
        name = name or f"w{len(self.weights)}"
        self.weights[name] = numpy_helper.from_array(array, name)
        return name

    def flow(self, value: str, gradient: str) -> None:
        """Add a gradient to those that have arrived at a value before."""
        before = self.gradients.get(value)
        self.gradients[value] = self.add("Add", before, gradient) if before else gradient

    def file(self, logits: Tensor) -> bytes:
        """The whole graph as a file: the network's forward pass, then the margin, the tape and the perceptual sum."""
        found, classes, layers = self.values.get(id(logits), ("",))[0], logits.shape[1], range(self.activations)
        if not (found and layers):
            raise InputError("the graph for pages follows no activation from the image to the logits.")
        self.inputs |= {"target": (1, classes), "rival": (1,), "margin_target": (1,), "scale": (len(layers),)}
        self.add("Identity", found, name="logits")
        others = self.add("Sub", found, self.add("Mul", "target", 1e9))
        best = self.add("OneHot", self.add("ArgMax", others, axis=1, keepdims=0), classes, [0.0, 1.0])
        pick = self.add("Sub", "target", self.add("Mul", best, "rival"))
        margin = self.add("ReduceSum", self.add("Mul", pick, found), [1], name="margin")
        excess = self.add("Sub", margin, "margin_target")
        self.flow(found, self.add("Mul", pick, self.add("Add", excess, excess)))
        twice = self.add("Add", "scale", "scale")
        self.nodes.append(helper.make_node("Split", [twice], [f"twice_{layer}" for layer in layers]))
        for back in reversed(self.tape):
            back()
        squares = self.add("Concat", *reversed(self.squares), axis=0)
        self.add("ReduceSum", self.add("Mul", "scale", squares), name="perceptual")
        self.add("Identity", self.gradients["image"], name="gradient")
        self.outputs |= {"logits": (1, classes), "margin": (1, 1), "perceptual": (1,), "gradient": self.inputs["image"]}
        ends = (
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values.items()]
            for values in (self.inputs, self.outputs)
        )
        graph = helper.make_graph(self.nodes, "equation_5", *ends, [*self.weights.values()])
        model = helper.make_model(graph, **VERSIONS)
        onnx.checker.check_model(model)
        return model.SerializeToString()

    def _pad(self, input: str, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> str | None:
        (left, right, top, bottom), name = pad, f"padded_{len(self.padded)}"
        self.padded[name] = input, [top, left, bottom, right]
        return name if mode == "constant" and not value else None

    def _conv2d(
        self,
        input: str,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> str | None:
        input, before = self.padded.get(input, (input, [0, 0, 0, 0]))
        stride, padding, dilation = _pair(stride), _pair(padding), _pair(dilation)
        if len(padding) > 2 or dilation != (1, 1):  # longer than 2: a word, such as "same"
            return None
        pads = [here + there for here, there in zip((*padding, *padding), before, strict=True)]
        own, shift = self.constant(weight), self.constant(torch.zeros(len(weight)) if bias is None else bias)
        more = {"strides": list(stride), "pads": pads, "group": groups}
        output = self.add("Conv", input, own, shift, **more)
        self.convolved = output, weight, bias, own, shift
        kernel = weight.shape[2:]

        def back() -> None:
            """Use a convolution where it can replace a transposed one, because it is faster."""
            gradient, size = self.gradients[output], self.shapes[input]
            if max(stride) > 1 or groups not in (1, size[1]) or size[1] != len(weight) != groups > 1:
                reach = [
                    (count - 1) * step + width
                    for count, step, width in zip(self.shapes[output][2:], stride, kernel, strict=True)
                ]
                left = [size[2 + side] + pads[side] + pads[2 + side] - reach[side] for side in (0, 1)]
                self.flow(input, self.add("ConvTranspose", gradient, own, **more, output_padding=left))
                return
            turned = self.add("Transpose", own, perm=[1, 0, 2, 3]) if groups == 1 else own
            if max(kernel) > 1:
                turned = self.add("Slice", turned, [-1, -1], [-99, -99], [2, 3], [-1, -1])
            pads_back = [kernel[side % 2] - 1 - pad for side, pad in enumerate(pads)]
            self.flow(input, self.add("Conv", gradient, turned, **more | {"pads": pads_back}))

        self.tape.append(back)
        return output

    def _batch_norm(
        self, input: str, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, training: bool, eps: float, **_: Any
    ) -> str | None:
        """Fuse the batch norm into the convolution just before it."""
        output, kernel, shift, *names = self.convolved
        if output != input or training:
            return None
        fused = fuse_conv_bn_weights(kernel, shift, mean, var, eps, weight, bias)
        for name, values in zip(names, fused, strict=True):
            self.constant(values, name)
        return output

    def _hardtanh(self, input: str, min_val: float, max_val: float | None, inplace: bool = False) -> str:
        """An activation that may be held."""
        layer, shape = self.activations, self.shapes[input]
        self.activations += 1
        output = self.add("Clip", input, min_val, *([] if max_val is None else [max_val]), name=f"activation_{layer}")
        self.outputs[output] = shape
        self.inputs[f"reference_{layer}"] = tuple(f"{side}{layer}" for side in range(len(shape)))

        def back() -> None:
            gradient = self.gradients[output]
            if len(shape) == 4 and "cam" not in self.outputs:
                weighted = self.add("Mul", output, self.add("ReduceMean", gradient, axes=[2, 3]))
                cam, size = self.add("Relu", self.add("ReduceSum", weighted, [1])), self.inputs["image"][2:]
                self.outputs[self.add("Resize", cam, "", "", [1, 1, *size], name="cam", mode="linear")] = 1, 1, *size
            moved = self.add("Sub", output, f"reference_{layer}")
            self.squares.append(self.add("Reshape", self.add("ReduceSumSquare", moved), [1]))
            gradient = self.add("Add", gradient, self.add("Mul", moved, f"twice_{layer}"))
            passing = self.add("Greater", output, float(min_val))
            if max_val is not None:
                passing = self.add("And", passing, self.add("Less", output, float(max_val)))
            self.flow(input, self.add("Where", passing, gradient, 0.0))

        self.tape.append(back)
        return output

    def _relu6(self, input: str, inplace: bool = False) -> str:
        return self._hardtanh(input, 0.0, 6.0)

    def _relu(self, input: str, inplace: bool = False) -> str:
        return self._hardtanh(input, 0.0, None)

    def _add(self, input: str, other: str) -> str:
        output = self.add("Add", input, other)
        self.tape.extend(lambda each=each: self.flow(each, self.gradients[output]) for each in (input, other))
        return output

    _iadd = _add

    def _adaptive_avg_pool2d(self, input: str, output_size: Any) -> str | None:
        shape, output = self.shapes[input], self.add("GlobalAveragePool", input)

        def back() -> None:
            share = self.add("Mul", self.gradients[output], 1 / (shape[2] * shape[3]))
            self.flow(input, self.add("Expand", share, shape))

        self.tape.append(back)
        return output if output_size in (1, (1, 1)) else None

    def _flatten(self, input: str, start_dim: int = 0, end_dim: int = -1) -> str | None:
        shape, output = self.shapes[input], self.add("Flatten", input)
        self.tape.append(lambda: self.flow(input, self.add("Reshape", self.gradients[output], shape)))
        return output if (start_dim, end_dim) == (1, -1) else None

    def _linear(self, input: str, weight: Tensor, bias: Tensor | None = None) -> str:
        own, shift = self.constant(weight), [] if bias is None else [bias]
        output = self.add("Gemm", input, own, *shift, transB=1)
        self.tape.append(lambda: self.flow(input, self.add("Gemm", self.gradients[output], own)))
        return output

    def _dropout(self, input: str, p: float = 0.5, training: bool = True, inplace: bool = False) -> str | None:
        return None if training else input
