"""Explaining classifiers using adversarial perturbations on the perceptual ball (Elliott, Law, Russell, CVPR 2021)."""

import lazy_loader

# The names of this package are in __init__.pyi, and are loaded at first use: torch takes seconds to import, and
# `perceptual-ball --help` or a book with nothing to do should not wait for it.
_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
_EXTRAS = {"load_profile": "experiments", "Explorer": "book"}


def __getattr__(name: str) -> object:
    try:
        return _load(name)
    except ModuleNotFoundError as missing:
        if name not in _EXTRAS:
            raise
        from perceptual_lib.core.errors import InputError

        raise InputError(f"{name} needs {missing.name}: pip install 'perceptual-ball[{_EXTRAS[name]}]'.") from missing
