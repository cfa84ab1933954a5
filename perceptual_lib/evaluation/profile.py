"""Profiles: what the book is computed with, as checked YAML."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import yaml
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, ValidationError

from perceptual_lib.core.errors import InputError, nearest
from perceptual_lib.evaluation import sections
from perceptual_lib.evaluation.games import GAMES

FOLDER = Path(__file__).with_name("profiles")


class Profile(sections.Section):
    """One way to compute the book. The games that it has a section for are played."""

    name: str  #: the file's, without its ending
    description: str  #: one line for readers
    classifier: sections.ClassifierSection = sections.ClassifierSection()
    photographs: sections.PhotographsSection = sections.PhotographsSection()
    perturbation: sections.PerturbationSection = sections.PerturbationSection()
    sigma: NonNegativeFloat = 5.0  #: blur of the figures' maps, in pixels of the network's input
    batch_size: PositiveInt = 4  #: images explained at once
    methods: dict[str, sections.MethodSettings] = {}  #: settings that differ from their defaults, by method
    shown: list[str | NonNegativeInt] = []
    """The photographs that the text looks at closely, by name or as the first of a class (its index), where there is
    one; none for the first four."""
    beside: list[str] | None = None
    """Published runs, folders of `results/`: beside the profile's own of a game pages show one of these, see `play`."""
    folder: Annotated[Path, Field(exclude=True)] = Path()  #: where the profile's file is
    change: sections.Change | None = None
    localization: sections.Localization | None = None
    insertion_deletion: sections.InsertionDeletion | None = None
    pointing: sections.Pointing | None = None
    randomization: sections.Randomization | None = None

    @property
    def games(self) -> list[str]:
        """Names of the games that the profile has a section for."""
        return [name for name in GAMES if getattr(self, name) is not None]

    @property
    def settings(self) -> dict[str, Any]:
        """Keyword arguments of `perceptual_ball`."""
        return self.perturbation.model_dump()

    @property
    def paths(self) -> list[str]:
        """Where the pictures and weights of one's own are, with ~ and, for pictures, environment variables replaced."""
        networks = self.classifier, self.pointing and self.pointing.classifier
        files = [each.weights for each in networks if each and each.weights not in ("default", "random")]
        sources = filter(None, (self.photographs.source, self.pointing and self.pointing.source))
        return [*map(os.path.expanduser, [*map(os.path.expandvars, sources), *files])]

    def given(self, game: str, method: str) -> dict[str, Any]:
        """The settings of a method in a game: the profile's, overridden by those in the game's section."""
        return {**self.methods.get(method, {}), **getattr(self, game).settings.get(method, {})}

    def load_classifier(self):
        """The profile's `Classifier`."""
        from perceptual_lib.networks.sources import load_classifier

        return load_classifier(**self.classifier.model_dump())

    def load_photographs(self):
        """The profile's list of `Photograph`.

        Raises InputError where the source names a variable that is not set, or lacks a photograph that is listed.
        """
        from perceptual_lib.photographs.sources import load_photographs

        source, limit = self.photographs.source, self.photographs.limit
        if source is not None:
            source = self.expand_path(source, "the folder of ImageNet's validation set (images and XML boxes)")
        if self.photographs.names is None:
            return load_photographs(source, limit=limit)
        path = self.folder / self.photographs.names
        try:
            names = [*dict.fromkeys(path.read_text(encoding="utf-8").split())]  # a photograph counts once
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"profile {self.name} lists its photographs in {path}, which cannot be read.") from error
        return self._pick(load_photographs(source), names, source or "the package")[:limit]

    def pick_shown(self, photographs: list) -> list:
        """The photographs that the text looks at closely, in the profile's order. InputError for an unknown name."""
        firsts = {photograph.target: photograph.name for photograph in reversed(photographs)}
        names = [firsts.get(each) if isinstance(each, int) else each for each in self.shown]
        names = [name for name in names if name is not None]
        return self._pick(photographs, names, "the list of photographs") if names else photographs[:4]

    def _pick(self, photographs: list, names: Sequence[str], where: str) -> list:
        by_name = {photograph.name: photograph for photograph in photographs}
        if missing := [name for name in names if name not in by_name]:
            raise InputError(
                f"{where} lacks {len(missing)} of the {len(names)} images that profile {self.name} names, "
                f"{missing[0]} for one."
            )
        return [by_name[name] for name in names]

    def expand_path(self, source: str, what: str) -> str:
        """A path with ~ and its environment variables replaced. Raises InputError for a variable that is not set."""
        if "$" in (path := os.path.expanduser(os.path.expandvars(source))):
            advice = f"set that environment variable to {what}."
            raise InputError(f"profile {self.name} reads {path}, which is not set: {advice}")
        return path


