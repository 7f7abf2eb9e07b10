"""The `sam` command: cut objects out of photos on a worker."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

import sam_core
from sam_client.channel import LARGEST_MESSAGE_BYTES
from sam_client.errors import SamError, WorkerUnavailableError
from sam_client.overlay import draw_overlay, upright_rgb
from sam_client.private_worker import is_installed, private_worker
from sam_client.sync import SamClient
from sam_client.values import Prompt, SegmentedMask

_DEFAULT_HOST, _DEFAULT_PORT = "127.0.0.1", 50051
_TIMEOUT_S = 600.0  # the largest model takes most of a minute for an image on a small CPU


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 refused or failed, 2 wrong usage."""
    options = _parser().parse_args(arguments)
    if options.command == "segment":
        try:
            options.prompt = _prompt(options)
        except ValueError as error:
            options.wrong_usage(str(error))
    try:
        # How large a photo may be is for the worker to say.
        with (
            _target(options.server) as target,
            SamClient(
                target, timeout_s=_TIMEOUT_S, max_message_bytes=LARGEST_MESSAGE_BYTES
            ) as client,
        ):
            _COMMANDS[options.command](client, options)
    except WorkerUnavailableError as error:
        return _failed(f"{error}; `sam-worker` starts a worker")
    except OSError as error:
        return _failed(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except (SamError, ValueError) as error:
        return _failed(str(error))
    except KeyboardInterrupt:
        return 130
    return 0


def _failed(reason: str) -> int:
    print(f"sam: {reason}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sam", description="Cut objects out of photos.")
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--server",
        metavar="TARGET",
        default=os.environ.get("SAM_SERVER"),
        help="the worker, host:port or unix:/path (default: $SAM_SERVER, else the one at "
        f"{_DEFAULT_HOST}:{_DEFAULT_PORT}, else a private one for this command)",
    )

    segment = commands.add_parser("segment", parents=[common], help="cut out one object")
    segment.set_defaults(wrong_usage=segment.error)
    segment.add_argument("image", type=Path, metavar="IMAGE", help="the photo")
    segment.add_argument(
        "--point",
        type=_numbers("X,Y"),
        metavar="X,Y",
        action="append",
        default=[],
        help="a pixel on the object, from the top left of the upright photo; may be repeated",
    )
    segment.add_argument(
        "--negative-point",
        type=_numbers("X,Y"),
        metavar="X,Y",
        action="append",
        default=[],
        help="a pixel that is not on the object; may be repeated",
    )
    segment.add_argument(
        "--box",
        type=_numbers("X0,Y0,X1,Y1"),
        metavar="X0,Y0,X1,Y1",
        help="a box around the object: left, top, right, bottom",
    )
    segment.add_argument(
        "--multimask", action="store_true", help="three candidates (part, whole, group)"
    )
    segment.add_argument("--model", default="", metavar="NAME", help="see `sam models`")
    segment.add_argument(
        "-o",
        "--overlay",
        type=_image_file,
        metavar="FILE",
        help="write the photo with the masks on it",
    )
    segment.add_argument(
        "--mask", type=_image_file, metavar="FILE", help="write the best mask, white on black"
    )
    segment.add_argument(
        "--json", action="store_true", help="print JSON with each mask as COCO run lengths"
    )

    commands.add_parser("models", parents=[common], help="list the models of the worker")
    return parser


def _numbers(form: str) -> Any:
    """Return an argparse type that reads as many numbers as `form` names, between commas."""

    def read(text: str) -> tuple[float, ...]:
        try:
            numbers = tuple(float(part) for part in text.split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != form.count(",") + 1:
            raise argparse.ArgumentTypeError(f"expected numbers {form}, got {text!r}")
        return numbers

    return read


def _image_file(text: str) -> Path:
    """Read the name of a file to write, while there is nothing yet that would be lost."""
    path = Path(text)
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise argparse.ArgumentTypeError(f"expected the name of an image, as x.png, got {text!r}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {str(path.parent)!r}")
    return path


def _prompt(options: argparse.Namespace) -> Prompt:
    if not (options.point or options.negative_point or options.box):
        raise ValueError("say what to cut out: --point X,Y or --box X0,Y0,X1,Y1")
    return Prompt(
        point_coords=options.point + options.negative_point,
        point_labels=[1] * len(options.point) + [0] * len(options.negative_point),
        box=options.box,
    )


@contextmanager
def _target(server: str | None) -> Iterator[str]:
    """Yield the worker to ask, which is started here if there is none."""
    if server:
        yield server
    elif _is_listening(_DEFAULT_HOST, _DEFAULT_PORT):
        yield f"{_DEFAULT_HOST}:{_DEFAULT_PORT}"
    elif is_installed():
        with private_worker() as target:
            yield target
    else:
        raise OSError(
            f"no worker listens at {_DEFAULT_HOST}:{_DEFAULT_PORT}; name one with --server, or "
            "install one here (pip install 'samserve[worker]')"
        )


def _is_listening(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) == 0


def _segment(client: SamClient, options: argparse.Namespace) -> None:
    image = options.image.read_bytes()
    embedded = client.embed(image, model=options.model)
    masks: list[SegmentedMask] = []
    for mask in client.decode(
        embedded.image_id,
        [options.prompt],
        model=embedded.model,
        multimask_output=options.multimask,
        load_image=lambda: image,
    ):
        masks.append(mask)
        if not options.json:
            print(_line(mask))
    if options.json:
        answer = {
            "image": str(options.image),
            "width": embedded.width,
            "height": embedded.height,
            "model": embedded.model,
            "masks": [_json(mask) for mask in masks],
        }
        print(json.dumps(answer))
    if options.mask:
        Image.fromarray(masks[0].to_array()).save(options.mask)
    if options.overlay:
        arrays = [mask.to_array() for mask in masks]
        draw_overlay(upright_rgb(image), arrays, options.prompt).save(options.overlay)


def _line(mask: SegmentedMask) -> str:
    box = ",".join(map(str, mask.box)) if mask.box else "none"
    return (
        f"mask {mask.mask_index}: predicted IoU {mask.predicted_iou:.3f}, "
        f"stability {mask.stability_score:.3f}, area {mask.area} pixels, box {box}"
    )


def _json(mask: SegmentedMask) -> dict[str, Any]:
    counts = sam_core.coco_counts(mask.counts, mask.height, mask.width)
    return {
        "mask_index": mask.mask_index,
        "predicted_iou": mask.predicted_iou,
        "stability_score": mask.stability_score,
        "area": mask.area,
        "box": mask.box,
        "segmentation": {"size": [mask.height, mask.width], "counts": counts.decode("ascii")},
    }


def _models(client: SamClient, _options: argparse.Namespace) -> None:
    info = client.list_models()
    rows = [("", "MODEL", "TITLE", "ENGINE", "DEVICE", "PRECISION", "LICENCE")]
    rows += [
        (
            "*" if model.name == info.default_model else "",
            model.name,
            model.title,
            model.engine,
            model.device,
            model.precision,
            model.licence,
        )
        for model in info.models
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


_COMMANDS = {"segment": _segment, "models": _models}


if __name__ == "__main__":
    sys.exit(main())
