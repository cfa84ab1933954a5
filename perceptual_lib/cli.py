"""The command line: perceptual-ball explain | methods | run | status | results | data | book."""

import gc
import shutil
import signal
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Annotated

import perceptual_lib
from perceptual_lib.core.errors import InputError
from perceptual_lib.evaluation.games import GAMES, STORE

try:
    import typer
except ModuleNotFoundError as missing:
    sys.exit(f"perceptual-ball: it needs {missing.name}: pip install 'perceptual-ball[experiments]'.")

app = typer.Typer(
    help="Explain classifiers with perturbations on the perceptual ball, and build the book about it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def explain(
    context: typer.Context,
    photos: Annotated[list[Path] | None, typer.Argument(help="picture files, or folders of them")] = None,
    model: Annotated[str, typer.Option(help="a torchvision or timm network, by name")] = "efficientnet_lite0",
    weights: Annotated[str, typer.Option(help="default, random, or the path of a state dict")] = "default",
    method: Annotated[str, typer.Option(help="what explains: see perceptual-ball methods")] = "perceptual",
    layers: Annotated[str, typer.Option(help="held: 0-25, or names, by commas; or none", show_default="its own")] = "",
    sigma: Annotated[float, typer.Option(help="blur of the map, in pixels of the network's input", min=0)] = 5.0,
    target: Annotated[str, typer.Option(help="class, by index or name", show_default="the prediction")] = "",
    expected: Annotated[str, typer.Option(help="what they show: class, by index or name", show_default=False)] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda")] = "auto",
    precision: Annotated[str, typer.Option(help="full, tf32 (rounded, on a GPU) or bf16")] = "full",
    out: Annotated[Path, typer.Option(help="folder for the overlays")] = Path("."),
    save: Annotated[Path | None, typer.Option(help="new folder for overlays and evidence, not --out")] = None,
    again: Annotated[Path | None, typer.Option(help="explain what such a folder keeps again, and compare")] = None,
) -> None:
    """Say what each photo is taken for, what it takes to change that, and write where as a picture."""
    given = {name for name in context.params if context.get_parameter_source(name).name == "COMMANDLINE"}
    if again and given - {"again", "device"}:
        raise InputError("what was asked is in the manifest: give --again with --device alone.")
    if {"out", "save"} <= given:
        raise InputError("--save writes the overlays, too; give it or --out.")
    if not (photos or again):
        raise InputError("there is no photo to explain; give picture files, or folders of them.")
    from perceptual_lib.book import overlays

    if again or save:
        from perceptual_lib.book import evidence  # it takes a while to import
    if again:
        said = evidence.repeat(again, device)
    else:
        asked = overlays.Asked(model, weights, device, precision, method, layers, sigma, target, expected)
        said = evidence.keep(asked, photos, save) if save else overlays.explain_photos(asked, photos, out)
    status = 0
    for each in said:
        if isinstance(each, InputError):
            status = _say(str(each), 2)
        else:
            typer.echo(each)
    raise typer.Exit(status)


@app.command()
def methods() -> None:
    """List the explanation methods, where they come from and what they cost."""
    from perceptual_lib.methods import METHODS

    names, sources = max(map(len, METHODS)), max(len(method.source) for method in METHODS.values())
    for method in METHODS.values():
        typer.echo(f"{method.name:{names}}  {method.source:{sources}}  {method.cost()}")


def _there(store: Path) -> Path:
    if store != STORE and not store.is_dir():  # nothing is computed yet in a new clone
        raise InputError(f"there is no store {store}; give that of a perceptual-ball run.")
    return store


ProfileName = Annotated[str, typer.Argument(help="demo, imagenet-300, paper, ... or a YAML file", show_default=False)]
StoreFolder = Annotated[Path, typer.Option("--store", help="folder of the finished shards")]
StoreThere = Annotated[Path, typer.Option("--store", help="folder of the finished shards", callback=_there)]
Limit = Annotated[int | None, typer.Option(help="only the first so many photographs", min=1, show_default="all")]
Only = Annotated[list[str] | None, typer.Option(help="only this method; may be repeated", show_default="all")]
Which = Annotated[
    list[str] | None,
    typer.Option("--experiment", help=f"one of {', '.join(GAMES)}; may be repeated", show_default="all of the profile"),
]


