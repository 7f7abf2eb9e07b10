"""Negative clicks, remembered.

When a page is opened anew, Label Studio sends the clicks that it had saved once more, but does not
say any longer which of them were negative.
"""

from collections import OrderedDict
from collections.abc import Sequence

# Of a hundred bytes each; those that are open are some dozens.
_MAX_REMEMBERED = 10_000
# Label Studio's have ten characters.
_MAX_ID_LENGTH = 100


class NegativeClicks:
    """The ids of the negative clicks that came last."""

    def __init__(self) -> None:
        """Begin with none."""
        self._ids: OrderedDict[str, None] = OrderedDict()

    def recall(self, prompts: Sequence[object]) -> list[object]:
        """Mark the prompts that were negative when they came first and do not say so any longer."""
        return [self._recall(prompt) for prompt in prompts]

    def _recall(self, prompt: object) -> object:
        if not isinstance(prompt, dict):
            return prompt
        prompt_id = prompt.get("id")
        if not isinstance(prompt_id, str) or len(prompt_id) > _MAX_ID_LENGTH:
            return prompt
        if prompt.get("is_positive") is False:
            self._ids[prompt_id] = None
            self._ids.move_to_end(prompt_id)
            if len(self._ids) > _MAX_REMEMBERED:
                self._ids.popitem(last=False)
        elif "is_positive" not in prompt and prompt_id in self._ids:
            return {**prompt, "is_positive": False}
        return prompt
