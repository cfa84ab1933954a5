"""Profiles: what the book is computed with, as checked YAML."""

import difflib
import os
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from perceptual_lib.core.errors import InputError

TABLE_1 = """
    gradient deconvnet guided_backprop grad_cam guided_grad_cam excitation_backprop smoothgrad integrated_gradients
    extremal_perturbation rise normgrad selective_normgrad blur_difference center no_perceptual perceptual
    perceptual_guided
""".split()
"""All methods: the rows of Table 1 and some that the paper compares elsewhere."""

TABLE_3 = """
    center gradient deconvnet guided_backprop excitation_backprop grad_cam extremal_perturbation rise normgrad
    selective_normgrad no_perceptual perceptual
""".split()


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ClassifierSection(_Section):
    """Arguments of `load_classifier`."""

    model: str = "efficientnet_lite0"
    weights: str = "default"
    device: str = "auto"


class PhotographsSection(_Section):
    """Arguments of `load_photographs`."""

    source: str | None = None
    """A file or folder, in which $VARIABLES of the environment are replaced; none for the embedded photographs."""
    names: str | None = None
    """A text file beside the profile with the names of the photographs that are used, one in a line; none for all."""
    limit: Annotated[int, Field(ge=1)] | None = None


class PerturbationSection(_Section):
    """Arguments of `perceptual_ball`."""

    layers: str | int | list[int | str] = []
    margin_target: Annotated[float, Field(lt=0)] = -2.0
    layer_weight: Annotated[float, Field(ge=0)] = 10_000.0
    pixel_weight: Annotated[float, Field(ge=0)] = 1.0
    normalize_layers: bool = False
    max_iter: Annotated[int, Field(ge=1)] = 200


Positive = Annotated[int, Field(ge=1)]
Settings = dict[str, bool | int | float | str | list[float]]
"""Of a method, keyword arguments."""
Sigmas = list[Annotated[float, Field(ge=0)]]


class ExperimentSection(_Section):
    """What experiments have in common. One that a profile lacks is not made."""

    pictures: Positive | None = None
    """How many, the first ones; none for all."""
    methods: list[str] = []
    """The rows of its table, by the names of `explain`'s methods."""
    settings: dict[str, Settings] = {}
    """What differs from the profile's settings here, by method."""
    subsets: dict[str, Positive] = {}
    """For methods that cost too much for all pictures: how many, drawn with a fixed seed."""
    selection: Positive = 10
    """How many pictures, the first ones, settings are chosen on; the others report them."""
    ranges: Annotated[int, Field(ge=0)] = 0
    """The first so many pictures are explained with every contiguous range of layers held (Fig. 5); 0 for none."""
    granularity: Literal["stage", "activation"] = "stage"
    """What ranges are made of: single activations, or the stages between which the resolution changes."""


class LocalizationSection(ExperimentSection):
    """Weak localization (Sec. 4.2)."""

    methods: list[str] = TABLE_1
    sigmas: Sigmas = [0.0, 1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0]
    """Blurs of the maps that are tried, in pixels of the network's input."""
    layer_weights: list[Annotated[float, Field(ge=0)]] = []
    """Other values of lambda' that are tried on the pictures of the ranges."""


class InsertionDeletionSection(ExperimentSection):
    """The insertion and deletion games (Sec. 4.3)."""

    methods: list[str] = TABLE_1
    sigmas: dict[str, Sigmas] = {
        "gradient": [0.0, 5.0],
        "guided_backprop": [0.0, 5.0],
        "no_perceptual": [0.0, 2.5, 5.0],
        "perceptual": [0.0, 1.0, 2.5, 5.0],
    }
    """Blurs of a method's maps in pixels of the network's input, by RISE's kernel; none for the others."""
    sweep: Sigmas = []
    """More blurs of the maps of "perceptual"."""
    swept: Annotated[int, Field(ge=0)] = 0
    """The first so many pictures play with them."""
    range_sigmas: Sigmas = [0.0, 5.0]
    """Blurs for ranges of layers."""
    step: Positive = 8 * 224
    """Pixels that change at once."""


class PointingSection(ExperimentSection):
    """The pointing game (Sec. 4.4), on mosaics of the profile's photographs or on VOC 2007."""

    methods: list[str] = TABLE_3
    source: str | None = None
    """The folder of VOC 2007's test set, in which $VARIABLES are replaced; none for mosaics."""
    classifier: ClassifierSection | None = None
    """A network for this game; none for the profile's."""
    scales: list[Annotated[float, Field(gt=0)]] = [1.0, 1.5]
    """Sizes of the network's input: 1 is the paper's "original size", a short side of 224 pixels."""
    without: dict[float, list[str]] = {}
    """Methods that do not play at a scale."""
    range_scales: list[Annotated[float, Field(gt=0)]] = [1.0, 1.5]
    """Those at which ranges of layers are tried."""
    sigmas: Sigmas = [0.0, 1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 60.0, 80.0, 100.0]
    """Blurs of the maps that are tried, in pixels of the network's input."""
    layers: dict[float, str] = {}
    """The activations that "perceptual" holds, by scale, where they are not the profile's."""


class RandomizationSection(ExperimentSection):
    """Sanity checks (Sec. 4.5)."""

    methods: list[str] = ["perceptual", "gradient", "guided_backprop", "grad_cam", "selective_normgrad"]
    seeds: Positive = 2
    """Untrained networks that the weights are taken from."""
    sigma: Annotated[float, Field(ge=0)] = 0.0
    """Blur of the maps, in pixels of the network's input."""


class ChangeSection(ExperimentSection):
    """Where the change goes (Secs. 1, 3 and 4): of the paper's own methods alone."""

    methods: list[Literal["no_perceptual", "perceptual"]] = ["no_perceptual", "perceptual"]


