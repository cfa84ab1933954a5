"""The rivals: the same work as a careful user writes it from the papers, one image at a time.

Networks have PyTorch's default memory layout, as users have them.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F


def plain_perturbation(
    network: nn.Module,
    features: Callable[[Tensor], list[Tensor]],
    image: Tensor,
    *,
    max_iter: int,
    layer_weight: float,
    normalize_layers: bool,
) -> Tensor:
    """Eq. 5 with torch's optimizer: features and logits in two passes, gradients for the weights too.

    Args:
        network: from an image to logits (1, K).
        features: from an image to the activations that are held.
        image: (1, C, H, W).
        max_iter: of L-BFGS.
        layer_weight, normalize_layers: as for `perceptual_ball`.

    Returns:
        x' - x, (1, C, H, W).
    """
    with torch.no_grad():
        original = features(image)
        label = network(image).argmax()
    changed = image.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([changed], max_iter=max_iter, history_size=100)

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = network(changed)[0]
        others = torch.cat([logits[:label], logits[label + 1 :]])
        loss = (logits[label] - others.max() + 2) ** 2 + F.mse_loss(changed, image)
        for value, reference in zip(features(changed), original, strict=True):
            scale = reference.square().mean() if normalize_layers else 1
            loss = loss + layer_weight / scale * F.mse_loss(value, reference)
        loss.backward()
        return loss

    optimizer.step(closure)
    network.zero_grad()
    return (changed - image).detach()


def sequential_features(layers: nn.Sequential, indices: Sequence[int]) -> Callable[[Tensor], list[Tensor]]:
    """A function from an image to the outputs of some modules of a sequence, which it runs no further than needed."""

    def features(image: Tensor) -> list[Tensor]:
        found, value = [], image
        for index, layer in enumerate(layers[: max(indices) + 1]):
            value = layer(value)
            if index in indices:
                value = value.clone()  # the next module may work in place
                found.append(value)
        return found

    return features


def hooked_features(network: nn.Module, modules: Sequence[nn.Module]) -> Callable[[Tensor], list[Tensor]]:
    """A function from an image to the outputs of some modules of a network, in the order of their calls, by hooks."""

    def features(image: Tensor) -> list[Tensor]:
        found: list[Tensor] = []
        # Cloned, because the next module may work in place.
        hooks = [module.register_forward_hook(lambda *call: found.append(call[2].clone())) for module in modules]
        network(image)
        for hook in hooks:
            hook.remove()
        return found

    return features


def plain_games(network: nn.Module, image: Tensor, saliency: Tensor, target: int, step: int) -> tuple[list, list]:
    """The probabilities of insertion and deletion, one picture at a time: the one-image loop (`single_run`) of RISE.

    Args:
        network: from an image to logits (1, K).
        image, saliency: (1, C, H, W), and (H, W) on the CPU.
        target: the class.
        step: how many pixels change at once.
    """
    impulse = np.zeros((11, 11))
    impulse[5, 5] = 1
    kernel = torch.from_numpy(ndimage.gaussian_filter(impulse, 5)).to(image)
    kernel = kernel.expand(3, 1, 11, 11).contiguous()
    blurred = F.conv2d(image, kernel, padding=5, groups=3)
    order = torch.from_numpy(np.argsort(-saliency.flatten().numpy(), kind="stable")).to(image.device)
    curves = []
    for start, finish in ((blurred, image), (image, torch.zeros_like(image))):
        picture = start.clone()
        scores = []
        for done in range(0, len(order) + step, step):
            with torch.no_grad():
                scores.append(network(picture).softmax(1)[0, target].item())
            chosen = order[done : done + step]
            picture.view(3, -1)[:, chosen] = finish.reshape(3, -1)[:, chosen]
        curves.append(scores)
    return curves[0], curves[1]


def plain_rise(network: nn.Module, image: Tensor, target: int, masks: Tensor, share: float, batch_size: int) -> Tensor:
    """The map (H, W) of RISE, with all masks (M, H, W) and all masked images in memory, as in its authors' code."""
    masked = image * masks[:, None]
    with torch.no_grad():
        scores = torch.cat([network(some).softmax(1)[:, target] for some in masked.split(batch_size)])
    return (scores @ masks.flatten(1)).view(masks.shape[1:]) / len(masks) / share


def plain_boxes(saliency: np.ndarray) -> np.ndarray:
    """(250, 4): the box of the largest component of each cut of a map; SciPy labels each cut anew.

    NumPy compares an array of single precision with a Python float in single precision.
    """
    mean = float(saliency.mean(dtype=np.float64))
    falling = np.sort(saliency, axis=None)[::-1]
    cuts = [saliency > k / 20 for k in range(1, 21)]
    cuts += [saliency >= falling[max(1, round(k / 20 * saliency.size)) - 1] for k in range(1, 21)]
    cuts += [saliency > k / 20 * mean for k in range(1, 211)]
    return np.array([_largest_box(cut) for cut in cuts])


def _largest_box(cut: np.ndarray) -> ArrayLike:
    labels, count = ndimage.label(cut, structure=np.ones((3, 3)))
    if count == 0:
        return 0, 0, -1, -1
    largest = 1 + np.argmax(np.bincount(labels.ravel())[1:])
    rows, columns = ndimage.find_objects(labels)[largest - 1]
    return columns.start, rows.start, columns.stop - 1, rows.stop - 1


def two_loops(
    steps: Sequence[Tensor], changes: Sequence[Tensor], curvatures: Sequence[Tensor], gradient: Tensor
) -> Tensor:
    """The direction of L-BFGS by the two loops of `torch.optim.LBFGS`, which write one vector in place.

    Args:
        steps, changes: vectors (N,) of each pair, the oldest first.
        curvatures: 1 / (step . change) of each pair, which torch keeps from step to step.
        gradient: (N,).
    """
    alphas = []
    direction = -gradient
    for step, change, curvature in zip(reversed(steps), reversed(changes), reversed(curvatures), strict=True):
        alphas.append(step.dot(direction) * curvature)
        direction.add_(change, alpha=-alphas[-1].item())
    direction = direction * (changes[-1].dot(steps[-1]) / changes[-1].dot(changes[-1]))
    for step, change, curvature, alpha in zip(steps, changes, curvatures, reversed(alphas), strict=True):
        direction.add_(step, alpha=(alpha - change.dot(direction) * curvature).item())
    return direction
