"""`sam-worker models`: list, fetch, check and import models."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sam_inference.models import BUNDLED, ModelFileError, ModelSpec, find_models
from sam_inference.models.catalogue import CATALOGUE
from sam_inference.models.importing import (
    has_other_graphs,
    import_checkpoint,
    update_model,
    verify_model,
)
from sam_inference.models.pulling import pull
from sam_inference.models.triton_repository import BACKENDS, export_triton

_BAR_WIDTH = 30
_BAR_INTERVAL_S = 0.1


def models_main(arguments: Sequence[str], model_dir: Path) -> int:
    """Run `sam-worker models`.

    Args:
        arguments: what follows on the command line.
        model_dir: where models are.

    Returns:
        The exit status.
    """
    flags = _parser(model_dir).parse_args(arguments)
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
                return _each(flags.names, model_dir, _verify)
            case "update":
                return _each(flags.names, model_dir, _update)
            case "export-triton":
                export_triton(
                    find_models(model_dir).spec(flags.name), flags.repository, flags.backend
                )
                print(flags.repository)
            case "path":
                print(find_models(model_dir).spec(flags.name).folder if flags.name else model_dir)
    except (ModelFileError, OSError) as error:
        print(f"sam-worker models: {_told(error)}", file=sys.stderr)
        return 1
    return 0


def _told(error: ModelFileError | OSError) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _parser(model_dir: Path) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sam-worker models",
        description="List, fetch, check and import models.",
        epilog=f"Models are kept below {model_dir}; --model-dir names another place [MODEL_DIR].",
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
    command = commands.add_parser("update", help="bring the graphs of this version to models")
    command.add_argument("names", nargs="*", metavar="name", help="all imported ones if none")
    command = commands.add_parser("export-triton", help="write a model for a Triton server")
    command.add_argument("name")
    command.add_argument("repository", type=Path, help="Triton's model repository")
    command.add_argument("--backend", choices=BACKENDS, default=BACKENDS[0])
    command = commands.add_parser("path", help="show where models are, or where a model is")
    command.add_argument("name", nargs="?")
    return parser


def _list(model_dir: Path) -> None:
    found = find_models(model_dir)
    longest = max(len(name) for name in (*found.specs, *CATALOGUE))
    row = f"{{:<{longest}}} {{:<9}} {{:>9}}  {{:<11}} {{}}"
    print(row.format("NAME", "STATE", "MIB", "LICENCE", "TITLE"))
    for spec in found.specs.values():
        state = "bundled" if spec.folder.parent == BUNDLED else "ready"
        print(row.format(spec.name, state, _mib(spec.file_bytes), spec.licence, spec.title))
    for entry in CATALOGUE.values():
        if entry.name not in found.specs:
            size = _mib(entry.size_bytes)
            print(row.format(entry.name, "to pull", size, entry.licence, entry.title))
    for problem in found.problems.values():
        print(problem, file=sys.stderr)


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):.1f}"


def _each(names: Sequence[str], model_dir: Path, do: Callable[[ModelSpec], str]) -> int:
    """Do something with the models `names`, all imported ones if none, and print what it says.

    What is wrong with one is told, and stands in the way of no other.

    Returns:
        The exit status.
    """
    found = find_models(model_dir)
    imported = [name for name, spec in found.specs.items() if spec.folder.parent != BUNDLED]
    problems = [] if names else [str(problem) for problem in found.problems.values()]
    for name in names or imported:
        try:
            print(f"{name}: {do(found.spec(name))}")
        except (ModelFileError, OSError) as error:
            problems.append(f"{name}: {_told(error)}")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _verify(spec: ModelSpec) -> str:
    verify_model(spec)
    if has_other_graphs(spec):
        return "as imported, with graphs of another version; `update` brings those of this one"
    return "as imported"


def _update(spec: ModelSpec) -> str:
    if not has_other_graphs(spec):
        return "has the graphs of this version"
    update_model(spec)
    return "updated; workers use it after their next start"


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
