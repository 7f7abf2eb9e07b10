"""What the model answered to the earlier prompts of an object helps with the next. Pure.

SAM takes the low-res mask logits of an answer back as a prompt (Kirillov et al. 2023, section 3).
"""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sam_gateway.prompts import ObjectPrompt

Logits = npt.NDArray[np.float32]

# 256 KiB each.
MAX_ANSWERS = 128


@dataclass(frozen=True, slots=True, eq=False)
class _Answer:
    prompt: ObjectPrompt
    mask_input: Logits | None
    low_res_logits: Logits


class Refinement:
    """The last answer for each object, for as long as there is room."""

    def __init__(self) -> None:
        """Begin with no answers."""
        self._answers: OrderedDict[tuple[str, str], _Answer] = OrderedDict()

    def mask_input(self, image_id: str, prompt: ObjectPrompt) -> Logits | None:
        """Return the logits (1, mask_size, mask_size) that go with an object's prompts, if any.

        They are those of the last answer if prompts were only added to it since; and the same
        prompts asked for again get the same as before.
        """
        last = self._answers.get((image_id, prompt.prompt_id))
        if last is None or last.prompt.box != prompt.box:
            return None
        before, now = set(last.prompt.points), set(prompt.points)
        if before == now:
            return last.mask_input
        return last.low_res_logits if before < now else None

    def remember(
        self,
        image_id: str,
        prompt: ObjectPrompt,
        mask_input: Logits | None,
        low_res_logits: Logits,
    ) -> None:
        """Keep an answer to an object's prompts, and what went with them."""
        key = (image_id, prompt.prompt_id)
        self._answers[key] = _Answer(prompt, mask_input, low_res_logits)
        self._answers.move_to_end(key)
        if len(self._answers) > MAX_ANSWERS:
            self._answers.popitem(last=False)
