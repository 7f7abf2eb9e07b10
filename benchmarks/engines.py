"""Engines and precisions side by side: encoder, decoder, load time, memory and agreement.

A precision is that of the arithmetic of the encoder; decoders compute in float32. Weights are those
that the files hold (compressed.py).

Each contestant has a process of its own, and in each round all of them are asked in turn, so
that a busy machine slows all of them. Times are medians, with the fastest in brackets; ratios
are of medians, against the first row. The second table is of whole workers: from the start of
the process to the first answer to Embed, and memory after clicks. The first image is the one
that is timed; masks of clicks on all of them are compared with those of the first row.

    python -m benchmarks.engines [--architecture mobile_sam | --checkpoint FILE | --model NAME]
        [--images FILE ...] [--rounds 7] [--threads 1 2] [--points 1]

Without a checkpoint the weights are random: times hold, and agreement is only that of
arithmetic. Needs the extra `dev`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from benchmarks.compressed import COMPRESSIONS, compress
from numpy.typing import NDArray

from sam_client import Prompt, SamClient
from sam_core import mask_from_counts
from sam_inference import prompts
from sam_inference.config import model_dir_of
from sam_inference.engines import EngineChoice, EngineError, choose_engine, open_engine
from sam_inference.interrupt import Interrupt
from sam_inference.models import BUNDLED, ModelSpec, find_models
from sam_inference.models.importing import import_checkpoint
from sam_inference.predictor import Predictor

ROOT = Path(__file__).parents[1]
IMAGE = ROOT / "tests/data/images/originals/truck.jpg"
CONTESTANTS = (  # engine, precision, weights
    ("pytorch", "float32", "float32"),
    ("pytorch", "bfloat16", "float32"),
    ("onnxruntime", "float32", "float32"),
    ("onnxruntime", "float32", "float16"),
    ("onnxruntime", "float32", "int8"),
    ("openvino", "float32", "float32"),
    ("openvino", "float32", "float16"),
    ("openvino", "float32", "int8"),
    ("openvino", "bfloat16", "float32"),
)
WORKERS = (("onnxruntime", "float32"), ("openvino", "float32"), ("openvino", "bfloat16"))
DECODES_PER_ROUND = 3
MAX_PIXELS = 100_000_000
GRID = 3  # clicks a side, for the agreement of masks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--architecture", default="mobile_sam")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--model", help="an imported or bundled model, instead of a checkpoint")
    parser.add_argument("--images", type=Path, nargs="+", default=[IMAGE])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--points", type=int, default=1, help="of the prompt that is timed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.model:
            spec = find_models(model_dir_of(os.environ)).spec(arguments.model)
        else:
            checkpoint = arguments.checkpoint or random_checkpoint(
                arguments.architecture, Path(folder)
            )
            spec = import_checkpoint(checkpoint, Path(folder))
        copies = Path(folder) / "compressed"
        copies.mkdir()
        specs = {weights: compress(spec, weights, copies) for weights in COMPRESSIONS}
        specs["float32"] = spec
        images = [path.read_bytes() for path in arguments.images]
        names = ", ".join(path.name for path in arguments.images)
        points = f"{arguments.points} point{'s' if arguments.points > 1 else ''}"
        print(f"{spec.title}, {arguments.rounds} rounds, {points}, {names}\n")
        for threads in arguments.threads:
            compare_engines(specs, images, threads, arguments.rounds, arguments.points)
        compare_workers(spec, images[0], Path(folder) / "socket")


def random_checkpoint(architecture: str, folder: Path) -> Path:
    """Save random weights, in a process of its own to keep PyTorch out of this one."""
    path = folder / "random.pt"
    script = (
        "from models_support import random_network, save_checkpoint\n"
        "from pathlib import Path\n"
        f"save_checkpoint(random_network({architecture!r}), {architecture!r}, Path({str(path)!r}))"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT / "tests", check=True)
    return path


@dataclass
class Contestant:
    """An engine in a process of its own, and what was measured of it."""

    choice: EngineChoice
    weights: str
    connection: Connection
    process: multiprocessing.context.SpawnProcess
    load_s: float
    encode_ms: list[float] = field(default_factory=list)
    decode_ms: list[float] = field(default_factory=list)

    def ask(self, what: str) -> object:
        self.connection.send(what)
        return self.connection.recv()


def compare_engines(
    specs: Mapping[str, ModelSpec], images: list[bytes], threads: int, rounds: int, points: int
) -> None:
    started = [start(specs, images, threads, points, *names) for names in CONTESTANTS]
    contestants = [contestant for contestant in started if contestant]
    for number in range(rounds + 1):
        for contestant in contestants:
            times = contestant.ask("time")
            assert isinstance(times, tuple)
            if number:  # the first is for warming up
                contestant.encode_ms.append(times[0])
                contestant.decode_ms += times[1]
    reference = contestants[0]
    theirs = reference.ask("results")
    print(f"{threads} thread{'s' if threads > 1 else ''}:\n")
    print(
        "| engine | precision | weights | disk MiB | encoder ms | ratio | decoder ms | ratio "
        "| load s | peak MiB | embedding cosine | mask IoU, mean | least |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for contestant in contestants:
        cosine, ious = agreement(contestant.ask("results"), theirs)
        print(
            f"| {contestant.choice.name} | {contestant.choice.precision} | {contestant.weights} "
            f"| {specs[contestant.weights].file_bytes / (1 << 20):.1f} "
            f"| {summary(contestant.encode_ms)} "
            f"| {ratio(reference.encode_ms, contestant.encode_ms)} "
            f"| {summary(contestant.decode_ms)} "
            f"| {ratio(reference.decode_ms, contestant.decode_ms)} "
            f"| {contestant.load_s:.1f} | {contestant.ask('memory')} "
            f"| {cosine:.6f} | {statistics.mean(ious):.4f} | {min(ious):.4f} |"
        )
    print()
    for contestant in contestants:
        contestant.connection.send("end")
        contestant.process.join()


def start(
    specs: Mapping[str, ModelSpec],
    images: list[bytes],
    threads: int,
    points: int,
    engine: str,
    precision: str,
    weights: str,
) -> Contestant | None:
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    arguments = (there, specs[weights], images, threads, points, engine, precision)
    process = spawn.Process(target=run, args=arguments)
    process.start()
    choice, load_s = here.recv()
    if isinstance(choice, str):
        print(f"{engine} {precision}: left out, {choice}\n")
        return None
    return Contestant(choice, weights, here, process, load_s)


def run(
    connection: Connection,
    spec: ModelSpec,
    images: list[bytes],
    threads: int,
    points: int,
    engine: str,
    precision: str,
) -> None:
    """Answer `Contestant.ask` until told to end."""
    if engine == "pytorch":
        sys.path.insert(0, str(ROOT / "tests"))
        __import__("models_support")  # makes torchvision fit a CPU-only PyTorch
    try:
        start = time.perf_counter()
        choice = choose_engine(engine, precision, spec)
        predictor = Predictor(spec, open_engine(choice, spec, threads=threads))
        connection.send((choice, time.perf_counter() - start))
    except EngineError as error:
        connection.send((str(error), 0.0))
        return
    embedding, _ = predictor.embed(images[0], Interrupt(), max_pixels=MAX_PIXELS)
    click = prompt(embedding.original_size, np.linspace(0.1, 0.9, points + 2)[1:-1])
    while (asked := connection.recv()) != "end":
        if asked == "time":
            _, durations = predictor.embed(images[0], Interrupt(), max_pixels=MAX_PIXELS)
            times = [
                predictor.decode(embedding, click, multimask_output=False)[1]
                for _ in range(DECODES_PER_ROUND)
            ]
            connection.send((durations.encoder_ms, times))
        elif asked == "memory":
            connection.send(peak_mib("self"))
        else:
            tensor = embedding.tensors["image_embedding"].astype(np.float64)
            connection.send(
                (tensor, [mask for image in images for mask in masks(predictor, image)])
            )


def masks(predictor: Predictor, image: bytes) -> Iterator[NDArray[np.bool_]]:
    """Return the mask of each click of the grid."""
    embedding, _ = predictor.embed(image, Interrupt(), max_pixels=MAX_PIXELS)
    for click in clicks(embedding.original_size):
        (candidate,), _ = predictor.decode(embedding, click, multimask_output=False)
        mask = predictor.mask(embedding, candidate)
        yield mask_from_counts(mask.counts, mask.height, mask.width)


def clicks(original_size: tuple[int, int]) -> list[prompts.Prompt]:
    """A grid of one-point prompts."""
    steps = (np.arange(GRID) + 0.5) / GRID
    return [prompt(original_size, [x], y) for y in steps for x in steps]


def prompt(original_size: tuple[int, int], x: Iterable[float], y: float = 0.5) -> prompts.Prompt:
    """A prompt of positive points at fractions of the image's width and height."""
    height, width = original_size
    coords = np.array([[fraction * width, y * height] for fraction in x], np.float32)
    labels = np.full(len(coords), prompts.OBJECT, np.float32)
    return prompts.Prompt(point_coords=coords, point_labels=labels, box=None, mask_input=None)


