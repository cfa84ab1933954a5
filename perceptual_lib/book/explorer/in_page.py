"""What a page needs to explain its reader's own photographs: the network as a graph, its runtime, and the search."""

import lzma
import zlib
from collections.abc import Callable
from typing import Any

from PIL import Image

from perceptual_lib.book.explorer.graph import equation_5
from perceptual_lib.book.explorer.widget import HERE, Chunk, module
from perceptual_lib.core.errors import InputError
from perceptual_lib.core.settings import suited
from perceptual_lib.networks.classifier import Classifier

RUNTIME = HERE / "runtime"
PIECE = 2_000_000  # bytes of a file of the site; the page reports progress after each


def page_kernel(
    classifier: Classifier, images: Any, **settings: Any
) -> tuple[dict[str, Any], dict[str, Callable[[], Chunk]]]:
    """What in_page.js is told about a classifier's kernel, and its pieces as arrays of an explorer, `kernel/NUMBER`.

    The graph is checked on images (B, C, H, W). Searches have these settings, and else the network's own. Raises
    InputError for a network that the graph does not cover, for settings that a page's searches do not support, and if a
    page cannot preprocess pictures as the classifier does.
    """
    if classifier.interpolation != Image.Resampling.BICUBIC or len(classifier.mean) != 3:
        raise InputError("a page reads colour pictures, and shrinks them by Pillow's BICUBIC alone.")
    own = suited(classifier.network, **settings)
    if not own.normalize_layers or own.multilabel or own.reach or own.tolerance_map:
        raise InputError("searches in a page have normalize_layers, and neither multilabel, reach nor tolerance_map.")
    files = {  # files that change least come first, so that their pieces stay in a reader's cache
        "wasm": lzma.decompress((RUNTIME / "ort-wasm-simd-threaded.wasm.xz").read_bytes()),
        "runtime": (RUNTIME / "ort.wasm.bundle.min.mjs").read_bytes(),
        "network": equation_5(classifier, images),
        "search": module("search").encode(),
    }
    whole = zlib.compress(b"".join(files.values()))
    pieces = [whole[start : start + PIECE] for start in range(0, len(whole), PIECE)]
    names = "layer_weight", "margin_target", "pixel_weight", "max_iter"
    about = {
        "pieces": len(pieces),
        "bytes": len(whole),
        "sizes": {name: len(data) for name, data in files.items()},
        "mean": classifier.mean.flatten().tolist(),
        "std": classifier.std.flatten().tolist(),
        "settings": {name: getattr(own, name) for name in names},
    }
    return about, {
        f"kernel/{index}": lambda piece=piece: ({"format": "bytes"}, piece) for index, piece in enumerate(pieces)
    }