def profile_names() -> list[str]:
    """Names of the profiles that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_profile(name: str | os.PathLike) -> Profile:
    """A profile of the package by name ("demo"), or one's own by the path of its YAML file.

    A file may name a `base`, another profile by its name or by a path relative to the file, whose values hold where the
    file gives none. Sections are merged key by key; null removes one. Raises InputError for no such profile, a file
    that is not YAML, an unknown key, or a value of the wrong type or range.
    """
    path = _find(name)
    content, folder = _read(path)
    try:
        return Profile(name=path.stem, folder=folder, **content)
    except TypeError:
        raise InputError(f"profile {path} must not set its name or folder, and its keys must be words.") from None
    except ValidationError as error:
        raise InputError(f"profile {path.name}: {_first_problem(error)}") from None


def _find(name: str | os.PathLike) -> Path:
    path = Path(str(name))
    if path.suffix in (".yaml", ".yml"):
        return path
    if str(name) not in profile_names():
        raise InputError(
            f"there is no profile {str(name)!r}; there are {', '.join(profile_names())}, or give a YAML file."
        )
    return FOLDER / f"{name}.yaml"


class _Loader(yaml.SafeLoader):
    """YAML in which a repeated key is an error; else PyYAML would keep its last value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]  # 1 and 1.0 are one key
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]} is said twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _read(path: Path, above: Sequence[Path] = ()) -> tuple[dict[str, Any], Path]:
    """A file's content, merged over that of its `base`, and the folder where its list of photographs is."""
    if path in above:
        raise InputError(f"profile {path} builds on itself.")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"profile {path} cannot be read: {error}.") from error
    except yaml.YAMLError as error:
        raise InputError(f"profile {path} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise InputError(f"profile {path} must be a mapping of keys to values.")
    base = content.pop("base", None)
    if base is None:
        return content, path.parent
    is_file = Path(str(base)).suffix in (".yaml", ".yml")
    below, folder = _read(_find(path.parent / str(base) if is_file else str(base)), [*above, path])
    photographs = content.get("photographs")
    listed = isinstance(photographs, dict) and "names" in photographs
    return _over(below, content), path.parent if listed else folder


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Both merged: the values of `above` win, and mappings that are in both are merged key by key."""
    joined = {
        key: _over(below[key], value) if isinstance(value, dict) and isinstance(below.get(key), dict) else value
        for key, value in above.items()
    }
    return below | joined


def _first_problem(error: ValidationError) -> str:
    errors = error.errors()
    path = errors[0]["loc"]
    # Where several types are right, each has its error, which ends in its name, or those of its parts.
    if (path[-1], errors[0]["type"]) in (("bool", "bool_type"), ("str", "string_type")):
        errors = [each for each in errors if each["loc"][: len(path) - 1] == path[:-1]]
        deepest = max(len(each["loc"]) for each in errors)
        errors = [each for each in errors if len(each["loc"]) == deepest]
        path = errors[0]["loc"][:-1]
    first = errors[0]
    path = [str(each) for each in path if "[" not in str(each)]  # list[...] is a type, too
    at = ".".join(path)
    if first["type"] == "missing":
        return f"{at} is missing."
    if first["type"] == "value_error":  # a sentence of ours
        return f"{at}: {first['ctx']['error']}"
    if first["type"] != "extra_forbidden":
        return f"{at} is {first['input']!r}: {' or '.join(each['msg'].lower() for each in errors)}."
    known = _known_keys(path[:-1])
    return f"unknown key {at!r}{nearest(path[-1], known)}; there are {', '.join(known)}."


def _known_keys(section: Sequence[str]) -> list[str]:
    """The keys that a section may have, by the section's path in the profile."""
    model = Profile
    for name in section:
        annotation = model.model_fields[name].annotation  # a section's class, or its union with None
        model = next(each for each in (annotation, *get_args(annotation)) if hasattr(each, "model_fields"))
    return [name for name in model.model_fields if name not in ("name", "folder")]
