"""Methods that read a layer, on transformers: against the same by hand, where tokens lie, and what is said."""

from types import SimpleNamespace

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from perceptual_lib import InputError, explain
from perceptual_lib.methods.gradients import guided_gradient
from perceptual_lib.methods.layers import layer_gradient

CLASS = 3
TINY = {"img_size": (64, 96), "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 10}
SWIN = {"embed_dim": 12, "depths": (1, 1, 2), "num_heads": (2, 2, 2), "num_classes": 10}
DIMS = {"dims": (8, 16, 16, 32), "depths": (1, 1, 1, 1), "num_classes": 10}
tv = torchvision.models


class Block(nn.Module):
    """As of Hugging Face: the hidden states come in a tuple, and keys and values are as wide as they are."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, hidden: Tensor) -> tuple[Tensor]:
        read = self.before(hidden)
        hidden = hidden + F.scaled_dot_product_attention(self.query(read), self.key(read), self.value(read))
        return (hidden + self.narrow(F.gelu(self.wide(self.after(hidden)))),)


class Hub(nn.Module):
    """ViT in the layout of Hugging Face, whose head reads a class token. With `merging`, Swin: it pools, and merges 2x2
    patches on the way, of which no module returns a map. It is as wide as these are many, and so is what it pools."""

    def __init__(self, merging: bool = False) -> None:
        super().__init__()
        self.projection, self.classifier = nn.Conv2d(3, 6, 16, 16), nn.Linear(6, 10)
        self.first, self.second, self.norm = Block(6), Block(6), nn.LayerNorm(6)
        self.reduction, self.pooler = (nn.Linear(24, 6), nn.AdaptiveAvgPool1d(1)) if merging else (None, None)
        self.token = None if merging else nn.Parameter(torch.randn(1, 1, 6))

    def forward(self, pixels: Tensor) -> SimpleNamespace:
        maps = self.projection(pixels)
        hidden = maps.flatten(2).transpose(1, 2)
        if self.token is not None:
            hidden = torch.cat([self.token.expand(len(pixels), -1, -1), hidden], dim=1)
        (hidden,) = self.first(hidden)
        if self.reduction:
            rows, columns = maps.shape[2:]
            hidden = F.pad(hidden.unflatten(1, (rows, columns)), (0, 0, 0, columns % 2, 0, rows % 2))
            fours = [hidden[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]
            hidden = self.reduction(torch.cat(fours, dim=-1).flatten(1, 2))
        (hidden,) = self.second(hidden)
        hidden = self.norm(hidden)
        pooled = self.pooler(hidden.transpose(1, 2)).flatten(1) if self.pooler else hidden[:, 0]
        return SimpleNamespace(logits=self.classifier(pooled))


class Wiping(nn.Module):
    """Pools, and writes over what it has read."""

    def forward(self, features: Tensor) -> Tensor:
        pooled = features.mean(2, keepdim=True)
        features.zero_()
        return pooled


class Unfolded(nn.Module):
    """Its patches are cut by `unfold`, so that no module returns a map; tokens come before the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block, self.head = nn.Linear(3 * 64, 8), nn.TransformerEncoderLayer(8, 2, 16), nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.block(self.embed(F.unfold(images, 8, stride=8).permute(2, 0, 1))).mean(0))


def swin() -> nn.Module:
    return tv.SwinTransformer([4, 4], 12, [1, 1, 2], [2, 2, 2], [4, 4], num_classes=10)


def timm_swin(*size: int) -> nn.Module:
    return timm.create_model("swin_tiny_patch4_window7_224", img_size=size, window_size=4, **SWIN)


def convnext() -> nn.Module:
    blocks = [tv.convnext.CNBlockConfig(8, 16, 1), tv.convnext.CNBlockConfig(16, None, 1)]
    return tv.ConvNeXt(blocks, num_classes=10)


def vit(**more) -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", **TINY | more)


