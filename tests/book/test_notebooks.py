"""The notebooks are sources: without outputs, with parameters, and each opens alone, on Colab or anywhere."""

import re
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


def code_cells(path: Path) -> list[NotebookNode]:
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_a_source(path: Path) -> None:
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    assert notebook.metadata.kernelspec.name == "python3"
    assert [cell.source for cell in code_cells(path) if cell.outputs or cell.execution_count] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_takes_a_profile(path: Path) -> None:
    parameters = [cell.source for cell in code_cells(path) if "parameters" in tags(cell)]
    assert len(parameters) == 1 and parameters[0].startswith('profile = "demo"')


def test_all_notebooks_fetch_what_they_need_in_the_same_first_cell() -> None:
    first = [code_cells(path)[0] for path in NOTEBOOKS]
    assert len({cell.source for cell in first}) == 1 and "git clone" in first[0].source
    assert all(tags(cell) == ["remove-cell"] for cell in first)


def test_two_cells_make_the_figure_and_the_headline_of_the_front_page() -> None:
    made = [cell.source for path in NOTEBOOKS for cell in code_cells(path) if "front-page" in tags(cell)]
    assert ["HeldPlayer(" in source for source in made] == [True, False] and "Markdown(" in made[1]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_maps_are_asked_for_by_name(path: Path) -> None:
    """Those of all photographs of the paper's profile are many gigabytes."""
    source = "\n".join(cell.source for cell in code_cells(path))
    of_all = re.findall(r"experiment\.maps\([^,()]+(?:\)|, \w+=)", source)
    assert of_all == [] or "limit=few" in source
