"""The sections of profiles: their keys, and the types and ranges of the values."""

from collections.abc import Iterable
from dataclasses import fields
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    create_model,
    model_validator,
)

from perceptual_lib.core.settings import Settings
from perceptual_lib.networks.special import EMBEDDED

ALL_METHODS = """
    gradient deconvnet guided_backprop grad_cam guided_grad_cam excitation_backprop smoothgrad integrated_gradients
    extremal_perturbation rise normgrad selective_normgrad blur_difference center no_perceptual perceptual
    perceptual_guided
""".split()
"""The rows of Tables 1 and 2, and some that the paper compares elsewhere."""


def _whole_numbers(value: object) -> object:
    """The numbers that "1-30" stands for, both ends included; any other value as it is."""
    first, _, last = value.partition("-") if isinstance(value, str) else ("", "", "")
    numbers = range(int(first), int(last) + 1) if first.isdecimal() and last.isdecimal() else ()
    return [float(number) for number in numbers] or value


def _once(values: list[Any]) -> list[Any]:
    if len(values) > len(set(values)):
        raise ValueError(f"{next(each for each in values if values.count(each) > 1)} is said twice.")
    return values


Once = AfterValidator(_once)
Names = Annotated[list[str], Once]
Blurs = Annotated[list[NonNegativeFloat], Field(min_length=1), Once]
"""In pixels of the network's input."""

Sigmas = Annotated[Blurs, BeforeValidator(_whole_numbers)]
"""The same, or "1-30" for all whole numbers from 1 to 30."""

Scale = Annotated[float, Field(ge=0.1)]
"""Of the input's short side, 224: networks need some twenty pixels."""

MethodSettings = dict[str, bool | int | float | str | list[float]]
"""Of an explanation method, keyword arguments."""


class Section(BaseModel):
    """A mapping of known keys to values of the right type; numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ClassifierSection(Section):
    """Arguments of `load_classifier`."""

    model: str = EMBEDDED
    weights: str = "default"
    device: str = "auto"
    precision: Literal["full", "tf32", "bf16"] = "full"


class PhotographsSection(Section):
    """Arguments of `load_photographs`."""

    source: str | None = None  #: a file or folder; ~ and $VARIABLES are replaced; none for the embedded photographs
    names: str | None = None  #: a text file beside the profile that names those that are used, one in a line
    limit: PositiveInt | None = None


_hyperparameters = {
    field.name: (field.type, field.default)
    for field in fields(Settings)
    # Layers follow below. Each game sets its own margin, and searches for the maps of tables take all steps.
    if field.name not in ("layers", "multilabel", "reach", "tolerance_map")
}


class PerturbationSection(create_model("_Hyperparameters", __base__=Section, **_hyperparameters)):
    """Keyword arguments of `perceptual_ball`: see `Settings`, which knows their defaults and ranges."""

    layers: str | int | list[int | str] = []  # those `Layers` that YAML can express

    @model_validator(mode="after")
    def check(self) -> Self:
        """Raise what `Settings` raises for values out of range."""
        Settings(**dict(self))
        return self


class ExperimentSection(Section):
    """What the sections of all games have in common. A game without a section is not played."""

    pictures: PositiveInt | None = None  #: play on the first so many; none for all
    methods: Names = []  #: the rows of its table, as names of `explain`'s methods
    settings: dict[str, MethodSettings] = {}  #: what overrides the profile's settings in this game, by method
    selection: PositiveInt = 10  #: settings are chosen on the first so many pictures, and judged on the others


class RowsSection(ExperimentSection):
    """The section of a game that also tries settings other than the profile's; see `rows`."""

    subsets: dict[str, PositiveInt] = {}  #: for methods too costly for all pictures, how many to draw with a fixed seed
    ranges: NonNegativeInt = 0  #: on the first so many pictures each contiguous range of layers is tried (Fig. 5)
    ranges_after: NonNegativeInt = 0  #: the first so many of these are left out
    range_pictures: dict[str, PositiveInt] = {}  #: for single ranges "first-last", another number in place of `ranges`
    granularity: Literal["stage", "activation"] = "stage"  #: what ranges are made of; each stage has one resolution

    @model_validator(mode="after")
    def check_ranges(self) -> Self:
        """Raise an error if no picture is left to try ranges on, or none are tried."""
        if self.range_pictures and not self.ranges:
            raise ValueError("range_pictures are in place of ranges, which is 0.")
        for name, count in {"ranges": self.ranges, **self.range_pictures}.items():
            if self.ranges_after and self.ranges_after >= count:
                raise ValueError(f"ranges_after is {self.ranges_after}, and must be below {name}, {count}.")
        return self


