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
    """What a shard can be of: a `Photograph`, or a picture made of several."""

    name: str  # its identity
    files: tuple[Path, ...]  # what it is made of, in order
    size: tuple[int, int] | None  # (width, height) in pixels, None where it is not known before it is opened
    upright: bool  # whether it is opened upright, and not as stored

    def open(self) -> Image.Image:
        """In RGB; raises InputError where that cannot be."""


@dataclass(frozen=True, eq=False)
class Shard:
    """One piece of work."""

    kind: str  #: module whose `compute(classifier, pictures, **arguments)` does it
    arguments: Mapping[str, Any]  #: JSON values, keyword arguments of `compute`
    photographs: tuple[Picture, ...]  #: the images
    looks: bool = True  #: whether `compute` looks at the pictures; else it gets "" for each
    needs: "Shard | None" = None  #: the shard of the same images whose arrays `compute` gets as `needed`
    label: str = ""  #: what progress and status call it
    passes: tuple[int, int] = (0, 0)  #: of the network for one image, forward and backward

    @property
    def cost(self) -> float:
        """In forward passes. A backward pass takes about two, and so does what is not the network's: scoring."""
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
    """Of Python and the packages that can change a shard; "none" for one that is not installed.

    Of Python without the patch level, which changes no number and would cost days of work.
    """
    found = {name: next((each.version for each in metadata.distributions(name=name)), "none") for name in PACKAGES}
    return {"python": ".".join(platform.python_version_tuple()[:2]), **found}


def digest(picture: Picture) -> str:
    """SHA-256 of the file, or of those of several and the size of the picture that they are put into.

    "unreadable" where one is not there, so that its failure has a key of its own.
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
    """Hash of what these modules, and those of this package that they import, do: comments and docstrings left out.

    A notebook is a module without a file: the explanation methods that are defined in it stand for it, but not what
    they call. Raises InputError for a method without a source, such as one made by `exec`.
    """
    parts = [(name, _typed_methods(name) if _file(name) is None else _filed_digest(name)) for name in modules]
    return hashlib.sha256(repr(sorted(parts)).encode()).hexdigest()


@cache
def _filed_digest(module: str) -> str:
    """Of a module with a file and of all that it imports; asked for many times for each shard."""
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
    """What the methods do that are defined in a module without a file."""
    from perceptual_lib.methods import METHODS

    functions = [method.function for method in METHODS.values() if method.function.__module__ == module]
    try:
        trees = [ast.parse(textwrap.dedent(inspect.getsource(function))) for function in functions]
    except OSError:
        raise InputError(f"a method of {module} has no source to tell its versions by; define it in a file.") from None
    return "".join(ast.dump(_without_docstrings(tree)) for tree in trees)


_read: dict[tuple[str, Path], tuple[int, str]] = {}
"""Modules: when their files were changed last, and what they did then."""


@cache
def _read_module(name: str, path: Path) -> tuple[str, tuple[str, ...]]:
    """What a module does, and what of this package it imports; a file is read once in a process."""
    changed, tree = path.stat().st_mtime_ns, ast.parse(path.read_text("utf-8"))
    does = ast.dump(_without_docstrings(tree))
    _read[name, path] = changed, does
    return does, tuple(_own_imports(tree, name))


def check_code() -> None:
    """Raise InputError where a module does something else than when its digest was taken: workers that start later
    compute by what its file says then, and results would be kept under keys of what it was."""
    for (name, path), (changed, does) in _read.items():
        try:
            if path.stat().st_mtime_ns == changed:
                continue
            now = ast.dump(_without_docstrings(ast.parse(path.read_text("utf-8"))))
        except (OSError, SyntaxError):  # half written, or being replaced
            now = None
        if now != does:
            raise InputError(f"{name} was changed while this run went on; run the same command again.")


def _own_imports(tree: ast.AST, importer: str, wanted: set[str] | None = None) -> Iterator[str]:
    """Modules of this package that are imported, for `wanted` names only. Imports from a package may be relative."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            if wanted is None or names & wanted:
                yield from _behind(importlib.util.resolve_name("." * node.level + (node.module or ""), importer), names)
        elif isinstance(node, ast.Import):  # of which any name may be used; `import a.b` gives `a`, too
            for module in {part for alias in node.names for part in (alias.name, alias.name.partition(".")[0])}:
                yield from _behind(module, None)


def _behind(module: str, names: set[str] | None) -> Iterator[str]:
    """A module of this package, and those that it gives these names of, all names where None; nothing of another's."""
    if module.partition(".")[0] == PACKAGE:
        yield module
        if (file := _file(module)).stem == "__init__":
            yield from (f"{module}.{name}" for name in names or ())  # some are modules
            if (stub := file.with_suffix(".pyi")).exists():  # and some loaded from modules when they are used
                yield from _own_imports(ast.parse(stub.read_text("utf-8")), module, names)


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return tree
