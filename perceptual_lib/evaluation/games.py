"""What a profile's experiments are: profile -> pieces -> shards -> tables with manifests."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perceptual_lib.core.errors import InputError
from perceptual_lib.evaluation.change.experiment import Change
from perceptual_lib.evaluation.experiment import STORE, Experiment
from perceptual_lib.evaluation.insertion_deletion.experiment import InsertionDeletion
from perceptual_lib.evaluation.localization.experiment import Localization
from perceptual_lib.evaluation.pointing.experiment import Pointing
from perceptual_lib.evaluation.profile import EXPERIMENTS, ExperimentSection, Profile
from perceptual_lib.evaluation.publishing import describe_run, load_results, publish
from perceptual_lib.evaluation.randomization.experiment import Randomization
from perceptual_lib.runs.executors import Executor

__all__ = [
    "STORE",
    "Change",
    "Experiment",
    "InsertionDeletion",
    "Localization",
    "Pointing",
    "Randomization",
    "describe_run",
    "experiments_of",
    "publish",
    "load_results",
]

KINDS: dict[str, type[Experiment]] = {
    kind.name: kind for kind in (Localization, InsertionDeletion, Pointing, Randomization, Change)
}


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
    """A profile's experiments; those that explain the same network have one executor, which ends with the context.

    Args:
        profile: what is computed.
        make_executor: from the arguments of `load_classifier` to what computes.
        store, limit, only: as for `Experiment`.
        names: only these experiments; none for all that the profile has.

    Raises:
        InputError: an experiment that there is not, or that the profile lacks; a profile without any; and as for
            `Experiment`.
    """
    if unknown := [name for name in names if name not in KINDS]:
        raise InputError(f"there is no experiment {unknown[0]!r}; there are {', '.join(KINDS)}.")
    names = names or [name for name in EXPERIMENTS if _concerns(getattr(profile, name), only)]
    if not names:
        raise InputError(f"profile {profile.name} has no experiment with {' or '.join(only) or 'any method'}.")
    executors: dict[str, Executor] = {}
    try:
        experiments = []
        for name in names:
            classifier = KINDS[name].classifier(profile)
            key = classifier.model_dump_json()
            if key not in executors:
                executors[key] = make_executor(classifier.model_dump())
            experiments.append(KINDS[name](profile, store, executors[key], limit=limit, only=only))
        yield experiments
    finally:
        for executor in executors.values():
            executor.close()


def _concerns(section: ExperimentSection | None, methods: Sequence[str]) -> bool:
    """Whether the section is there and has one of the methods, if any are named."""
    return section is not None and (not methods or not set(methods).isdisjoint(section.methods))
