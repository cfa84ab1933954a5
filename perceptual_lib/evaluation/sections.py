"""The sections of profiles: what may stand in them, and of which type and range."""

from dataclasses import fields
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    NonNegativeFloat,
    NonNegativeInt,
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
    """Those that "1-30" stands for, both ends included."""
    first, _, last = value.partition("-") if isinstance(value, str) else ("", "", "")
    numbers = range(int(first), int(last) + 1) if first.isdecimal() and last.isdecimal() else ()
    return [float(number) for number in numbers] or value


Sigmas = Annotated[list[NonNegativeFloat], BeforeValidator(_whole_numbers)]
"""Blurs in pixels of the network's input: a list, or "1-30" for all whole numbers from 1 to 30."""

MethodSettings = dict[str, bool | int | float | str | list[float]]
"""Of an explanation method, keyword arguments."""


class Section(BaseModel):
    """A mapping of known keys to values of the right type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ClassifierSection(Section):
    """Arguments of `load_classifier`."""

    model: str = EMBEDDED
    weights: str = "default"
    device: str = "auto"
    precision: Literal["full", "tf32", "bf16"] = "full"


class PhotographsSection(Section):
    """Arguments of `load_photographs`."""

    source: str | None = None
    """A file or folder, in which $VARIABLES of the environment are replaced; none for the embedded photographs."""
    names: str | None = None
    """A text file beside the profile with the names of the photographs that are used, one in a line; none for all."""
    limit: PositiveInt | None = None


_hyperparameters = {
    field.name: (field.type, field.default)
    for field in fields(Settings)
    if field.name not in ("layers", "multilabel", "reach")  # see below; a game says which margin is its own
}


class PerturbationSection(create_model("_Hyperparameters", __base__=Section, **_hyperparameters)):
    """Keyword arguments of `perceptual_ball`: see `Settings`, which knows their defaults and ranges."""

    layers: str | int | list[int | str] = []  # what YAML can say of `Layers`

    @model_validator(mode="after")
    def check(self) -> Self:
        """Raise what `Settings` raises for values out of range."""
        Settings(**dict(self))
        return self


class ExperimentSection(Section):
    """What the sections of all games have in common. A game that a profile lacks is not played."""

    pictures: PositiveInt | None = None  #: how many, the first ones; none for all
    methods: list[str] = []  #: the rows of its table, by the names of `explain`'s methods
    settings: dict[str, MethodSettings] = {}  #: what differs from the profile's settings here, by method
    selection: PositiveInt = 10  #: how many pictures, the first ones, settings are chosen on; the others report them


class RowsSection(ExperimentSection):
    """Of a game that also tries other settings than the profile's; see `rows`."""

    subsets: dict[str, PositiveInt] = {}
    """How many, drawn with a fixed seed, for methods that cost too much for all pictures."""
    ranges: NonNegativeInt = 0
    """The first so many pictures are explained with every contiguous range of layers held (Fig. 5); 0 for none."""
    granularity: Literal["stage", "activation"] = "stage"
    """Whether ranges are made of single activations, or of the stages between which the resolution changes."""
