"""Which layer a method reads: the default one, and by index, name or module."""

import copy
import warnings
from threading import Thread

import pytest
import timm
import torch
import torchvision
from stand_ins import TinyNetwork
from torch import nn

from perceptual_lib import InputError, explain
from perceptual_lib.core.activations import trace
from perceptual_lib.core.calling import Scored
from perceptual_lib.evaluation.pointing.regions import SummedRegions
from perceptual_lib.methods.layers import default_layer, layer_gradient
from perceptual_lib.networks.classifier import Classifier
from perceptual_lib.networks.special import special
from perceptual_lib.networks.vgg16_voc import RegionVGG16


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("vgg16", "features.29"),
        ("vgg19_bn", "features.51"),
        ("resnet18", "layer4.1.relu_1"),
        ("densenet121", "relu"),
        ("mobilenet_v3_small", "features.12.2"),
        ("squeezenet1_1", "classifier.2"),
        ("convnext_tiny", "features.7.2.block.4"),
    ],
)
def test_default_layer_is_the_last_convolutions_activation(name: str, layer: str) -> None:
    with torch.device("meta"):
        network = torchvision.models.get_model(name).eval()
        found = default_layer(network, torch.zeros(1, 3, 128, 128))
        names = [each.name for each in trace(network, torch.zeros(1, 3, 128, 128))[1]]
        assert layer in names and found in (layer, names.index(layer))


@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn", "vgg19", "vgg19_bn"])
@pytest.mark.parametrize("size", [(336, 373), (336, 336), (224, 298)])
def test_the_last_map_does_not_depend_on_the_size_where_linear_layers_are_convolutions(name: str, size: tuple) -> None:
    """Of timm's networks, at 1.5 times the size of a picture of 500 x 450 and the like."""
    with torch.device("meta"):
        network = timm.create_model(name, pretrained=False).eval()
        layer = default_layer(network, torch.zeros(1, 3, *size))
        relus = [path for path, each in network.features.named_modules() if isinstance(each, nn.ReLU)]
        assert layer == f"features.{relus[-1]}"


def test_of_the_papers_network_of_regions_too() -> None:
    """What its classifier makes of 336 x 373 pixels are 5 x 6 places, which lie as the image does."""
    with torch.device("meta"):
        network = SummedRegions(RegionVGG16()).eval()
        images = torch.zeros(1, 3, 336, 373)
        shapes = [each.shape for each in trace(network, images)[1]]
        assert shapes[-1] == (4096, 5, 6) and shapes[12] == (512, 21, 24)
        assert default_layer(network, images) == "features.29"
        assert special(network).excitation_layer == "features.23"


@pytest.mark.parametrize(
    ("name", "stride", "layer"),
    [
        ("googlenet", None, "inception5b"),
        ("googlenet", 16, "inception4e"),
        ("inception_v3", None, "Mixed_7c"),
        ("squeezenet1_1", 16, "features.7"),
    ],
)
def test_default_layer_is_where_branches_are_joined(name: str, stride: int | None, layer: str) -> None:
    with torch.device("meta"):
        network = torchvision.models.get_model(name).eval()
        assert default_layer(network, torch.zeros(1, 3, 128, 128), stride) == layer


def test_all_branches_of_the_default_layer_are_seen() -> None:
    torch.manual_seed(0)
    network = torchvision.models.googlenet(init_weights=False).eval()
    images, joined = torch.randn(1, 3, 64, 64), []
    hook = network.avgpool.register_forward_hook(lambda module, inputs, _: joined.append(inputs[0].detach()))
    activation, _ = layer_gradient(network, images, torch.tensor([3]), None)
    hook.remove()
    assert activation.shape == (1, 1024, 2, 2) and torch.equal(activation, joined[-1])


def test_default_layer_at_a_depth(embedded) -> None:
    images = torch.zeros(1, 3, 224, 224)
    assert embedded.activations[default_layer(embedded, images)].shape == (1280, 7, 7)
    index = default_layer(embedded, images, stride=16)
    assert embedded.activations[index].shape[1:] == (14, 14)
    assert embedded.activations[index + 1].shape[1:] == (7, 7)


def test_layers_by_index_name_and_module_agree(tiny: TinyNetwork, images: torch.Tensor) -> None:
    tiny.eval()
    targets = torch.zeros(4, dtype=torch.long)
    by_index, by_name = (layer_gradient(tiny, images, targets, layer) for layer in (1, "relu_1"))
    assert torch.equal(by_index[1], by_name[1])
    activation, _ = layer_gradient(tiny, images, targets, "first")
    with torch.no_grad():
        assert torch.equal(activation, tiny.first(images))


def test_a_layer_that_another_thread_computes_is_not_caught(tiny: TinyNetwork, images: torch.Tensor) -> None:
    tiny.eval()
    targets = torch.zeros(4, dtype=torch.long)
    expected = layer_gradient(tiny, images, targets, "second")

    def meanwhile(*_) -> None:
        hook.remove()
        thread = Thread(target=lambda: tiny(images + 1))
        thread.start()
        thread.join()

    hook = tiny.register_forward_pre_hook(meanwhile)
    assert all(map(torch.equal, layer_gradient(tiny, images, targets, "second"), expected))


