"""The games of a profile: which are played, on whose executor, and what is asked of them afterwards."""

import numpy as np
import pytest
from stand_ins import Layered, Small, small_profile

from perceptual_lib.core.errors import InputError
from perceptual_lib.evaluation import experiments
from perceptual_lib.evaluation.experiments import experiments_of
from perceptual_lib.evaluation.profile import Profile
from perceptual_lib.runs.executors import Local


def everything() -> Profile:
    return small_profile(
        localization={"methods": ["gradient", "perceptual"], "sigmas": [0.0]},
        pointing={"methods": ["center"], "classifier": {"model": "another"}},
        change={},
    )


class Noted(Local):
    """Says when it is closed."""

    closed = False

    def close(self) -> None:
        self.closed = True


def test_experiments_share_maps(tmp_path, of_profiles) -> None:
    methods = ["gradient", "perceptual"]
    both = small_profile(
        localization={"pictures": 5, "methods": methods, "sigmas": [0.0], "selection": 2},
        insertion_deletion={"pictures": 5, "methods": methods, "step": 12544},
    )
    with experiments_of(both, lambda _: Local({"model": Layered()}), tmp_path / "store") as experiments:
        states = []
        for experiment in experiments:
            experiment.run.report = lambda shard, state: states.append((shard.kind, state))
            experiment.complete()
    finished = [kind for kind, state in states if state == "finished"]
    assert {kind: finished.count(kind) for kind in finished} == {
        "perceptual_lib.evaluation.maps": 2 * 2,
        "perceptual_lib.evaluation.localization.protocol": 4,
        "perceptual_lib.evaluation.insertion_deletion.protocol": 4,
    }


def test_experiments_on_one_network_share_its_executor(tmp_path, of_profiles) -> None:
    executors = {}

    def make_executor(classifier) -> Noted:
        assert classifier["model"] not in executors
        return executors.setdefault(classifier["model"], Noted({"model": Small()}))

    with experiments_of(everything(), make_executor, tmp_path, limit=1) as experiments:
        assert [experiment.name for experiment in experiments] == ["change", "localization", "pointing"]
        assert list(executors) == ["efficientnet_lite0", "another"]
        assert experiments[0].run.executor is experiments[1].run.executor is executors["efficientnet_lite0"]
        assert {len(experiment.pictures) for experiment in experiments} == {1}
        assert not any(executor.closed for executor in executors.values())
    assert all(executor.closed for executor in executors.values())


def test_executors_end_also_with_an_error(tmp_path, of_profiles) -> None:
    executors = []

    def make_executor(section) -> Noted:
        executors.append(Noted({"model": Small()}))
        return executors[-1]

    with (
        pytest.raises(InputError, match="mine has no insertion_deletion: add that section"),
        experiments_of(everything(), make_executor, tmp_path, names=["change", "insertion_deletion"]),
    ):
        raise AssertionError
    assert [executor.closed for executor in executors] == [True]


@pytest.mark.parametrize(
    ("only", "names"),
    [(["center"], ["pointing"]), (["perceptual"], ["change", "localization"]), (["no_perceptual"], ["change"])],
)
def test_only_names_the_experiments_too(tmp_path, of_profiles, only, names) -> None:
    with experiments_of(everything(), lambda _: Local({"model": Small()}), tmp_path, only=only) as experiments:
        assert [experiment.name for experiment in experiments] == names
        methods = {about["method"] for experiment in experiments for about, _ in experiment.pieces}
        assert methods == set(only)


@pytest.mark.parametrize(
    ("settings", "arguments", "message"),
    [
        (everything(), {"names": ["pointing", "painting"]}, "no experiment 'painting'; there are change, localization"),
        (everything(), {"only": ["rise"]}, "mine has no experiment with rise"),
        (small_profile(), {}, "mine has no experiment with any method"),
    ],
)
def test_nothing_to_compute_is_one_sentence(tmp_path, of_profiles, settings, arguments, message) -> None:
    def make_executor(section) -> Local:
        raise AssertionError("nothing is loaded for nothing")

    with (
        pytest.raises(InputError, match=message),
        experiments_of(settings, make_executor, tmp_path, **arguments),
    ):
        raise AssertionError


def test_maps_are_there_when_the_executor_is_not(tmp_path, of_profiles, monkeypatch) -> None:
    """What a page looks at after its experiment: from the store, and where that has lost it from this process."""
    settings = small_profile(localization={"methods": ["gradient"], "sigmas": [0.0]}, classifier={"model": "mine"})
    local = Noted({"model": Small()})
    monkeypatch.setattr(experiments, "Local", lambda classifier: Local({"model": Small()}))
    with experiments_of(settings, lambda _: local, tmp_path, limit=1) as [experiment]:
        experiment.complete()
    monkeypatch.setattr(local, "submit", None)
    before = experiment.maps("gradient")["0"]
    for file in tmp_path.glob("??/*.npz"):
        file.unlink()
    assert np.array_equal(experiment.maps("gradient")["0"], before) and experiment.run.ask("machine")