class Profile(_Section):
    """One way to compute the book.

    Attributes:
        name: file name without its ending.
        description: one line for readers.
        classifier, photographs, perturbation: see the sections.
        sigma: blur of the figures' maps, in pixels of the network's input.
        batch_size: images explained at once.
        methods: settings of explanation methods that differ from their defaults, by method.
        shown: names of the photographs that the text looks at closely; none for the first four.
        localization, insertion_deletion, pointing, randomization, change: the experiments, see `experiments`; those
            that are there are made.
        folder: where the profile's file is.
    """

    name: str
    description: str
    classifier: ClassifierSection = ClassifierSection()
    photographs: PhotographsSection = PhotographsSection()
    perturbation: PerturbationSection = PerturbationSection()
    sigma: Annotated[float, Field(ge=0)] = 5.0
    batch_size: Annotated[int, Field(ge=1)] = 4
    methods: dict[str, Settings] = {}
    shown: list[str] = []
    localization: LocalizationSection | None = None
    insertion_deletion: InsertionDeletionSection | None = None
    pointing: PointingSection | None = None
    randomization: RandomizationSection | None = None
    change: ChangeSection | None = None
    folder: Annotated[Path, Field(exclude=True)] = Path()

    def load_classifier(self):
        """The profile's `Classifier`."""
        from perceptual_lib.core.networks import load_classifier

        return load_classifier(**self.classifier.model_dump())

    def load_photographs(self):
        """The profile's list of `Photograph`.

        Raises:
            InputError: the source names a variable that is not set.
        """
        from perceptual_lib.photographs.photographs import load_photographs

        source = self.photographs.source
        if source is not None:
            source = expand_path(source, self.name, "the folder of ImageNet's validation set (images and XML boxes)")
        if self.photographs.names is None:
            return load_photographs(source, limit=self.photographs.limit)
        photographs = {photograph.name: photograph for photograph in load_photographs(source)}
        names = self._listed_names()
        missing = [name for name in names if name not in photographs]
        if missing:
            raise InputError(
                f"{source} lacks {len(missing)} of the profile's {len(names)} images, {missing[0]} for one."
            )
        return [photographs[name] for name in names][: self.photographs.limit]

    def _listed_names(self) -> list[str]:
        path = self.folder / self.photographs.names
        try:
            return path.read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"profile {self.name} lists its photographs in {path}, which cannot be read.") from error

    def pick_shown(self, photographs: list) -> list:
        """Those of the photographs that the text looks at closely, in the profile's order.

        Raises:
            InputError: one of them is not there.
        """
        if not self.shown:
            return photographs[:4]
        by_name = {photograph.name: photograph for photograph in photographs}
        missing = [name for name in self.shown if name not in by_name]
        if missing:
            raise InputError(f"profile {self.name} shows {missing[0]}, which is not among its photographs.")
        return [by_name[name] for name in self.shown]

    @property
    def settings(self) -> dict[str, Any]:
        """Keyword arguments of `perceptual_ball`."""
        return self.perturbation.model_dump()


EXPERIMENTS: dict[str, type[ExperimentSection]] = {
    "localization": LocalizationSection,
    "insertion_deletion": InsertionDeletionSection,
    "pointing": PointingSection,
    "randomization": RandomizationSection,
    "change": ChangeSection,
}
"""The sections of experiments, in the paper's order."""

SECTIONS = {
    "classifier": ClassifierSection,
    "photographs": PhotographsSection,
    "perturbation": PerturbationSection,
    **EXPERIMENTS,
}


def expand_path(source: str, profile: str, what: str) -> str:
    """A path with the variables of the environment replaced. Raises InputError for one that is not set."""
    path = os.path.expandvars(source)
    if "$" in path:
        raise InputError(f"profile {profile} reads {path}, which is not set: set that environment variable to {what}.")
    return path


def profile_names() -> list[str]:
    """Names of the profiles that come with the package."""
    entries = map(Path, (entry.name for entry in files("perceptual_lib.evaluation").joinpath("profiles").iterdir()))
    return sorted(entry.stem for entry in entries if entry.suffix == ".yaml")


def load_profile(name: str | os.PathLike) -> Profile:
    """A profile of the package by name ("demo"), or one's own by the path of its YAML file.

    Raises:
        InputError: no such profile, not YAML, an unknown key, or a value of the wrong type or range.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        if str(name) not in profile_names():
            raise InputError(
                f"there is no profile {str(name)!r}; there are {', '.join(profile_names())}, or give a YAML file."
            )
        path = Path(str(files("perceptual_lib.evaluation").joinpath("profiles", f"{name}.yaml")))
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"profile {path} cannot be read: {error}.") from error
    except yaml.YAMLError as error:
        raise InputError(f"profile {path} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise InputError(f"profile {path} must be a mapping of keys to values.")
    try:
        return Profile(name=path.stem, folder=path.parent, **content)
    except TypeError:
        raise InputError(f"profile {path} must not set its name, and its keys must be words.") from None
    except ValidationError as error:
        raise InputError(f"profile {path.name}: {_first_problem(error)}.") from None


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    if first["type"] == "missing":
        return f"{'.'.join(map(str, first['loc']))} is missing"
    if first["type"] != "extra_forbidden":
        return f"{'.'.join(map(str, first['loc']))} is {first['input']!r}: {first['msg'].lower()}"
    *section, key = map(str, first["loc"])
    known = [name for name in SECTIONS.get("".join(section), Profile).model_fields if name not in ("name", "folder")]
    close = difflib.get_close_matches(key, known, n=1)
    return f"unknown key {'.'.join([*section, key])!r}" + (
        f", did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"
    )