def test_channels_last_networks_have_maps() -> None:
    torch.manual_seed(0)
    network = torchvision.models.convnext_tiny()
    images = torch.randn(1, 3, 64, 96)
    assert explain(network, images, method="grad_cam").shape == (1, 64, 96)


@pytest.mark.parametrize("method", ["grad_cam", "excitation_backprop", "normgrad"])
@pytest.mark.parametrize("layer", ["side", "position", "behind"])
def test_layers_that_the_score_does_not_depend_on(images: torch.Tensor, method: str, layer: str) -> None:
    """A head beside the logits, an embedding of places, and what is cut off from the image."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.side, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1), nn.Linear(6, 5)
            self.position, self.behind = nn.Conv2d(1, 6, 1), nn.Conv2d(6, 6, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            features = self.body(images).relu()
            self.kept = self.side(features)
            features = features + self.position(images.new_ones(len(images), 1, 10, 10))
            features = features + self.behind(features.detach()).detach()
            return self.head(features.mean((2, 3)))

    with pytest.raises(InputError, match="(does not depend on the layer|gets no tensor from its layer) .*name another"):
        explain(Network().double(), images, 1, method=method, layer=layer)


class DrawnOut(nn.Module):
    """For spectrograms: later strides go down alone. As many channels as rows, so that a map could be read as one that
    has them last."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(1, 8, 3, 2, 1)
        self.second, self.third = (nn.Conv2d(before, after, 3, (2, 1), 1) for before, after in ((8, 8), (8, 6)))
        self.head = nn.Linear(6, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.third(self.second(self.first(images).relu()).relu()).relu().mean((2, 3)))


def test_maps_that_strides_have_drawn_out_are_not_read_askew() -> None:
    network, images = DrawnOut(), torch.rand(2, 1, 32, 32)
    with pytest.warns(UserWarning, match=r"looked at is 0|looked at is first.relu|looked at is relu") as caught:
        explain(network, images, 1, method="grad_cam")
    assert "others are behind it, as (6, 4, 16)" in str(caught[0].message)
    with pytest.raises(InputError, match=r"\(2, 8, 8, 16\) is no spatial map"):  # 8 x 8 of 16 channels, it seems
        explain(network, images, 1, method="grad_cam", layer=1)
    maps = explain(network, images, 1, method="grad_cam", layer=2, reshape=lambda value: value)
    assert maps.shape == (2, 32, 32)


def test_patches_are_not_maps_that_strides_have_drawn_out() -> None:
    """MobileViTv2 unfolds a map of 8 x 8 into patches of 4 at 16 places."""
    torch.manual_seed(0)
    network = timm.create_model("mobilevitv2_050", pretrained=False).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer = default_layer(network, torch.zeros(1, 3, 256, 256))
    name = layer if isinstance(layer, str) else trace(network, torch.zeros(1, 3, 256, 256))[1][layer].name
    assert name.startswith("stages.4.")


@pytest.mark.parametrize(
    "wrap", [nn.Sequential, nn.DataParallel, lambda network: Scored(network, lambda out: out[:, 3])]
)
def test_a_known_network_is_known_inside_of_others(wrap, vgg16: Classifier) -> None:
    network, images = copy.deepcopy(vgg16.network), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for each in network.classifier.parameters():
            each.abs_()  # so that something arrives
    target = 0 if isinstance(wrapped := wrap(network), Scored) else 3
    expected = explain(network, images, 3, method="excitation_backprop", layer="features.23")
    torch.testing.assert_close(explain(wrapped, images, target, method="excitation_backprop"), expected)


def test_lazy_layers_are_one_sentence(images: torch.Tensor) -> None:
    network = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    with pytest.raises(InputError, match="has lazy layers, whose sizes are not known yet; call it once before"):
        explain(network, images, 1, method="gradient")


def test_a_map_of_as_many_rows_as_there_are_queries_is_one() -> None:
    class Asking(nn.Module):
        """Eight classes ask a map of 8 x 8."""

        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.decoder = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 6)
            self.queries = nn.Parameter(torch.randn(8, 6))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            places = self.convolution(images).relu().flatten(2).transpose(1, 2)
            shares = (self.queries @ places.transpose(1, 2)).softmax(2)
            return self.decoder(shares @ places).sum(2)

    torch.manual_seed(0)
    found = explain(Asking(), torch.randn(2, 3, 8, 8), 1, method="normgrad", layer="convolution")
    assert found.shape == (2, 8, 8) and found.std() > 0


def test_attention_is_no_map() -> None:
    """It is a square, as the image is, and of as many tokens as the blocks return."""
    network, images = (
        timm.create_model("vit_tiny_patch16_224", img_size=64, embed_dim=24, depth=2, num_heads=2).double(),
        torch.randn(1, 3, 64, 64, dtype=torch.double),
    )
    for block in network.blocks:
        block.attn.fused_attn = False
    with pytest.raises(InputError, match=r"output \(1, 2, 17, 17\) is no spatial map .* tokens of one \(4 x 4\)"):
        explain(network, images, method="grad_cam", layer="blocks.1.attn.attn_drop")
