"""A piece of work, and the key that its result is kept under: a hash of everything that determines it."""

import ast
import hashlib
import importlib.util
import inspect
import json
import platform
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from perceptual_lib.core.errors import InputError

PACKAGE = __package__.split(".")[0]
PACKAGES = ("torch", "torchvision", "timm", "numpy", "scipy", "numba", "pillow", "captum")
"""Those whose version can change a shard. Tables, figures and pages depend on more."""


class Picture(Protocol):
    """An image that shards are made of: a `Photograph`, or a picture composed of several."""

    name: str  # its identity
    files: tuple[Path, ...]  # the files that it is made of, in order
    size: tuple[int, int] | None  # (width, height) in pixels, None where it is not known before it is opened
    upright: bool  # whether it is opened upright, and not as stored

    def open(self) -> Image.Image:
        """The picture in RGB; raises InputError if it cannot be read."""


@dataclass(frozen=True, eq=False)
class Shard:
    """One piece of work."""

    kind: str  #: module whose `compute(classifier, pictures, **arguments)` does the work
    arguments: Mapping[str, Any]  #: JSON values, keyword arguments of `compute`
    photographs: tuple[Picture, ...]  #: the images
    looks: bool = True  #: whether `compute` looks at the pictures; else it gets "" for each
    needs: "Shard | None" = None  #: the shard of the same images whose arrays `compute` gets as `needed`
    label: str = ""  #: what progress and status call it
    passes: tuple[int, int] = (0, 0)  #: of the network for one image, forward and backward

    @property
    def cost(self) -> float:
        """The cost in forward passes. A backward pass counts as two, and so does an image's scoring."""
        forward, backward = self.passes
        return len(self.photographs) * (forward + 2 * backward + 2)

    def key(self, network: Mapping[str, Any]) -> str:
        """Hash of everything that determines the result; `network` is `Worker.identity`."""
        modules = {self.kind, *(type(each).__module__ for each in self.photographs)}
        if "method" in self.arguments:
            from perceptual_lib.methods import find_method

            modules.add(find_method(self.arguments["method"]).function.__module__)
        parts = {
            "kind": self.kind,
            "arguments": self.arguments,
            "photographs": [(each.name, digest(each), each.upright) for each in self.photographs],
            "network": network,
            "needs": self.needs and self.needs.key(network),
            "code": code_digest(*modules),
            "versions": versions(),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@cache
def versions() -> Mapping[str, str]:
    """Versions of Python and the packages that can change a shard; "none" for a package that is not installed.

    Python's is without the patch level, which changes no number and would invalidate days of work.
    """
    found = {name: next((each.version for each in metadata.distributions(name=name)), "none") for name in PACKAGES}
    return {"python": ".".join(platform.python_version_tuple()[:2]), **found}


def digest(picture: Picture) -> str:
    """SHA-256 of a picture's file, or, for several files, of their hashes and the size of the picture made of them.

    "unreadable" if a file cannot be read, so that this failure has a key of its own.
    """
    try:
        states = [(path, path.stat()) for path in picture.files]
        digests = [_file_digest(path, state.st_size, state.st_mtime_ns) for path, state in states]
    except OSError:
        return "unreadable"
    return digests[0] if len(digests) == 1 else hashlib.sha256(repr((digests, picture.size)).encode()).hexdigest()


@cache
def _file_digest(path: Path, size: int, time_ns: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def code_digest(*modules: str) -> str:
    """Hash of the code of these modules and of those of this package that they import.

    Comments and strings that stand alone do not count. A notebook is a module without a file: of its code, the
    explanation methods defined in it are hashed, but not what they call. Raises InputError for a method without a
    source, such as one made by `exec`.
    """
    parts = [(name, _typed_methods(name) if _file(name) is None else _filed_digest(name)) for name in modules]
    return hashlib.sha256(repr(sorted(parts)).encode()).hexdigest()


@cache
def _filed_digest(module: str) -> str:
    """Hash of a module with a file and all that it imports; cached, as it is asked for many times for each shard."""
    sources: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in sources and (path := _file(name)) is not None:
            sources[name], imported = _read_module(name, path)
            waiting += imported
    return hashlib.sha256(repr(sorted(sources.items())).encode()).hexdigest()


def _file(module: str) -> Path | None:
    if module == "__main__":  # a script has a file but no specification
        origin = getattr(sys.modules[module], "__file__", None)
    else:
        spec = importlib.util.find_spec(module)
        origin = spec.origin if spec is not None and spec.has_location else None
    return origin and Path(origin)


def _typed_methods(module: str) -> str:
    """The code of the explanation methods that are defined in a module without a file."""
    from perceptual_lib.methods import METHODS

    functions = [method.function for method in METHODS.values() if method.function.__module__ == module]
    try:
        trees = [ast.parse(textwrap.dedent(inspect.getsource(function))) for function in functions]
    except OSError:
        raise InputError(f"a method of {module} has no source to tell its versions by; define it in a file.") from None
    return "".join(_does(tree) for tree in trees)


_read: dict[tuple[str, Path], tuple[int, str]] = {}
"""Modules: when their files were changed last, and what they did then."""


@cache
def _read_module(name: str, path: Path) -> tuple[str, tuple[str, ...]]:
    """A module's code, and the modules of this package that it imports; a file is read once in a process."""
    changed, tree = path.stat().st_mtime_ns, ast.parse(path.read_text("utf-8"))
    does = _does(tree)
    _read[name, path] = changed, does
    return does, tuple(_own_imports(tree, name))


def check_code() -> None:
    """Raise InputError if a module's code has changed since its digest was taken. Workers that start later would run
    the changed file, and their results would be kept under the keys of the old code."""
    for (name, path), (changed, does) in _read.items():
        try:
            if path.stat().st_mtime_ns == changed:
                continue
            now = _does(ast.parse(path.read_text("utf-8")))
        except (OSError, SyntaxError):  # half written, or being replaced
            now = None
        if now != does:
            raise InputError(f"{name} was changed while this run went on; run the same command again.")


def _own_imports(tree: ast.AST, importer: str, wanted: set[str] | None = None) -> Iterator[str]:
    """Modules of this package that a tree imports, for `wanted` names only. A package's imports may be relative."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            if wanted is None or names & wanted:
                yield from _behind(importlib.util.resolve_name("." * node.level + (node.module or ""), importer), names)
        elif isinstance(node, ast.Import):  # any of its names may be used; `import a.b` gives `a`, too
            for module in {part for alias in node.names for part in (alias.name, alias.name.partition(".")[0])}:
                yield from _behind(module, None)


def _behind(module: str, names: set[str] | None) -> Iterator[str]:
    """A module of this package, and those that its names (None for all) come from; nothing for another package."""
    if module.partition(".")[0] == PACKAGE:
        yield module
        if (file := _file(module)).stem == "__init__":
            yield from (f"{module}.{name}" for name in names or ())  # some are modules
            if (stub := file.with_suffix(".pyi")).exists():  # and some are loaded from modules when they are used
                yield from _own_imports(ast.parse(stub.read_text("utf-8")), module, names)


class _Strings(ast.NodeTransformer):
    """Takes out strings that stand alone: docstrings, and what is said of a name below it."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        said = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if said else node


def _does(tree: ast.Module) -> str:
    """What code does, without what it says."""
    return ast.dump(_Strings().visit(tree))