@app.command()
def run(
    profile: ProfileName,
    engine: Annotated[str, typer.Option(help="local (one core), processes (several) or ray (a cluster)")] = "local",
    workers: Annotated[int | None, typer.Option(help="of processes or ray", min=1, show_default="cores")] = None,
    address: Annotated[str | None, typer.Option(help="of a running Ray cluster", show_default="one here")] = None,
    gpus: Annotated[float, typer.Option(help="of each Ray worker; a fraction shares one", min=0)] = 0,
    experiment: Which = None,
    limit: Limit = None,
    only: Only = None,
    store: StoreFolder = STORE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what it would take, compute nothing")] = False,
) -> None:
    """Compute a profile's experiments. Interrupt it at any time: the next run goes on where it stopped."""
    from perceptual_lib.evaluation.needs import missing

    if problems := missing(perceptual_lib.load_profile(profile), experiment or ()):
        raise InputError(" Also missing: ".join(problems))
    cluster = {"workers": workers, "address": address, "gpus": gpus}
    with _experiments(profile, experiment, limit, only, store, engine, **cluster) as experiments:
        if dry_run:
            from perceptual_lib.runs.progress import estimate

            work = [(each.run, each.unfinished) for each in experiments]
            typer.echo("\n".join(estimate(work, experiments[0].profile.batch_size)))
        else:
            _complete(experiments, profile)


def _experiments(profile: str, names, limit: int | None, only, store: Path, engine: str = "local", **cluster):
    """The chosen experiments of a profile, as a context."""
    from perceptual_lib.evaluation.experiments import experiments_of
    from perceptual_lib.runs.executors import make_executor

    executor, settings = partial(make_executor, engine, **cluster), perceptual_lib.load_profile(profile)
    return experiments_of(settings, executor, store, names=names or (), limit=limit, only=only or ())


def _complete(experiments, profile: str) -> None:
    from perceptual_lib.evaluation.publishing import failures
    from perceptual_lib.runs.progress import Bar

    bar = Bar((each.run, each.unfinished) for each in experiments)
    try:
        with bar:
            for experiment in experiments:
                experiment.complete()
    except (KeyboardInterrupt, Terminated) as error:
        sentence = f"interrupted, {bar.left} shards are left; the same command goes on from here."
        raise typer.Exit(_say(sentence, _status(error))) from None
    failed = [each | {"on": each[one.unit]} for one in experiments for each in failures(one.table, one.unit)]
    for each in failed[:10]:
        typer.echo(f"{each['method']} failed on {each['on']}: {each['failure']}", err=True)
    tables = f"The tables, with the same options: perceptual-ball results {profile}"
    typer.echo(f"Finished, {len(failed) or 'no'} failure{'s' * (len(failed) != 1)}. {tables}")
    rows = ((one.name, *row) for one in experiments for row in one.table.groupby(["role", "method"], observed=True))
    if without := [f"{name} on all of {game}" for game, (_, name), lines in rows if (lines.failure != "").all()]:
        raise typer.Exit(_say(f"there is nothing to compare: {', '.join(dict.fromkeys(without))} failed.", 1))


@app.command()
def status(
    profile: ProfileName,
    experiment: Which = None,
    limit: Limit = None,
    only: Only = None,
    store: StoreThere = STORE,
) -> None:
    """Say how far a profile's experiments are, and which shards are being computed where."""
    from perceptual_lib.runs.progress import distinct

    with _experiments(profile, experiment, limit, only, store) as experiments:
        shards = distinct((each.run, each.shards) for each in experiments)
        labels = {key: shard.label for key, (_, shard) in shards.items()}
        finished = Counter(shard.label for run, shard in shards.values() if run.is_finished(shard))
        width = max(map(len, labels.values()))
        for label, total in Counter(labels.values()).items():
            typer.echo(f"{label:{width}}  {finished[label]:4} of {total}")
        for key, where in experiments[0].run.store.running().items():
            typer.echo(f"{labels.get(key, 'a shard of another profile')}: {where}")


