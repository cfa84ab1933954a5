"""The table of what the paper leaves open names what there is, and says what a profile does."""

import pytest

from perceptual_lib import load_profile
from perceptual_lib.book.choices import TASKS, choices
from perceptual_lib.evaluation.games import GAMES
from perceptual_lib.evaluation.profile import profile_names
from perceptual_lib.evaluation.sections import InsertionDeletion


@pytest.mark.parametrize("name", profile_names())
def test_every_question_is_answered_for_every_profile(name: str) -> None:
    profile = load_profile(name)
    settings, table = profile.settings, choices(profile).set_index("question")
    game = profile.insertion_deletion or InsertionDeletion()
    assert list(table) == ["paper", "authors", "ours"] and table.index.is_unique and (table.ours != "").all()
    assert table.ours["T"] == f"{settings['margin_target']:g}"
    assert table.ours["Step of insertion and deletion"].startswith(f"{game.step} pixels")
    assert table.ours["Weights of the layers"].endswith("yes" if settings["normalize_layers"] else "no")


def test_the_profile_paper_has_the_papers_settings() -> None:
    profile = load_profile("paper")
    for task in TASKS:
        assert task["game"] in GAMES
        if task["game"] != "pointing":
            own = profile.settings | getattr(profile, task["game"]).settings.get(task["method"], {})
            assert own["layers"] == task["layers"]
            assert [own["margin_target"], own["layer_weight"], own["pixel_weight"]] == [
                task["T"],
                task["lambda'"],
                task["lambda"],
            ]
    pointing = [task["layers"] for task in TASKS if task["game"] == "pointing"]
    assert list(profile.pointing.layers.values()) == pointing
