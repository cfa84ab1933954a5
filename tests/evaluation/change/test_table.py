"""The table of changes, from lines worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from perceptual_lib.evaluation.change.table import change_table


def test_what_a_change_is_like() -> None:
    about = {"role": "table", "method": "perceptual", "failure": "", "area": 0.5, "spread": 0.25}
    lines = [
        about | {"margin": 0.0, "size": 0.0, "inside": 0.2},  # on the edge the class has gone; no size is 0.01
        about | {"margin": 2.0, "size": 8.5, "inside": 0.4},
        about | {"margin": -1.0, "size": 1.0, "inside": 0.6},
        about | {"margin": -1.0, "size": 1.0, "inside": 0.8},
        about | {"margin": np.nan, "size": np.nan, "inside": np.nan, "failure": "lost"},
        about | {"margin": -9.0, "size": 99.0, "inside": 1.0, "role": "range"},
    ]
    [found] = change_table(pd.DataFrame(lines)).to_dict("records")
    assert (found["n"], found["failed"]) == (4, 1)
    values = {name: found[name].value for name in ("flipped", "inside", "area", "visible", "spread", "size")}
    mean = (0.01 * 8.5 * 1 * 1) ** (1 / 4)
    expected = {"flipped": 0.75, "inside": 0.5, "area": 0.5, "visible": 0.25, "spread": 0.25, "size": mean}
    assert values == pytest.approx(expected)
