"""`sam-worker models`: list, fetch, check and import models."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from sam_inference.models import BUNDLED, ModelFileError, ModelSpec, find_models
from sam_inference.models.catalogue import CATALOGUE
from sam_inference.models.importing import import_checkpoint, verify_model
from sam_inference.models.pulling import pull
from sam_inference.models.triton_repository import BACKENDS, export_triton

_BAR_WIDTH = 30
_BAR_INTERVAL_S = 0.1


def models_main(arguments: Sequence[str], model_dir: Path) -> int:
    """Run `sam-worker models`.

    Args:
        arguments: what follows on the command line.
        model_dir: where models are, unless `arguments` say.

    Returns:
        The exit status.
    """
    flags = _parser(model_dir).parse_args(arguments)
    model_dir = flags.model_dir
    try:
        match flags.command:
            case "list":
                _list(model_dir)
            case "pull":
                spec = pull(
                    CATALOGUE[flags.name], model_dir, source=flags.source, progress=_ProgressBar()
                )
                print(spec.folder)
            case "import":
                print(import_checkpoint(Path(flags.file), model_dir, name=flags.name).folder)
            case "verify":
                return _verify(flags.names, model_dir)
            case "export-triton":
                export_triton(_spec(flags.name, model_dir), flags.repository, flags.backend)
                print(flags.repository)
            case "path":
                print(_spec(flags.name, model_dir).folder if flags.name else model_dir)
    except (ModelFileError, OSError) as error:
        print(f"sam-worker models: {error}", file=sys.stderr)
        return 1
    return 0


def _parser(model_dir: Path) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sam-worker models", description="List, fetch, check and import models."
    )
    parser.add_argument(
        "--model-dir",
        default=model_dir,
        type=Path,
        help=f"where models are, {model_dir} unless given [MODEL_DIR]",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="show the models that are here and those to be had")
    command = commands.add_parser("pull", help="fetch an official checkpoint and import it")
    command.add_argument("name", choices=CATALOGUE, help="which")
    command.add_argument(
        "--from", dest="source", default="", metavar="URL|FILE", help="a mirror, or a copy"
    )
    command = commands.add_parser("import", help="make a model of a checkpoint")
    command.add_argument("file", help="a state dict saved by torch.save (.pth, .pt)")
    command.add_argument("--name", help="what to call it; the architecture's name if not given")
    command = commands.add_parser("verify", help="compare the files with what was imported")
    command.add_argument("names", nargs="*", metavar="name", help="all imported ones if none")
    command = commands.add_parser("export-triton", help="write a model for a Triton server")
    command.add_argument("name")
    command.add_argument("repository", type=Path, help="Triton's model repository")
    command.add_argument("--backend", choices=BACKENDS, default=BACKENDS[0])
    command = commands.add_parser("path", help="show where models are, or where a model is")
    command.add_argument("name", nargs="?")
    return parser


def _list(model_dir: Path) -> None:
    row = "{:<14} {:<9} {:>9}  {:<11} {}"
    print(row.format("NAME", "STATE", "MIB", "LICENCE", "TITLE"))
    specs = find_models(model_dir)
    for spec in specs.values():
        state = "bundled" if spec.folder.parent == BUNDLED else "ready"
        print(row.format(spec.name, state, _mib(spec.file_bytes), spec.licence, spec.title))
    for entry in CATALOGUE.values():
        if entry.name not in specs:
            size = _mib(entry.size_bytes)
            print(row.format(entry.name, "to pull", size, entry.licence, entry.title))


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):.1f}"


def _verify(names: Sequence[str], model_dir: Path) -> int:
    status = 0
    wanted = names or [
        name for name, spec in find_models(model_dir).items() if spec.folder.parent != BUNDLED
    ]
    for name in wanted:
        try:
            verify_model(_spec(name, model_dir))
            print(f"{name}: as imported")
        except ModelFileError as error:
            print(f"{name}: {error}", file=sys.stderr)
            status = 1
    return status


def _spec(name: str, model_dir: Path) -> ModelSpec:
    specs = find_models(model_dir)
    if name not in specs:
        raise ModelFileError(f"no model named {name!r}; there are: {', '.join(specs)}")
    return specs[name]


class _ProgressBar:
    """Draws how far a download is on the terminal, if there is one."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._drawn = 0.0
        self._first_bytes: int | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._first_bytes is None:
            self._first_bytes = done
        if not sys.stderr.isatty() or (now - self._drawn < _BAR_INTERVAL_S and done < total):
            return
        self._drawn = now
        filled = _BAR_WIDTH * done // total
        rate = (done - self._first_bytes) / max(now - self._started, 1e-3)
        print(
            f"\r[{'#' * filled:<{_BAR_WIDTH}}] {_mib(done)} of {_mib(total)} MiB, "
            f"{_mib(int(rate))} MiB/s ",
            end="\n" if done == total else "",
            file=sys.stderr,
            flush=True,
        )
