"""A piece of work, and the key that its result is kept under: a hash of everything that determines it."""

import ast
import hashlib
import importlib.util
import inspect
import json
import os
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
NUMERICS = ("torch", "torchvision", "timm", "numpy", "scipy")  # packages whose version can change a number


class Picture(Protocol):
    """What a shard can be of: a `Photograph`, or a picture made of several.

    Attributes:
        name: its identity.
        files: what it is made of, in order.
        size: (width, height) in pixels, None where it is not known before it is opened.
        upright: whether it is opened upright, and not as stored.
    """

    name: str
    files: tuple[Path, ...]
    size: tuple[int, int] | None
    upright: bool

    def open(self) -> Image.Image:
        """In RGB; raises InputError where that cannot be."""


@dataclass(frozen=True, eq=False)
class Shard:
    """One piece of work.

    Attributes:
        kind: module whose `compute(classifier, pictures, **arguments)` does it.
        arguments: JSON values, keyword arguments of `compute`.
        photographs: the images.
        looks: whether `compute` looks at the pictures; else it gets "" for each.
        needs: the shard of the same images whose arrays `compute` gets as `needed`.
        label: what progress and status call it.
        passes: of the network for one image, forward and backward.
    """

    kind: str
    arguments: Mapping[str, Any]
    photographs: tuple[Picture, ...]
    looks: bool = True
    needs: "Shard | None" = None
    label: str = ""
    passes: tuple[int, int] = (0, 0)

    @property
    def cost(self) -> float:
        """In forward passes. A backward pass takes about two, and so does what is not the network's: scoring."""
        forward, backward = self.passes
        return len(self.photographs) * (forward + 2 * backward + 2)

    def key(self, network: Mapping[str, Any]) -> str:
        """Hash of everything that determines the result; `network` is `Worker.identity`."""
        return self._key(network, {picture: digest(picture) for picture in self.photographs})

    def _key(self, network: Mapping[str, Any], digests: Mapping[Picture, str]) -> str:
        modules = [self.kind, *sorted({type(each).__module__ for each in self.photographs})]
        if "method" in self.arguments:
            from perceptual_lib.methods import find_method

            modules.append(find_method(self.arguments["method"]).function.__module__)
        parts = {
            "kind": self.kind,
            "arguments": self.arguments,
            "photographs": [
                (each.name, digests[each], *(["upright"] if each.upright else [])) for each in self.photographs
            ],
            "network": network,
            "needs": self.needs and self.needs._key(network, digests),
            "code": code_digest(*modules),
            "versions": versions(),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@cache
def versions() -> Mapping[str, str]:
    """Of Python and the packages whose version can change a number."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in NUMERICS}}


def digest(picture: Picture) -> str:
    """SHA-256 of the file, or of those of several and the size of the picture that they are put into.

    "unreadable" where one is not there, so that its failure has a key of its own.
    """
    try:
        digests = [_file_digest(path) for path in picture.files]
    except OSError:
        return "unreadable"
    return digests[0] if len(digests) == 1 else hashlib.sha256(repr((digests, picture.size)).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    state = os.stat(path)
    return _digest(path, state.st_size, state.st_mtime_ns)


@cache
def _digest(path: Path, size: int, time_ns: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def code_digest(*modules: str) -> str:
    """Hash of what these modules, and those of this package that they import, do: comments and docstrings left out.

    A notebook is a module without a file: the explanation methods that are defined in it stand for it, but not what
    they call.

    Raises:
        InputError: a method without a source, such as one made by `exec`.
    """
    typed = [_typed_methods(name) for name in modules if _file(name) is None]
    filed = _code_digest(*(name for name in modules if _file(name) is not None))
    return hashlib.sha256(repr((filed, typed)).encode()).hexdigest() if typed else filed


def _file(module: str) -> Path | None:
    if module == "__main__":  # a script has a file but no specification
        origin = getattr(sys.modules[module], "__file__", None)
    else:
        spec = importlib.util.find_spec(module)
        origin = spec.origin if spec is not None and spec.has_location else None
    return origin and Path(origin)


def _typed_methods(module: str) -> list[str]:
    from perceptual_lib.methods import METHODS

    functions = [method.function for method in METHODS.values() if method.function.__module__ == module]
    try:
        trees = [ast.parse(textwrap.dedent(inspect.getsource(function))) for function in functions]
    except OSError:
        raise InputError(f"a method of {module} has no source to tell its versions by; define it in a file.") from None
    return [ast.dump(_without_docstrings(tree)) for tree in trees]


@cache
def _code_digest(*modules: str) -> str:
    sources: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = _file(name)
        if name in sources or path is None:
            continue
        tree = ast.parse(path.read_text("utf-8"))
        waiting += _own_imports(tree)
        sources[name] = ast.dump(_without_docstrings(tree))
    return hashlib.sha256(repr(sorted(sources.items())).encode()).hexdigest()


def _own_imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            yield node.module
            for alias in node.names:  # `from package import module`
                if importlib.util.find_spec(node.module).submodule_search_locations is not None:
                    yield from filter(_is_module, [f"{node.module}.{alias.name}"])


def _is_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return tree
