"""What is published comes back."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from stand_ins import Layered, finished, small_profile

from perceptual_lib.core.errors import InputError
from perceptual_lib.evaluation import experiments
from perceptual_lib.evaluation.experiments import play
from perceptual_lib.evaluation.localization.experiment import Localization
from perceptual_lib.evaluation.profile import Profile
from perceptual_lib.evaluation.publishing import Results, load_all, load_results, publish, publish_rows
from perceptual_lib.runs.executors import Local


def test_what_is_published_comes_back(tmp_path, of_profiles) -> None:
    Image.new("RGB", (5, 5)).save(of_profiles[0].path)
    of_profiles[1].path.unlink()
    settings = small_profile(localization={"methods": ["gradient"], "sigmas": [0.0]})
    tried = finished(Localization, tmp_path, settings, limit=3)
    folder = tmp_path / "new" / "results"
    publish(tried.table, tried.manifest, folder)
    found = load_results(folder, "localization")
    table, manifest = found.table, found.manifest
    assert manifest["failures"] == tried.manifest["failures"] and len(manifest["failures"]) == 1
    pd.testing.assert_frame_equal(table.drop(columns="hits"), tried.table.drop(columns="hits"))
    for ours, theirs in zip(tried.table.hits, table.hits, strict=True):
        assert (ours is None and theirs is None) or np.array_equal(ours, theirs)
    assert ", 0 minutes of one worker, " in found.describe()
    unknown = Results("mine", table, manifest | {"seconds": None})
    assert "of one worker" not in unknown.describe()
    long = Results("mine", table, manifest | {"seconds": 5400})
    assert ", 1.5 hours of one worker, " in long.describe()
    assert list(load_all(folder)) == ["localization"] and load_all(folder)["localization"].manifest == manifest
    other = {"network": manifest["network"] | {"name": "another"}}, {"profile": manifest["profile"] | {"name": "yours"}}
    for changed in (*other, {"unfinished": 2}, {"experiment": "change"} | other[1]):
        with pytest.raises(
            InputError, match="publish into another folder|2 shards of localization are not computed yet"
        ):
            publish(table[:1], manifest | changed, folder)
    assert len(load_results(folder, "localization").table) == len(table) and not list(folder.glob("*.half"))
    with pytest.raises(InputError, match="no results of pointing in"):
        load_results(folder, "pointing")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        publish(table, manifest, tmp_path / "file")


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", "5", "null", '{"profile": "x"}', None])
def test_what_is_damaged_is_neither_read_nor_replaced(tmp_path, of_profiles, content) -> None:
    """None cuts off the table."""
    experiment = finished(Localization, tmp_path, small_profile(localization={"methods": ["center"]}))
    publish(experiment.table, experiment.manifest, tmp_path)
    file = tmp_path / ("localization.parquet" if content is None else "localization.json")
    file.write_bytes(file.read_bytes()[:99] if content is None else content.encode())
    for attempt in (
        lambda: load_results(tmp_path, "localization"),
        lambda: publish_rows(experiment, tmp_path),
        lambda: publish(experiment.table, experiment.manifest, tmp_path),
    )[: 2 if content is None else 3]:  # a whole manifest says whose the table was
        with pytest.raises(InputError, match=f"{file.name} is damaged"):
            attempt()


def by_row(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns="seconds").sort_values(["method", "settings", "photograph", "sigma"], ignore_index=True)


def test_a_run_is_published_row_by_row(tmp_path, of_profiles) -> None:
    Image.new("RGB", (5, 5)).save(of_profiles[0].path)
    of_profiles[1].path.unlink()
    settings = small_profile(
        localization={"methods": ["gradient", "center", "perceptual"], "ranges": 2, "granularity": "activation"}
    )
    whole = finished(Localization, tmp_path / "at once", settings)
    folder = tmp_path / "published"

    def run(at: str, *only: str) -> Localization:
        return Localization(settings, tmp_path / at, Local({"model": Layered()}), only=only)

    assert not publish_rows(run("here"), folder) and not folder.exists()
    [scores] = run("here", "gradient").shards[-1:]
    run("here").run.complete([scores])  # the last pictures of one method
    run("here", "center").complete()
    assert publish_rows(run("here"), folder)
    assert set(load_results(folder, "localization").table.method) == {"center"}
    assert [part["rows"] for part in load_results(folder, "localization").manifest["parts"]] == [["table center"]]
    (other := run("elsewhere", "gradient", "perceptual", "perceptual_guided")).complete()  # its store lacks the first
    publish_rows(other, folder)
    found = load_results(folder, "localization")
    pd.testing.assert_frame_equal(by_row(found.table.drop(columns="hits")), by_row(whole.table.drop(columns="hits")))
    parts = found.manifest["parts"]
    rows = ["table center", "table gradient", "table perceptual", "range perceptual", "range perceptual_guided"]
    assert [part["rows"] for part in parts] == [rows[:1], rows[1:]]
    assert found.manifest["seconds"] == sum(part["seconds"] for part in parts) and ", in 2 parts." in found.describe()
    assert by_failure(found.manifest) == by_failure(whole.manifest) and len(by_failure(whole.manifest)) > 3
    lost = run("here", "center")
    lost.run.store.path(lost.run.key(lost.shards[0])).unlink()  # maps of some pictures, of which the scores are there
    assert not publish_rows(run("here", "center"), folder)
    run("here", "center").complete()
    publish_rows(run("here", "center"), folder)  # again, in place of its rows
    assert [part["rows"] for part in load_results(folder, "localization").manifest["parts"]] == [rows[1:], rows[:1]]
    found = load_results(folder, "localization").table
    assert len(found) == len(whole.table)
    assert found.method.unique().tolist() == [*settings.localization.methods, "perceptual_guided"]  # the table's order


@pytest.mark.parametrize("later", [{"methods": ["center"], "ranges": 2}, {"methods": [], "ranges": 3}])
def test_a_run_of_ranges_may_be_extended(tmp_path, of_profiles, later) -> None:
    """What is said to differ from part to part decides which pictures are asked; they are drawn from the same ones."""
    folder = tmp_path / "published"
    for section in ({"methods": [], "ranges": 2}, later):
        settings = small_profile(localization={"sigmas": [0.0], "granularity": "activation"} | section)
        publish_rows(finished(Localization, tmp_path, settings), folder)
        found = load_results(folder, "localization")
        asked = found.table.photograph[found.table.role == "range"].nunique()
        assert asked == section["ranges"] and found.n == found.table.photograph.nunique()


def by_failure(manifest: dict) -> list[str]:
    return sorted(map(repr, manifest["failures"]))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"perturbation": {"layer_weight": 2.0, "layers": "0-0", "max_iter": 2}}, "with other perturbation"),
        ({"localization": {"methods": ["perceptual"], "sigmas": [1.0]}}, "with other sigmas"),
        (
            {"localization": {"methods": ["perceptual"], "sigmas": [0.0], "ranges": 4, "ranges_after": 2}},
            "with other ranges_after",
        ),
        ({"limit": 2}, "with other photographs"),
        ({"network": 1}, "with other weights"),
        ({"name": "another"}, "is of the profile mine"),
    ],
)
def test_rows_of_something_else_are_not_added(changed, message, tmp_path, of_profiles) -> None:
    settings = small_profile(localization={"methods": ["perceptual"], "sigmas": [0.0]})
    folder = tmp_path / "published"
    publish_rows(finished(Localization, tmp_path, settings), folder)
    before = load_results(folder, "localization").manifest
    arguments = {"limit": changed.pop("limit", None), "network": Layered(changed.pop("network", 0))}
    other = Profile(**settings.model_dump(exclude_defaults=True) | changed)
    with pytest.raises(InputError, match=message):
        publish_rows(finished(Localization, tmp_path / "other", other, **arguments), folder)
    assert load_results(folder, "localization").manifest == before


def test_the_run_with_more_pictures_comes_first(tmp_path, of_profiles, monkeypatch) -> None:
    monkeypatch.setattr(experiments, "all_of_this_machine", Local)  # no workers for so little
    settings = small_profile(change={"ranges": 0, "pictures": 2})
    [(experiment, alone)] = play(settings, tmp_path, "change")
    assert [run.title for run in alone] == [f"this book's own run, of the profile {settings.name}"]
    assert alone[0].n == len(experiment.pictures) and alone[0].table.equals(experiment.table)
    for published in (alone[0].n - 1, alone[0].n + 1):
        table = pd.concat([experiment.table, experiment.table.assign(photograph="another")])
        table = table[table.photograph.isin(table.photograph.unique()[-published:])]
        publish(table, experiment.manifest, tmp_path / "results" / "other")
        [(_, runs)] = play(settings.model_copy(update={"beside": ["none", "other"]}), tmp_path, "change")
        assert [run.n for run in runs] == sorted([alone[0].n, published], reverse=True)
        assert {run.title for run in runs} == {alone[0].title, "the published run other"}
    publish(experiment.table, experiment.manifest, tmp_path / "results" / "first")
    [(_, runs)] = play(settings.model_copy(update={"beside": ["first", "other"]}), tmp_path, "change")
    assert {run.title for run in runs} == {alone[0].title, "the published run first"}
    publish(experiment.table.assign(role="range"), experiment.manifest, tmp_path / "results" / "other")
    for role, shown in {"range": "other", "sweep": "first"}.items():
        [(_, runs)] = play(settings.model_copy(update={"beside": ["first", "other"]}), tmp_path, "change", role=role)
        assert {run.title for run in runs} == {alone[0].title, f"the published run {shown}"}
    publish(experiment.table, experiment.manifest, tmp_path / "results" / "other")
    one_row = experiment.table[experiment.table.method == "perceptual"]
    publish(one_row, experiment.manifest, tmp_path / "results" / "first")
    [(_, runs)] = play(settings.model_copy(update={"beside": ["first", "other"]}), tmp_path, "change")
    assert {run.title for run in runs} == {alone[0].title, "the published run other"}  # the first has half of the rows
    # Pages compare others with ours: a run that lacks it is not shown, however many others it has.
    rivals = experiment.table.assign(method=experiment.table.method.replace("perceptual", "rival"))
    many = pd.concat([rivals, *(rivals.assign(method=f"rival {n}") for n in range(5))])
    for published in (rivals, many):
        publish(published, experiment.manifest, tmp_path / "results" / "first")
        [(_, runs)] = play(settings.model_copy(update={"beside": ["first", "other"]}), tmp_path, "change")
        assert {run.title for run in runs} == {alone[0].title, "the published run other"}
    with pytest.raises(InputError, match="no results of change in .*none"):
        play(settings.model_copy(update={"beside": ["none"]}), tmp_path, "change")