def agreement(ours: object, theirs: object) -> tuple[float, list[float]]:
    """Return the cosine of the embeddings, and the IoU of each mask."""
    assert isinstance(ours, tuple)
    assert isinstance(theirs, tuple)
    product = np.linalg.norm(ours[0]) * np.linalg.norm(theirs[0])
    cosine = float((ours[0] * theirs[0]).sum() / product)
    return cosine, [iou(a, b) for a, b in zip(ours[1], theirs[1], strict=True)]


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    union = int((a | b).sum())
    return float((a & b).sum() / union) if union else 1.0


def summary(times: Sequence[float]) -> str:
    return f"{statistics.median(times):.0f} ({min(times):.0f})"


def ratio(reference: Sequence[float], times: Sequence[float]) -> str:
    return f"{statistics.median(reference) / statistics.median(times):.2f}"


def peak_mib(process: object) -> int:
    """Return the most memory that a process ever had. (getrusage's counts its parent's, too.)"""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert match
    return int(match[1]) >> 10


def compare_workers(spec: ModelSpec, image: bytes, socket: Path) -> None:
    print("Whole workers, two threads:\n")
    print("| engine | precision | first Embed answered after s | peak MiB after 8 clicks |")
    print("| --- | --- | --- | --- |")
    for engine, precision in WORKERS:
        try:
            choose_engine(engine, precision, spec)
        except EngineError:
            continue  # the tables above say why
        seconds, mib = run_worker(spec, image, socket, engine, precision)
        print(f"| {engine} | {precision} | {seconds:.1f} | {mib} |")


def run_worker(
    spec: ModelSpec, image: bytes, socket: Path, engine: str, precision: str
) -> tuple[float, int]:
    flags = {
        "--listen": f"unix:{socket}",
        "--model": spec.name,
        # Bundled models are found by themselves, and must not be found twice.
        "--model-dir": str(socket.parent if spec.folder.parent == BUNDLED else spec.folder.parent),
        "--engine": engine,
        "--precision": precision,
        "--threads": "2",
    }
    start = time.perf_counter()
    words = [word for flag in flags.items() for word in flag]
    worker = subprocess.Popen(
        [sys.executable, "-m", "sam_inference", *words], stderr=subprocess.PIPE, text=True
    )
    assert worker.stderr
    try:
        for line in worker.stderr:
            if " ready model=" in line:
                break
        with SamClient(flags["--listen"]) as client:
            embedded = client.embed(image)
            seconds = time.perf_counter() - start
            for index in range(8):
                point = Prompt(point_coords=[[100 + index, 100]], point_labels=[1])
                list(client.decode(embedded.image_id, [point]))
        return seconds, peak_mib(worker.pid)
    finally:
        worker.terminate()
        worker.communicate()


if __name__ == "__main__":
    main()