# The network, the image's size, the layer that it is read at, tokens before those of the grid (None of maps, whose
# channels are first or last), and the grid.
FAMILIES = {
    "torchvision's ViT": (
        lambda: tv.VisionTransformer(32, 8, 3, 2, 8, 16, num_classes=10),
        ((32, 32), "encoder.layers.encoder_layer_2.ln_1", 1, (4, 4)),
    ),
    "ViT": (vit, ((64, 96), "blocks.2.norm1", 1, (4, 6))),
    "ViT, pooled": (lambda: vit(global_pool="avg"), ((64, 96), "blocks.2", 1, (4, 6))),
    "ViT, attention pooling": (lambda: vit(global_pool="map", class_token=False), ((64, 96), "norm", 0, (4, 6))),
    "ViT, four registers": (lambda: vit(reg_tokens=4), ((64, 96), "blocks.2.norm1", 5, (4, 6))),
    "ViT, no activation seen": (
        lambda: timm.create_model("vit_base_patch32_clip_quickgelu_224", **TINY),
        ((64, 96), "blocks.2.norm1", 1, (2, 3)),
    ),
    "ViT behind a ResNet": (
        lambda: timm.create_model("vit_tiny_r_s16_p8_224", **TINY | {"img_size": (64, 64)}),
        ((64, 64), "blocks.2.norm1", 1, (2, 2)),
    ),
    "DeiT": (lambda: timm.create_model("deit_tiny_patch16_224", **TINY), ((64, 96), "blocks.2.norm1", 1, (4, 6))),
    "DeiT, distilled": (
        lambda: timm.create_model("deit_tiny_distilled_patch16_224", **TINY),
        ((64, 96), "blocks.2.norm1", 2, (4, 6)),
    ),
    "torchvision's Swin": (swin, ((64, 96), "features.5.1.mlp.1", "last", (4, 6))),
    "Swin": (
        lambda: timm_swin(64, 96),
        ((64, 96), "norm", "last", (4, 6)),
    ),
    "torchvision's MaxViT": (
        lambda: tv.MaxVit((64, 64), 8, 4, [8, 16], [1, 1], 8, 0.0, num_classes=10),
        ((64, 64), "blocks.1.layers.0.layers.MBconv.layers.conv_b.2", "first", (8, 8)),
    ),
    "torchvision's ConvNeXt": (convnext, ((64, 96), "features.3.0.block.4", "last", (8, 12))),
    "ConvNeXt": (
        lambda: timm.create_model("convnext_tiny", **DIMS),
        ((64, 96), "stages.3.blocks.0.mlp.act", "last", (2, 3)),
    ),
    "Hugging Face's ViT": (Hub, ((64, 96), "second.before", 1, (4, 6))),
    "Hugging Face's Swin": (lambda: Hub(merging=True), ((48, 80), "norm", 0, (2, 3))),
}


def randomized(make) -> nn.Module:
    """In evaluation mode; heads and scales that begin at zero would leave nothing to explain."""
    torch.manual_seed(0)
    network = make().eval().double()
    for module in network.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight)
    return network


@pytest.fixture(params=FAMILIES)
def case(request) -> tuple[nn.Module, Tensor, str, Tensor, Tensor]:
    """A network, images, the layer by its path; and by hand what it computes and its gradient, (B, channels, h, w)."""
    make, (size, layer, before, (rows, columns)) = FAMILIES[request.param]
    network = randomized(make)
    images = torch.randn(2, 3, *size, dtype=torch.double)
    seen: list[Tensor] = []
    with network.get_submodule(layer).register_forward_hook(lambda _, inputs, output: seen.append(output)):
        output = network(images.requires_grad_())
    (value,) = seen
    (gradient,) = torch.autograd.grad(getattr(output, "logits", output)[:, CLASS].sum(), value)
    arranged = []
    for each in (value.detach(), gradient):
        if isinstance(before, int):
            assert each.shape[1] == before + rows * columns
            each = each[:, before:].reshape(2, rows, columns, -1)
        arranged.append(each if before == "first" else each.permute(0, 3, 1, 2))
        assert arranged[-1].shape[2:] == (rows, columns)
    return network, images.detach(), layer, *arranged


def larger(maps: Tensor, images: Tensor) -> Tensor:
    return F.interpolate(maps[:, None], images.shape[2:], mode="bilinear")[:, 0]


@pytest.mark.filterwarnings("ignore:the network has tokens", "ignore:the map of grad_cam is zero everywhere for 1 of")
@pytest.mark.parametrize("named", [False, True])
def test_maps_are_those_by_hand(case, named: bool) -> None:
    network, images, layer, value, gradient = case
    settings = {"layer": layer} if named else {}
    cam = larger((gradient.mean((2, 3), keepdim=True) * value).sum(1).clamp(min=0), images)
    expected = {
        "grad_cam": cam,
        "normgrad": larger(gradient.square().sum(1).sqrt() * value.square().sum(1).sqrt(), images),
        "selective_normgrad": larger((gradient * value).clamp(min=0).square().sum(1).sqrt(), images),
    }
    for method, maps in expected.items():
        found = explain(network, images, CLASS, method=method, **settings)
        torch.testing.assert_close(found, maps, rtol=1e-6, atol=1e-9 * float(maps.abs().max()))
        assert maps.any()


@pytest.mark.filterwarnings("ignore:the network has tokens")
def test_guided_grad_cam_is_the_product_of_two() -> None:
    network, images = randomized(vit), torch.randn(2, 3, 64, 96, dtype=torch.double)
    fine = guided_gradient(network, images, torch.full((2,), CLASS))
    expected = (fine * explain(network, images, CLASS, method="grad_cam")[:, None]).abs().amax(1)
    torch.testing.assert_close(explain(network, images, CLASS, method="guided_grad_cam"), expected)


