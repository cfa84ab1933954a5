"""One notebook on its way to the site: computed, cleaned for readers, or replaced by a note when it fails."""

import base64
import json
import re
import sys
from collections.abc import Awaitable, Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

CHUNK = re.compile(r'(?P<element><script type="text/plain" id="(?P<name>chunk-\w+)".*?</script>)\n', re.S)
"""An array as `explorer.widget.chunk_element` writes it."""


def compute(source: Path, target: Path, parameter: str, profile: str) -> None:
    """Run a notebook; `target` appears only if every cell ran.

    Args:
        source: a notebook without outputs.
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
            return super().start_kernel(stderr=log, **options)

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


def split_chunks(page: Path, folder: Path) -> None:
    """Move the arrays of a page's explorers out of it, each into a script of its own.

    A reader then fetches what is looked at, and no more. Scripts, because `file://` forbids to fetch data.

    Args:
        page: a computed notebook, which is written anew.
        folder: gets `NAME.js` for each array that an explorer of the page asks for by this name.
    """
    notebook = nbformat.read(page, 4)
    outputs = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    explorers = [data for data in outputs if 'class="explorer"' in data.get("text/html", "")]
    for data in explorers:
        folder.mkdir(parents=True, exist_ok=True)
        for element, name in CHUNK.findall(data["text/html"]):
            code = f"document.head.insertAdjacentHTML('beforeend', {json.dumps(element)});\n"
            (folder / f"{name}.js").write_text(code, encoding="utf-8")
        data["text/html"] = CHUNK.sub("", data["text/html"])
    if explorers:
        nbformat.write(notebook, page)


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
Its notebook stopped with an error in this build (profile {profile}), so there is nothing to show:

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


def front_picture(pages: Iterable[Path]) -> bytes:
    """The JPEG that a cell tagged `front-page` computed, or one that says that there is none."""
    for page in pages:
        for cell in nbformat.read(page, 4).cells:
            if "front-page" in _tags(cell):
                for output in cell.get("outputs", []):
                    if "image/jpeg" in output.get("data", {}):
                        return base64.b64decode(output.data["image/jpeg"])
    return _placeholder()


def _clean(notebook: NotebookNode, profile: str) -> NotebookNode:
    """No injected cell, no progress bars or warnings, no paths and times of this machine."""
    notebook.cells = [cell for cell in notebook.cells if "injected-parameters" not in _tags(cell)]
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if "parameters" in _tags(cell):
            cell.source = re.sub(r'(?m)^profile = ".*?"', f'profile = "{profile}"', cell.source)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    for key in ("papermill", "widgets"):
        notebook.metadata.pop(key, None)
    return notebook


def _tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def _placeholder() -> bytes:
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (1200, 360), "#f2f2f0")
    words = "This picture could not be computed in this build."
    ImageDraw.Draw(picture).text((600, 180), words, "#555555", ImageFont.load_default(32), anchor="mm")
    stream = BytesIO()
    picture.save(stream, "JPEG")
    return stream.getvalue()