@app.command()
def results(
    profile: ProfileName,
    format: Annotated[str, typer.Option(help="text, csv, markdown or latex")] = "text",
    publish: Annotated[Path | None, typer.Option(help="folder for whole tables (Parquet) and manifests")] = None,
    add: Annotated[Path | None, typer.Option(help="such a folder, for rows that are whole beside those in it")] = None,
    experiment: Which = None,
    limit: Limit = None,
    only: Only = None,
    store: StoreThere = STORE,
) -> None:
    """Print the tables of what is finished, or write all of it into a folder."""
    from perceptual_lib.evaluation import publishing
    from perceptual_lib.evaluation.tables import format_table

    if publish and (only or limit):
        raise InputError("--publish is of whole runs: leave out --only and --limit, or --add rows to what is there.")
    if add and limit:
        raise InputError("--add is of rows with all their pictures: leave out --limit.")
    width = shutil.get_terminal_size().columns if sys.stdout and sys.stdout.isatty() else None
    with _experiments(profile, experiment, limit, only, store) as experiments:
        if all(each.table.empty for each in experiments):
            raise InputError(f"nothing of {profile} is finished; compute it: perceptual-ball run {profile}")
        for each in experiments:
            tables = each.overview() if len(each.table) else {}
            tables = {title: table for title, table in tables.items() if len(table)}
            if len(each.table) and not tables:
                few = "fewer than two photographs with results"
                why = few if "table" in set(each.table.role) else "ranges of layers alone"
                typer.echo(f"{each.name}: it has {why}, and no table is of them.")
            for title, table in tables.items():
                if len(experiments) > 1 or len(tables) > 1:
                    typer.echo(f"# {title}")
                typer.echo(format_table(table, format, width))
            if left := len(each.unfinished):
                typer.echo(f"{each.name}: {left} shards are not computed yet: this is a table of what is.", err=True)
            if publish is not None:
                publishing.publish(each.table, each.manifest, publish)
        if add is not None and not any([publishing.publish_rows(each, add) for each in experiments]):
            raise InputError(f"no row of {profile} is finished on all its pictures yet: perceptual-ball run {profile}")


data = typer.Typer(help="What data a profile needs.", no_args_is_help=True)
app.add_typer(data, name="data")


@data.command()
def check(profile: ProfileName) -> None:
    """Say what data of a profile is there, and of what is missing where to get it and where to put it."""
    from perceptual_lib.evaluation import needs

    settings = perceptual_lib.load_profile(profile)
    problems = needs.missing(settings)
    lines = [f"Missing: {each}" for each in problems] + [f"Not here yet: {each}" for each in needs.downloads(settings)]
    typer.echo("\n".join(lines) or f"Everything that {profile} needs is here.")
    raise typer.Exit(bool(problems))


@app.command()
def book(
    profile: Annotated[str, typer.Argument(help="demo, smoke, paper, or a YAML file")] = "demo",
    only: Annotated[str | None, typer.Option(help="compute one notebook, by its name", show_default="all")] = None,
    pdf: Annotated[bool, typer.Option("--pdf", help="make a PDF and an EPUB of it, too")] = False,
) -> None:
    """Compute the notebooks that are out of date and build the site in _build/html."""
    from perceptual_lib.book.pipeline import build

    raise typer.Exit(build(profile, Path.cwd(), only, pdf))


class Terminated(BaseException):
    """SIGTERM, which schedulers and containers send: it ends a command as Ctrl-C does."""


def _terminate(*_) -> None:
    raise Terminated


def main() -> None:
    """Entry point: bad input is one sentence on standard error and exit status 2."""
    signal.signal(signal.SIGTERM, _terminate)
    gc.set_threshold(100_000)  # else garbage collection takes a tenth of the time of importing torch and its kin
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a photo's name may hold what a terminal cannot show
    try:
        app()
    except InputError as error:
        sys.exit(_say(str(error), 2))
    except ModuleNotFoundError as error:
        if (package := (error.name or "perceptual_lib").split(".")[0]) == "perceptual_lib":
            raise
        extra = "book" if sys.argv[1] == "book" else "experiments"
        sys.exit(_say(f"it needs {package}: pip install 'perceptual-ball[{extra}]'.", 2))
    except (KeyboardInterrupt, Terminated) as error:
        sys.exit(_say("interrupted", _status(error)))


def _status(error: BaseException) -> int:
    """As shells have it: 128 and the number of the signal."""
    return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)


def _say(sentence: str, status: int) -> int:
    typer.echo(f"perceptual-ball: {sentence}", err=True)
    return status


if __name__ == "__main__":
    main()
