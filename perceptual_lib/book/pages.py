"""One notebook on its way to the site: computed, cleaned for readers, or replaced by a note when it fails."""

import os
import re
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode


def compute(source: Path, target: Path, parameter: str, profile: str) -> None:
    """Run a notebook; `target` appears only if every cell ran.

    Args:
        source: a notebook without outputs, in a folder of the clone.
        target: its computed copy.
        parameter: what the notebook gets as `profile`.
        profile: the profile's name, for the readers.

    Raises:
        Exception: whatever stopped it, as papermill reports it.
    """
    import papermill  # takes a second to import, and is often not needed
    from jupyter_client.manager import AsyncKernelManager

    class LoggedKernel(AsyncKernelManager):
        """What the kernel says of itself (its transport, its shutdown) is not for the terminal."""

        def start_kernel(self, **options: Any) -> Awaitable[None]:
            return super().start_kernel(stderr=log, env=environment(source.parents[1]), **options)

    running = target.parent / "running" / source.name
    running.parent.mkdir(parents=True, exist_ok=True)
    with running.with_suffix(".log").open("w") as log:
        papermill.execute_notebook(
            source,
            running,
            {"profile": parameter},
            kernel_name="python3",
            kernel_manager_class=LoggedKernel,
            language="python",
            cwd=source.parent,
            progress_bar=sys.stderr.isatty(),
            request_save_on_cell_execute=False,
            autosave_cell_every=0,
        )
    nbformat.write(_clean(nbformat.read(running, 4), profile), running)
    running.replace(target)


def environment(root: Path) -> dict[str, str]:
    """That of a process which imports the library of this clone, wherever another one may be installed."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))}


def reason(error: Exception) -> str:
    """The line that says what went wrong, as Python prints it at the end of a traceback."""
    name = getattr(error, "ename", type(error).__name__)
    words = str(getattr(error, "evalue", error)).strip()
    return f"{name}: {words.splitlines()[0]}" if words else name


def write_note(source: Path, note: Path, message: str, profile: str) -> None:
    """Write the page that stands in for a notebook that failed: its title, and what happened."""
    notebook = nbformat.read(source, 4)
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    title = re.search(r"(?m)^# .+", prose)
    text = f"""{title[0] if title else f"# {source.stem}"}

````{{admonition}} This section could not be computed
:class: danger
There is nothing to show of its notebook in this build (profile {profile}):

```text
{message}
```

The other sections do not depend on it. The next build tries it again.
````
"""
    cell = nbformat.v4.new_markdown_cell(text, id="note")  # not a random one: the same failure, the same page
    page = nbformat.v4.new_notebook(cells=[cell], metadata=notebook.metadata)
    note.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(page, note)


def _clean(notebook: NotebookNode, profile: str) -> NotebookNode:
    """No injected cell, no progress bars or warnings, no paths and times of this machine."""
    notebook.cells = [cell for cell in notebook.cells if "injected-parameters" not in tags(cell)]
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if "parameters" in tags(cell):
            cell.source = re.sub(r'(?m)^profile = ".*?"', f'profile = "{profile}"', cell.source)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    for key in ("papermill", "widgets"):
        notebook.metadata.pop(key, None)
    return notebook


def tags(cell: NotebookNode) -> list[str]:
    """Of a cell, such as "parameters"."""
    return cell.metadata.get("tags", [])
