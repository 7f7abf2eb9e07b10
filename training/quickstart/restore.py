"""Write model files back as a checkpoint, so that training can go on from them.

    python -m training.quickstart.restore --model FILES --folder build/quickstart

Export has folded every batch normalisation into its convolution. Here each gets the statistics of
its input on generated scenes, with the weights that undo them: the network answers as the files do,
and is ready to be trained.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from .network import MASK_SIZE, QuickstartModel
from .prompts import first_prompt, pack
from .scenes import make_scene
from .train import PROMPTS, new_optimizer, normalise, save_checkpoint

RESTORE_SEED = 3_000_017  # of scenes that neither training nor evaluation uses
SCENES = 48
BATCH = 8  # scenes

Arrays = dict[str, NDArray[np.float32]]


def restore(folder: Path) -> QuickstartModel:
    """Return the training network with the weights of `folder`, in evaluation mode.

    Raises:
        ValueError: if the files are not those of this network.
    """
    model = QuickstartModel().eval()
    called = _calls(model)
    for part in ("encoder", "decoder"):
        _fill(getattr(model, part), called[part], onnx.load(folder / f"{part}.onnx"))
    _set_statistics(model, called["encoder"] + called["decoder"])
    return model


def _scene_batch(first: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return images (count, 3, 256, 256) and PROMPTS prompts to each of them."""
    rng = np.random.default_rng([RESTORE_SEED, first])
    scenes = [make_scene(RESTORE_SEED, index) for index in range(first, first + count)]
    prompts = [
        first_prompt(scene.mask(int(number)), rng)
        for scene in scenes
        for number in rng.integers(len(scene.objects), size=PROMPTS)
    ]
    coords, labels = pack(prompts)
    image = normalise(np.stack([s.image for s in scenes]), [s.input_size for s in scenes])
    return image, torch.from_numpy(coords), torch.from_numpy(labels)


@torch.no_grad()
def _run(model: QuickstartModel, first: int, count: int) -> None:
    image, coords, labels = _scene_batch(first, count)
    no_mask = torch.zeros(len(coords), 1, MASK_SIZE, MASK_SIZE), torch.zeros(len(coords))
    model.decoder(model.encoder(image), coords, labels, *no_mask)


def _calls(model: QuickstartModel) -> dict[str, list[tuple[str, nn.Module]]]:
    """Return the convolutions, normalisations and linear layers of each part as they are called."""
    called: dict[str, list[tuple[str, nn.Module]]] = {"encoder": [], "decoder": []}
    hooks = []
    for part, calls in called.items():
        for name, module in getattr(model, part).named_modules():
            if isinstance(module, (nn.Conv2d, nn.BatchNorm2d, nn.Linear)):
                hooks.append(module.register_forward_hook(_noting(calls, name)))
    _run(model, 0, 1)
    for hook in hooks:
        hook.remove()
    return called


def _noting(calls: list[tuple[str, nn.Module]], name: str) -> Callable[..., None]:
    """Return a hook that adds the module that is called."""

    def note(module: nn.Module, *_: object) -> None:
        calls.append((name, module))

    return note


@torch.no_grad()
def _fill(part: nn.Module, called: list[tuple[str, nn.Module]], file: onnx.ModelProto) -> None:
    """Put the arrays of a graph into a part, by name or, where export renamed them, by order."""
    arrays: Arrays = {
        tensor.name.removesuffix("_float16"): numpy_helper.to_array(tensor).astype(np.float32)
        for tensor in file.graph.initializer
    }
    nodes = [n for n in file.graph.node if n.op_type in ("Conv", "MatMul", "Gemm")]
    # The smoothing at the end is a convolution without a module.
    weights = [n.input[1:] for n in nodes if n.input[1] in arrays and "smooth" not in n.input[1]]
    layers = [(name, m) for name, m in called if isinstance(m, (nn.Conv2d, nn.Linear))]
    if len(weights) != len(layers):
        raise ValueError(f"{len(weights)} layers in the file, {len(layers)} in the network")
    state = part.state_dict()
    left = {
        n for n in state if not n.endswith(("num_batches_tracked", "running_mean", "running_var"))
    }

    def put(name: str, value: NDArray[np.float32]) -> None:
        if state[name].shape != value.shape:
            raise ValueError(f"{name}: {value.shape} in the file, {tuple(state[name].shape)} here")
        state[name].copy_(torch.from_numpy(value.copy()))
        left.discard(name)

    for name, value in arrays.items():
        if name in state:
            put(name, value)
    places = {name: index for index, (name, _) in enumerate(called)}
    for (name, layer), names in zip(layers, weights, strict=True):
        weight = arrays[names[0]]
        # A Linear is written as MatMul with its weight turned, where its input has three axes.
        turned = isinstance(layer, nn.Linear) and names[0] not in state
        put(f"{name}.weight", weight.T if turned else weight)
        if isinstance(layer, nn.Conv2d) and layer.bias is None:
            norm = called[places[name] + 1][0]
            put(f"{norm}.bias", arrays[names[1]])
            put(f"{norm}.weight", np.ones_like(arrays[names[1]]))
    if left:
        raise ValueError(f"not in the file: {', '.join(sorted(left))}")


@torch.no_grad()
def _set_statistics(model: QuickstartModel, called: list[tuple[str, nn.Module]]) -> None:
    """Give folded normalisations the statistics of their input, and weights that undo them."""
    folded: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    for (_, layer), (_, norm) in pairwise(called):
        if isinstance(layer, nn.Conv2d) and layer.bias is None:
            assert isinstance(norm, nn.BatchNorm2d)
            folded.append((layer, norm))
    sums: dict[nn.BatchNorm2d, list[Tensor]] = {norm: [] for _, norm in folded}

    def note(norm: nn.BatchNorm2d, inputs: tuple[Tensor], _: object) -> None:
        values = inputs[0].double()
        sums[norm].append(torch.stack([values.mean((0, 2, 3)), values.square().mean((0, 2, 3))]))

    hooks = []
    for _, norm in folded:
        assert norm.running_var is not None
        norm.running_var.fill_(1 - norm.eps)  # the identity but for the bias
        hooks.append(norm.register_forward_hook(note))
    for first in range(0, SCENES, BATCH):
        _run(model, first, BATCH)
    for hook in hooks:
        hook.remove()
    for layer, norm in folded:
        mean, square = torch.stack(sums[norm]).mean(dim=0)
        variance = (square - mean.square()).clamp(min=1e-8)
        # A normalised convolution may have any scale; this one is that of new weights, for which
        # the learning rate is made.
        scale = _fresh_scale(layer) / layer.weight.square().mean((1, 2, 3)).sqrt().clamp(min=1e-8)
        layer.weight *= scale[:, None, None, None]
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.copy_(mean * scale)
        norm.running_var.copy_(variance * scale.square())
        norm.bias.add_(mean)
        norm.weight.copy_((norm.running_var + norm.eps).sqrt() / scale)


def _fresh_scale(layer: nn.Conv2d) -> float:
    """Return the root mean square of PyTorch's initial weights of such a layer."""
    return float((3 * layer.weight[0].numel()) ** -0.5)


def main() -> None:
    """Read the arguments and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, required=True, help="folder of the model files")
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints are kept")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    model = restore(arguments.model)
    save_checkpoint(arguments.folder, model, model, new_optimizer(model), step=0)


if __name__ == "__main__":
    main()