@pytest.mark.parametrize("fused", [False, True])
def test_the_layer_is_the_last_whose_patches_reach_the_class(fused: bool) -> None:
    """Nor are weights of attention a map of a square image; and behind what is chosen patches have no gradient."""
    network, images = randomized(lambda: vit(img_size=(64, 64))), torch.randn(1, 3, 64, 64, dtype=torch.double)
    for block in network.blocks:
        block.attn.fused_attn = fused
    target = torch.tensor([CLASS])
    with pytest.warns(UserWarning, match=r"looked at are the 4 x 4 that blocks\.2\.norm1 returns"):
        _, chosen = layer_gradient(network, images, target, None)
    assert chosen.any(1).all()
    for behind in ("blocks.2.norm2", "blocks.2.mlp.act", "blocks.2", "norm"):
        assert not layer_gradient(network, images, target, behind)[1].any()


@pytest.mark.parametrize("make", [vit, lambda: vit(reg_tokens=4), Hub, lambda: Hub(merging=True)])
def test_each_token_is_put_where_its_patch_is(make) -> None:
    """The first tokens of all, before anything is mixed: another patch changes one place."""
    network, images = randomized(make), torch.randn(2, 3, 64, 96, dtype=torch.double)
    changed = images.clone()
    changed[:, :, 16:32, 64:80] += torch.randn(16, 16, dtype=torch.double)
    layer = "blocks.0.norm1" if hasattr(network, "blocks") else "first.before"
    called = network if hasattr(network, "blocks") else Logits(network)
    path = layer if called is network else f"network.{layer}"
    before, after = (layer_gradient(called, each, torch.tensor([0, 0]), path)[0] for each in (images, changed))
    assert before.shape[2:] == (4, 6)
    assert (before != after).any(1).nonzero().tolist() == [[0, 1, 4], [1, 1, 4]]


class Logits(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images).logits


def test_what_cannot_be_found_is_said_and_can_be_given() -> None:
    network, images = randomized(Unfolded), torch.randn(2, 3, 32, 48, dtype=torch.double)
    with pytest.raises(InputError, match="no tokens that a map of as many places is known for.*name a layer"):
        explain(network, images, method="grad_cam")
    with pytest.raises(InputError, match=r"output \(24, 1, 8\) is no spatial map of the image; .* give reshape="):
        explain(network, images, method="grad_cam", layer="embed")

    def reshape(tokens: Tensor) -> Tensor:  # (24, B, 8)
        return tokens.reshape(4, 6, -1, 8).permute(2, 3, 0, 1)

    value, gradient = layer_gradient(network, images, torch.tensor([CLASS] * 2), "embed", reshape)
    patches = images.reshape(2, 3, 4, 8, 6, 8).permute(0, 2, 4, 1, 3, 5).flatten(3)  # (B, h, w, 3 8 8)
    torch.testing.assert_close(value, network.embed(patches).permute(0, 3, 1, 2).detach())
    maps = explain(network, images, CLASS, method="normgrad", layer="embed", reshape=reshape)
    torch.testing.assert_close(maps, larger(gradient.norm(dim=1) * value.norm(dim=1), images))
    with pytest.raises(InputError, match=r"reshape must give \(B, channels, h, w\) of 1 images, and gave \(24, 1, 8\)"):
        explain(network, images, method="grad_cam", layer="embed", reshape=lambda tokens: tokens)


def test_tokens_of_another_number_are_refused_with_the_grids_that_are_known() -> None:
    network, images = randomized(lambda: vit(reg_tokens=20)), torch.randn(2, 3, 64, 96, dtype=torch.double)
    with pytest.raises(InputError, match=r"output \(2, 45, 24\) is .*nor tokens of one \(4 x 6\); name another"):
        explain(network, images, method="grad_cam", layer="blocks.2.norm1")


def test_windows_are_no_images() -> None:
    """Sixteen windows of 4 x 4 in each: as many tokens as the last stage's map has places."""
    network, images = randomized(lambda: timm_swin(64, 64)), torch.randn(2, 3, 64, 64, dtype=torch.double)
    with pytest.raises(InputError, match=r"output \(32, 16, 12\) is no spatial map .*4 x 4"):
        explain(network, images, method="grad_cam", layer="layers.0.blocks.0.attn")


def test_what_is_written_over_once_it_was_read_has_been_read() -> None:
    network, images = randomized(lambda: Hub(merging=True)), torch.randn(1, 3, 64, 96, dtype=torch.double)
    expected = explain(network, images, CLASS, method="grad_cam")
    network.pooler = Wiping()
    torch.testing.assert_close(explain(network, images, CLASS, method="grad_cam"), expected)


def test_a_head_of_zeros_reads_nothing() -> None:
    network = tv.VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16)
    with pytest.raises(InputError, match="its scores depend on those of no module"):
        explain(network, torch.zeros(1, 3, 32, 32), method="grad_cam")


def test_excitation_backprop_knows_no_tokens() -> None:
    """Its rule is of weights and what they sum, not of products of queries and keys."""
    network, images = randomized(vit), torch.zeros(1, 3, 64, 96, dtype=torch.double)
    with pytest.raises(InputError, match="no activation that is a spatial map"):
        explain(network, images, method="excitation_backprop")
    with pytest.raises(InputError, match=r"output \(1, 25, 24\) is no spatial map of the image; name another"):
        explain(network, images, method="excitation_backprop", layer="blocks.2.norm1")
