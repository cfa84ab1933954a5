"""The experiments of a profile: its games, as they are played, and as a page shows them."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from perceptual_lib.core.errors import InputError
from perceptual_lib.evaluation.experiment import Experiment
from perceptual_lib.evaluation.games import GAMES, STORE
from perceptual_lib.evaluation.profile import Profile
from perceptual_lib.evaluation.publishing import Results, load_results
from perceptual_lib.evaluation.sections import ClassifierSection
from perceptual_lib.evaluation.tables import OURS
from perceptual_lib.methods import find_method
from perceptual_lib.runs.executors import Executor, Local, all_of_this_machine


def find_game(name: str) -> type[Experiment]:
    """A game by its name. Raises InputError for an unknown one."""
    if name not in GAMES:
        raise InputError(f"there is no experiment {name!r}; there are {', '.join(GAMES)}.")
    return getattr(import_module(f"{__package__}.{name}.experiment"), GAMES[name])


@contextmanager
def experiments_of(
    profile: Profile,
    make_executor: Callable[[Mapping[str, Any]], Executor],
    store: Path = STORE,
    *,
    names: Sequence[str] = (),
    limit: int | None = None,
    only: Sequence[str] = (),
) -> Iterator[list[Experiment]]:
    """A profile's experiments. Those that explain the same network share an executor, which is closed with the context.

    They can be used afterwards: they then read the store, and compute in this process what it lacks. `make_executor`
    makes an executor from the arguments of `load_classifier`; `names` selects experiments; the rest is as for
    `Experiment`. Raises InputError for an unknown experiment, if there is none, or none
    with one of the methods, and as `Experiment` does.
    """
    for method in only:
        find_method(method)  # raises what is wrong with its name
    asked = " or ".join(names) or "experiment"
    names = names or [name for name in profile.games if not only or set(only) & _methods_of(profile, name)]
    kinds = [find_game(name) for name in names]
    played = {method for name in names if name in profile.games for method in _methods_of(profile, name)}
    absent = [method for method in only if method not in played]
    if absent or not kinds:
        raise InputError(f"profile {profile.name} has no {asked} with {' or '.join(absent) or 'any method'}.")
    executors: dict[ClassifierSection, Executor] = {}
    experiments: list[Experiment] = []
    try:
        for kind in kinds:
            if (classifier := kind.classifier(profile)) not in executors:
                executors[classifier] = make_executor(classifier.model_dump())
            experiments.append(kind(profile, store, executors[classifier], limit=limit, only=only))
        yield experiments
    finally:
        for executor in executors.values():
            executor.close()
        for experiment in experiments:
            experiment.run.executor = Local(experiment.classifier(profile).model_dump())


def _methods_of(profile: Profile, game: str) -> set[str]:
    """The methods of a game's table, and those tried with ranges of layers."""
    section = getattr(profile, game)
    return {*section.methods, *(find_game(game).range_methods if getattr(section, "ranges", 0) else ())}


def play(
    profile: Profile, root: str | os.PathLike, *names: str, role: str = "table"
) -> list[tuple[Experiment, list[Results]]]:
    """Complete games of a profile in the clone `root`, and return each with the runs that a page shows of it.

    These are the profile's own run and one of the published runs in its `beside`: the first that has our method and
    more than half of all methods that these runs have in this role, or else the first that has our method, as a run may
    be published row by row. The run with more pictures comes first: a page takes its findings from that. Without names,
    all games of the profile. Raises InputError as `experiments_of` does, and if no such run has a game.
    """
    title, played = f"this book's own run, of the profile {profile.name}", []
    with experiments_of(profile, all_of_this_machine, Path(root, STORE), names=names) as experiments:
        for experiment in experiments:
            experiment.complete()
        for experiment in experiments:  # while its workers live: the manifest asks them for their machine
            runs = [Results(title, experiment.table, experiment.manifest)]
            if folders := [Path(root, "results", name) for name in profile.beside or ()]:
                with_it = [folder for folder in folders if (folder / f"{experiment.name}.json").exists()]
                published = [load_results(folder, experiment.name) for folder in with_it or folders[-1:]]
                methods = [set(run.table.method[run.table.role == role]) for run in published]
                fit = [OURS in each and 1 + (2 * len(each) > len(set.union(*methods))) for each in methods]
                runs.append(published[fit.index(max(fit))])
            played.append((experiment, sorted(runs, key=lambda run: run.n, reverse=True)))
    return played
