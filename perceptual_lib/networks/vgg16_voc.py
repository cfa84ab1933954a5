"""The network that the paper plays the pointing game with: VGG16, fine-tuned on VOC by TorchRay's authors."""

from torch import Tensor, nn

VOC_CLASSES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow "
    "diningtable dog horse motorbike person pottedplant sheep sofa train tvmonitor"
).split()
"""In the order of the network's outputs and of the published list's columns."""

WEIGHTS = "https://dl.fbaipublicfiles.com/torchray/vgg16_voc-b050e8c3.pth.tar"
WEIGHTS_SHA256 = "b050e8c3"  # its first digits are all that is published, in the file's name
MEAN = (123.68, 116.779, 103.939)  # red, green, blue in 0..255; the network takes 0..255 less this


class RegionVGG16(nn.Module):
    """VGG16 as a network of convolutions alone: images (B, 3, H, W) to responses (B, 20, h, w) of h x w regions.

    A region is 7 x 7 features of 32 pixels each. The network's parameters have the names of torchvision's VGG16, and
    the values: a linear layer's weights only get the shape of a convolution's. The pools keep incomplete windows at the
    right and bottom (ceil mode).
    """

    def __init__(self) -> None:
        from torchvision.models.vgg import cfgs, make_layers  # slow to import

        super().__init__()
        self.features = make_layers(cfgs["D"])
        for module in self.features:
            if isinstance(module, nn.MaxPool2d):
                module.ceil_mode = True
        self.classifier = nn.Sequential(
            nn.Conv2d(512, 4096, 7),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Conv2d(4096, 4096, 1),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Conv2d(4096, len(VOC_CLASSES), 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        responses: Tensor = self.classifier(self.features(images))
        return responses
