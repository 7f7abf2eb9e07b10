"""A Triton Inference Server, which has the networks from `sam-worker models export-triton`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tritonclient.grpc as triton

from sam_inference.engines import Array, EngineChoice, EngineError
from sam_inference.errors import UnavailableError
from sam_inference.interrupt import Interrupt
from sam_inference.models import ModelSpec
from sam_inference.prompts import DecoderInputs

# An encoder may take this long on a busy server; a deadline of the caller's may be shorter.
_TIMEOUT_S = 60.0

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
    """A model's two networks on a server. The client may be shared by threads."""

    def __init__(self, spec: ModelSpec, target: str) -> None:
        """Use the server at `target`, host:port."""
        self._name = spec.name
        self._target = target
        self._embedding_names = tuple(spec.embedding_shapes)
        self._client = triton.InferenceServerClient(target, channel_args=_CHANNEL_OPTIONS)

    def encode(self, image: Array, interrupt: Interrupt) -> dict[str, Array]:
        """See `Engine.encode`. It runs to the end."""
        del interrupt
        outputs = self._infer("encoder", {"image": image}, self._embedding_names)
        return dict(zip(self._embedding_names, outputs, strict=True))

    def decode(self, embedding: Mapping[str, Array], inputs: DecoderInputs) -> tuple[Array, Array]:
        """See `Engine.decode`."""
        feeds = {
            **embedding,
            "point_coords": inputs.point_coords,
            "point_labels": inputs.point_labels,
            "mask_input": inputs.mask_input,
            "has_mask_input": inputs.has_mask_input,
        }
        outputs = self._infer("decoder", feeds, ("low_res_logits", "predicted_iou"))
        return outputs[0], outputs[1]

    def _infer(self, part: str, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Run a network.

        Raises:
            UnavailableError: the server does not answer, or lacks the network.
        """
        inputs = []
        for name, array in feeds.items():
            tensor = triton.InferInput(name, array.shape, "FP32")
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        wanted = [triton.InferRequestedOutput(name) for name in outputs]
        try:
            result = self._client.infer(
                f"{self._name}_{part}", inputs, outputs=wanted, client_timeout=_TIMEOUT_S
            )
        except triton.InferenceServerException as error:
            raise UnavailableError(
                f"Triton at {self._target} cannot run {self._name}_{part}: {error.message()}"
            ) from error
        return [result.as_numpy(name) for name in outputs]
