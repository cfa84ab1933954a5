"""The command line: perceptual-ball explain | methods | book."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from perceptual_lib.errors import InputError

app = typer.Typer(
    help="Explain classifiers with perturbations on the perceptual ball, and build the book about it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def explain(
    photos: Annotated[list[Path], typer.Argument(help="picture files, or folders of them", show_default=False)],
    model: Annotated[str, typer.Option(help="a torchvision or timm network, by name")] = "efficientnet_lite0",
    weights: Annotated[str, typer.Option(help="default, random, or the path of a state dict")] = "default",
    layers: Annotated[
        str, typer.Option(help="activations: 0-25, or names, by commas; 'none' for none", show_default="by network")
    ] = "",
    sigma: Annotated[float, typer.Option(help="blur of the map, in pixels of the network's input", min=0)] = 5.0,
    target: Annotated[str, typer.Option(help="class, by index or name", show_default="the prediction")] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda")] = "auto",
    out: Annotated[Path, typer.Option(help="folder for the overlays")] = Path("."),
) -> None:
    """Say what each photo is taken for, what it takes to change that, and write where as a picture."""
    from perceptual_lib.classifiers import load_classifier

    classifier = load_classifier(model, weights, device)
    index = classifier.class_index(target) if target else None
    settings = classifier.settings
    if layers:
        settings["layers"] = [] if layers == "none" else [layer.strip() for layer in layers.split(",")]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {out} cannot be made: {error.strerror}.") from error
    problems = 0
    photos = [photo for source in photos for photo in expand(source)]
    stems = [photo.stem for photo in photos]
    for number, photo in enumerate(photos, 1):
        stem = photo.stem if stems.count(photo.stem) == 1 else f"{photo.stem}_{number}"
        overlay_path = out / f"{stem}_explained.png"
        try:
            explain_photo(
                classifier, photo, index, settings, sigma, overlay_path, f"[{number}/{len(photos)}] {photo.name}"
            )
        except InputError as error:  # one bad photo does not cost the others
            problems += 1
            typer.echo(f"perceptual-ball: {error}", err=True)
    if problems:
        raise typer.Exit(2)


def expand(source: Path) -> list[Path]:
    """The photos of a folder, without the overlays of an earlier run; a file as it is."""
    from perceptual_lib.images import load_photographs

    if not source.is_dir():
        return [source]
    return [photo.path for photo in load_photographs(source) if not photo.path.stem.endswith("_explained")]


def explain_photo(
    classifier, photo: Path, target: int | None, settings: dict, sigma: float, overlay_path: Path, title: str
) -> None:
    """Explain one photo: a line of results, and the overlay as a picture."""
    import torch

    from perceptual_lib.figures import overlay
    from perceptual_lib.images import open_picture
    from perceptual_lib.perturbation import perceptual_ball
    from perceptual_lib.saliency import saliency_map

    picture = open_picture(photo)
    inputs = classifier.preprocess(picture)
    with tqdm(total=settings["max_iter"], desc=title, unit="step", leave=False, disable=None) as bar:
        result = perceptual_ball(
            classifier, inputs, target, callback=lambda step, *_: bar.update(min(step, 1)), **settings
        )
    with torch.no_grad():
        probability = classifier(inputs).softmax(1)[0, result.targets[0]]
    try:
        overlay(picture, saliency_map(result.delta, sigma)[0].cpu().numpy()).save(overlay_path)
    except OSError as error:
        raise InputError(f"{overlay_path} cannot be written: {error.strerror or error}.") from error
    typer.echo(
        f"{photo.name}: {classifier.class_name(int(result.targets[0]))} ({probability:.1%}), margin "
        f"{result.margin_before[0]:.2f} -> {result.margin[0]:.2f} in {result.evaluations[0]} evaluations"
        f"{'' if result.flipped[0] else ' (not flipped)'}{' (broke down)' if result.failed[0] else ''}; {overlay_path}"
    )


@app.command()
def methods() -> None:
    """List the explanation methods, where they come from and what they cost."""
    from perceptual_lib.explainers import METHODS

    names, sources = max(map(len, METHODS)), max(len(method.source) for method in METHODS.values())
    for method in METHODS.values():
        typer.echo(f"{method.name:{names}}  {method.source:{sources}}  {method.cost}")


@app.command()
def book(profile: Annotated[str, typer.Argument(help="demo, smoke, paper, or a YAML file")] = "demo") -> None:
    """Compute the notebooks that are out of date and build the site in _build/html."""
    from perceptual_lib.pipeline import build

    raise typer.Exit(build(profile, Path.cwd()))


def main() -> None:
    """Entry point: bad input is one sentence on standard error and exit status 2."""
    try:
        app()
    except InputError as error:
        sys.exit(_say(str(error), 2))
    except KeyboardInterrupt:
        sys.exit(_say("interrupted", 130))


def _say(sentence: str, status: int) -> int:
    typer.echo(f"perceptual-ball: {sentence}", err=True)
    return status


if __name__ == "__main__":
    main()
