"""The gateway under test, with a worker of its own, and the way around it to the worker."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from e2e.masks import Mask
from e2e.processes import ServerProcess
from sam_client import Prompt, SamClient


class Gateway:
    """A running `sam-gateway` on a free port."""

    def __init__(self, log: Path, settings: Mapping[str, str]) -> None:
        """Start it with environment variables and wait until it and its worker listen."""
        command = [sys.executable, "-m", "sam_gateway", "--port", "0"]
        self._process = ServerProcess(command, settings, log)
        self.url = self._logged(r"listening url=(\S+)")
        self.worker_target = self._logged(r"listening target=(\S+)")

    @property
    def log(self) -> str:
        """What the gateway and its worker have logged."""
        return self._process.log.read_text()

    def stop(self) -> None:
        """Stop it and its worker."""
        self._process.stop()

    def _logged(self, pattern: str) -> str:
        match = self._process.wait_for(lambda: re.search(pattern, self.log), timeout_s=60)
        return match[1]


def worker_masks(
    worker: SamClient, image: Path, prompts: Sequence[Mapping[str, Any]]
) -> list[Mask]:
    """Ask the worker itself what the prompts of one Label Studio request cut out.

    The key points of a request are one object, each of its rectangles is another. Of a single
    click the best of the three candidates counts, as for an annotator, and each further one goes on
    from the logits of the answer before.
    """
    content = image.read_bytes()
    embedded = worker.embed(content)
    # Percent to pixels.
    x, y = embedded.width / 100, embedded.height / 100
    values = [prompt["value"] for prompt in prompts]
    on_points = prompts[0]["type"] in ("keypointlabels", "keypoint")
    if on_points:
        coords = [(value["x"] * x, value["y"] * y) for value in values]
        # Label Studio does not say it of clicks that it has saved and loaded.
        labels = [int(prompt.get("is_positive", True)) for prompt in prompts]
        return [_clicked(worker, embedded.image_id, coords, labels)]
    boxes = [
        (v["x"] * x, v["y"] * y, (v["x"] + v["width"]) * x, (v["y"] + v["height"]) * y)
        for v in values
    ]
    answers = worker.decode(embedded.image_id, [Prompt(box=box) for box in boxes])
    masks = {answer.prompt_index: answer.to_array() for answer in answers}
    return [masks[index] for index in range(len(boxes))]


def _clicked(
    worker: SamClient, image_id: str, coords: Sequence[tuple[float, float]], labels: Sequence[int]
) -> Mask:
    answer = None
    for count in range(1, len(coords) + 1):
        logits = answer.low_res_logits if answer else None
        answer, *_ = worker.decode(  # the best first
            image_id,
            [Prompt(coords[:count], labels[:count], mask_input=logits)],
            multimask_output=count == 1,
            return_low_res_logits=True,
        )
    assert answer
    return answer.to_array()
