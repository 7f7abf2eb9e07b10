"""A graph as a model of Triton's Python backend, where there is no ONNX backend.

`sam-worker models export-triton --backend python` copies this file beside the graph; it needs
nothing but NumPy and ONNX Runtime, and is never imported by the worker.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime as ort
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Runs `model.onnx` of its own folder. Triton calls the methods by their names."""

    def initialize(self, arguments: dict[str, str]) -> None:
        """Load the graph."""
        folder = Path(arguments["model_repository"]) / arguments["model_version"]
        self._session = ort.InferenceSession(
            str(folder / "model.onnx"), providers=ort.get_available_providers()
        )
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._outputs = [value.name for value in self._session.get_outputs()]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests, one after the other."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        feeds = {
            name: pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in self._inputs
        }
        results = self._session.run(self._outputs, feeds)
        tensors = [
            pb_utils.Tensor(name, result)
            for name, result in zip(self._outputs, results, strict=True)
        ]
        return pb_utils.InferenceResponse(output_tensors=tensors)
