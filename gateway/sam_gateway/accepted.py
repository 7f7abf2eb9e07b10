"""Prompts that have done their work: those of regions that are accepted already. Pure.

A suggestion that is accepted on the canvas leaves its prompts open, and Label Studio sends them
again with those of the next object. What tells them apart is the annotator's draft, which comes
along: it holds prompts and regions in the order of their making.
"""

import hashlib
from collections.abc import Sequence


def region_id(prompt_id: str, control_name: str, labels: Sequence[str], part: int = 0) -> str:
    """Return the id of the region that is suggested for an object.

    It depends on the object's first prompt, the output tag and the labels, and on the part where
    a mask is written as several: further clicks on an object replace its regions, and another
    object gets others.
    """
    identity = [prompt_id, control_name, *labels, *([str(part)] if part else [])]
    return hashlib.sha256("\0".join(identity).encode()).hexdigest()[:10]


class SavedResult:
    """The regions and prompts of one draft or annotation, by their place in it."""

    def __init__(self, entries: Sequence[object]) -> None:
        """`entries` is its `result`; what is not as expected there is passed over."""
        self._places: dict[str, int] = {}
        self._control_names: set[str] = set()
        for place, entry in enumerate(entries):
            if isinstance(entry, dict) and isinstance(entry.get("id"), str):
                self._places.setdefault(entry["id"], place)
                if isinstance(entry.get("from_name"), str):
                    self._control_names.add(entry["from_name"])

    def accepted(self, prompt_id: str, labels: Sequence[str]) -> int | None:
        """Return the place of a region whose object began with a prompt; None if there is none."""
        for name in self._control_names:
            if (place := self._places.get(region_id(prompt_id, name, labels))) is not None:
                return place
        return None

    def is_before(self, prompt_id: str, place: int) -> bool:
        """Whether a prompt was there before what is at a place."""
        return self._places.get(prompt_id, place) < place
