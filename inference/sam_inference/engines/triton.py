"""A Triton Inference Server, which has the networks from `sam-worker models export-triton`.

Engines are called in the scheduler's threads, each of which waits for its network, so that the
client is the synchronous one: an event loop would add a hop between threads to each call.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from queue import SimpleQueue
from typing import Any

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from sam_inference.engines import Array, EngineChoice, EngineError
from sam_inference.engines.triton_memory import Region, Regions
from sam_inference.errors import UnavailableError
from sam_inference.interrupt import Interrupt
from sam_inference.models import ModelSpec
from sam_inference.prompts import DecoderInputs

Shapes = Mapping[str, tuple[int, ...]]

# A network may take this long on a busy server; a deadline of the caller's may be shorter.
_ENCODER_TIMEOUT_S = 60.0
_DECODER_TIMEOUT_S = 20.0

_CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", -1),  # an image has 12 MiB
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_reconnect_backoff_ms", 2000),  # a server that is back is found soon
]


def settings(precision: str, spec: ModelSpec) -> tuple[str, str]:
    """Return (device, precision) for a model. See `engines`.

    Raises:
        EngineError: anything but float32 is asked for.
    """
    if precision not in ("auto", "float32"):
        raise EngineError(f"the exported networks run in float32, not in {precision}")
    return "", "float32"


def open_model(spec: ModelSpec, choice: EngineChoice, *, threads: int) -> TritonEngine:
    """Return the engine of a model. See `engines`.

    Nothing is asked of the server yet: it may start after the worker, and come and go.
    """
    return TritonEngine(spec, choice.device)


class TritonEngine:
    """A model's two networks on a server."""

    def __init__(self, spec: ModelSpec, target: str) -> None:
        """Use the server at `target`, host:port."""
        self._embedding_shapes = spec.embedding_shapes
        self._mask_size = spec.mask_size
        client = triton.InferenceServerClient(target, channel_args=_CHANNEL_OPTIONS)
        self._encoder = _Network(client, target, f"{spec.name}_encoder", _ENCODER_TIMEOUT_S)
        self._decoder = _Network(client, target, f"{spec.name}_decoder", _DECODER_TIMEOUT_S)

    def encode(self, image: Array, interrupt: Interrupt) -> dict[str, Array]:
        """See `Engine.encode`."""
        return self._encoder.run({"image": image}, self._embedding_shapes, interrupt)

    def decode(self, embedding: Mapping[str, Array], inputs: DecoderInputs) -> tuple[Array, Array]:
        """See `Engine.decode`."""
        feeds = {
            **embedding,
            "point_coords": inputs.point_coords,
            "point_labels": inputs.point_labels,
            "mask_input": inputs.mask_input,
            "has_mask_input": inputs.has_mask_input,
        }
        prompts = len(inputs.point_coords)
        shapes = {
            "low_res_logits": (prompts, 4, self._mask_size, self._mask_size),
            "predicted_iou": (prompts, 4),
        }
        results = self._decoder.run(feeds, shapes, Interrupt())
        return results["low_res_logits"], results["predicted_iou"]


class _Network:
    """A network on a server. Calls may come from several threads."""

    def __init__(
        self, client: triton.InferenceServerClient, target: str, name: str, timeout_s: float
    ) -> None:
        self._client = client
        self._target = target
        self._name = name
        self._timeout_s = timeout_s
        self._regions = Regions(client, target, timeout_s)
        self._sending = threading.Lock()

    def run(
        self, feeds: Mapping[str, Array], shapes: Shapes, interrupt: Interrupt
    ) -> dict[str, Array]:
        """Run the network.

        Args:
            feeds: the inputs by name.
            shapes: those of the outputs, by name.
            interrupt: ends it.

        Returns:
            The outputs by name.

        Raises:
            UnavailableError: the server does not answer, or cannot run the network.
            InterruptedWorkError: it was interrupted.
        """
        try:
            try:
                return self._ask(feeds, shapes, interrupt)
            except InferenceServerException as error:
                if error.status() != "StatusCode.NOT_FOUND":
                    raise
                # A server that was started anew knows none of the regions.
                self._regions.forget()
                return self._ask(feeds, shapes, interrupt)
        except InferenceServerException as error:
            raise UnavailableError(
                f"Triton at {self._target} cannot run {self._name}: {self._reason(error)}"
            ) from error

    def _ask(
        self, feeds: Mapping[str, Array], shapes: Shapes, interrupt: Interrupt
    ) -> dict[str, Array]:
        tensor_shapes = [*(array.shape for array in feeds.values()), *shapes.values()]
        with self._regions.lend(tensor_shapes) as region:
            inputs = [_input(name, array, region) for name, array in feeds.items()]
            outputs, shared = [], {}
            for name, shape in shapes.items():
                output = triton.InferRequestedOutput(name)
                if region is not None:
                    shared[name], offset = region.tensor(shape)
                    output.set_shared_memory(region.name, shared[name].nbytes, offset)
                outputs.append(output)
            result = self._answer(inputs, outputs, interrupt)
            for name, shape in shapes.items():
                given = tuple(result.get_output(name).shape)
                if given != shape:
                    raise InferenceServerException(
                        f"its {name} has the shape {given}, not {shape}; export the model anew"
                    )
            # Copied: the next request has the region.
            return {
                name: shared[name].copy() if region else result.as_numpy(name) for name in shapes
            }

    def _answer(
        self,
        inputs: list[triton.InferInput],
        outputs: list[triton.InferRequestedOutput],
        interrupt: Interrupt,
    ) -> triton.InferResult:
        answers: SimpleQueue[tuple[Any, Exception | None]] = SimpleQueue()
        # One at a time: the client mixes up calls that are begun at once.
        with self._sending:
            call = self._client.async_infer(
                self._name,
                inputs,
                lambda result, error: answers.put((result, error)),
                outputs=outputs,
                client_timeout=self._timeout_s,
            )
        try:
            with interrupt.ends(call.cancel):
                result, error = answers.get()
                if error is not None:
                    raise error
        finally:
            call.cancel()  # where the interrupt came first; an ended call stays as it is
        return result

    def _reason(self, error: InferenceServerException) -> str:
        reason: str = error.message()
        if error.status() == "StatusCode.DEADLINE_EXCEEDED":
            reason = (
                f"no answer within {self._timeout_s:g} s; see in its log whether it hangs, "
                "or give the network more instances or a GPU"
            )
        return reason


def _input(name: str, array: Array, region: Region | None) -> triton.InferInput:
    tensor = triton.InferInput(name, array.shape, "FP32")
    if region is None:
        return tensor.set_data_from_numpy(array)
    shared, offset = region.tensor(array.shape)
    shared[...] = array
    return tensor.set_shared_memory(region.name, array.nbytes, offset)
