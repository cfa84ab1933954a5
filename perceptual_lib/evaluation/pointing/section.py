"""What a profile says of the pointing game (Sec. 4.4), on mosaics of the profile's photographs or on VOC 2007.

On VOC `selection` and `ranges` count boxes as the paper does, the classes of pictures, also those of which all objects
are flagged and which nothing is asked of; the picture with the last of them counts whole.
"""

from pydantic import NonNegativeFloat, PositiveFloat

from perceptual_lib.evaluation.sections import ClassifierSection, RowsSection, Sigmas


class Section(RowsSection):
    methods: list[str] = """
        center gradient deconvnet guided_backprop excitation_backprop grad_cam extremal_perturbation rise normgrad
        selective_normgrad no_perceptual perceptual
    """.split()
    source: str | None = None
    """The folder of VOC 2007's test set, in which $VARIABLES are replaced; none for mosaics."""
    classifier: ClassifierSection | None = None  #: a network for this game; none for the profile's
    scales: list[PositiveFloat] = [1.0, 1.5]
    """Sizes of the network's input: 1 is the paper's "original size", a short side of 224 pixels."""
    without: dict[float, list[str]] = {}  #: methods that do not play at a scale
    range_scales: list[PositiveFloat] = [1.0, 1.5]  #: those at which ranges of layers are tried
    sigmas: Sigmas = [0.0, 1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 60.0, 80.0, 100.0]
    """Blurs of the maps that are tried."""
    pinned: dict[float, NonNegativeFloat] = {}
    """By scale, one of them at which the table has "perceptual" beside the one chosen; none for no such columns."""
    smooth: dict[str, PositiveFloat] = {}
    """Of methods that are smoothed in place of blurred: see `maxima`; TorchRay does so with some, by 0.02."""
    layers: dict[float, str] = {}  #: that "perceptual" holds, by scale, where they are not the profile's