def _check_tried(pinned: Iterable[float], sigmas: list[float]) -> None:
    if other := {*pinned} - {*sigmas}:
        raise ValueError(f"pinned is {min(other):g}, which is none of the sigmas.")


# The sections of the games. Blurs are in pixels of the network's input.


class Change(RowsSection):
    """Where the change of the image goes (Secs. 1, 3 and 4), for the paper's own methods only."""

    methods: Annotated[list[Literal["no_perceptual", "perceptual"]], Once] = ["no_perceptual", "perceptual"]


class Localization(RowsSection):
    """Weak localization (Sec. 4.2)."""

    methods: Names = ALL_METHODS
    sigmas: Sigmas = [0.0, 1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0]  #: blurs of the maps to try
    pinned: NonNegativeFloat | None = None  #: one of the sigmas, at which the table also reports every method
    grey: list[str] = []  #: methods whose maps are clipped at their 99th percentile, as PyTorch CNN Visualizations does
    layer_weights: Annotated[list[NonNegativeFloat], Once] = []  #: other values of lambda', tried where ranges are

    @model_validator(mode="after")
    def check(self) -> Self:
        """Raise an error for a pinned blur that is not tried."""
        _check_tried([] if self.pinned is None else [self.pinned], self.sigmas)
        return self


class InsertionDeletion(RowsSection):
    """The insertion and deletion games (Sec. 4.3); blurs are by RISE's kernel."""

    methods: Names = ALL_METHODS
    sigmas: dict[str, Blurs] = {
        "gradient": [0.0, 5.0],
        "guided_backprop": [0.0, 5.0],
        "no_perceptual": [0.0, 2.5, 5.0],
        "perceptual": [0.0, 1.0, 2.5, 5.0],
    }  #: blurs of a method's maps; no blur for the others
    sweep: Annotated[list[NonNegativeFloat], Once] = []  #: more blurs of the maps of "perceptual"
    swept: NonNegativeInt = 0  #: the sweep is played on the first so many pictures
    single: NonNegativeInt = 0  #: single deletion is played on each method's first so many pictures, at its `sigmas`
    range_sigmas: Blurs = [0.0, 5.0]  #: blurs for ranges of layers
    step: PositiveInt = 8 * 224  #: pixels that change at once


class Pointing(RowsSection):
    """The pointing game (Sec. 4.4), on mosaics of the profile's photographs or on VOC 2007.

    On VOC `selection` and the numbers of ranges count boxes as the paper does: one for each class in a picture, also
    for one whose objects are all flagged, so that no question asks for it. The picture with the last box enters whole.
    """

    methods: Names = """
        center gradient deconvnet guided_backprop excitation_backprop grad_cam extremal_perturbation rise normgrad
        selective_normgrad no_perceptual perceptual
    """.split()
    source: str | None = None  #: the folder of VOC 2007's test set; ~ and $VARIABLES are replaced; none for mosaics
    classifier: ClassifierSection | None = None  #: a network for this game; none for the profile's
    scales: Annotated[list[Scale], Field(min_length=1), Once] = [1.0, 1.5]
    """Of the input: 1 is the paper's "original size", a short side of 224."""
    without: dict[float, list[str]] = {}  #: by scale, methods that do not play at it
    range_scales: Annotated[list[Scale], Once] = [1.0, 1.5]  #: those at which ranges of layers are tried
    sigmas: Sigmas = [0.0, 1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 60.0, 80.0, 100.0]  #: tried
    pinned: dict[float, NonNegativeFloat] = {}  #: by scale, a sigma at which the table also reports "perceptual"
    smooth: dict[str, PositiveFloat] = {}  #: by method, how TorchRay smooths its maps, in place of a blur; see `maxima`
    layers: dict[float, str] = {}  #: by scale, those that "perceptual" holds in place of the profile's

    @model_validator(mode="after")
    def check(self) -> Self:
        """Raise an error for a scale that is not played, and for a pinned blur that is not tried."""
        for name in ("pinned", "layers"):
            if other := getattr(self, name).keys() - {*self.scales}:
                raise ValueError(f"{name} is said of {min(other):g}, which is none of the scales.")
        _check_tried(self.pinned.values(), self.sigmas)
        return self


class Randomization(ExperimentSection):
    """The sanity checks (Sec. 4.5)."""

    methods: Names = ["perceptual", "gradient", "guided_backprop", "grad_cam", "selective_normgrad"]
    seeds: PositiveInt = 2  #: how many untrained networks weights are taken from
    sigma: NonNegativeFloat = 0.0  #: blur of the maps
