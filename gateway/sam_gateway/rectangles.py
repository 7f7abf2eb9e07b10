"""Rectangles that are on a task already. Pure."""

from collections.abc import Iterator, Mapping

RECTANGLE_TYPES = frozenset({"rectanglelabels", "rectangle"})

# Who corrects a prediction does not want its old rectangles back: the first that has any counts.
_SOURCES = ("annotations", "drafts", "predictions")


def rectangles(task: Mapping[str, object]) -> tuple[Mapping[str, object], ...]:
    """Return the rectangles of a task as prompts, each once; what cannot be read is passed over.

    They are those of its annotations; if these have none, of its drafts; then of its predictions.
    With `<Labels>`, a rectangle is two entries with one id.
    """
    for source in _SOURCES:
        found: list[Mapping[str, object]] = []
        seen: set[object] = set()
        for result in _results(task.get(source)):
            for entries in _by_id(result):
                # Somebody else's annotation may have the same one under another id.
                names = {str(entries[0].get("id")), str([_place(entry) for entry in entries])}
                if not seen & names:
                    found += entries
                seen |= names
        if found:
            return tuple(found)
    return ()


def _results(saved: object) -> Iterator[list[object]]:
    for entry in saved if isinstance(saved, list) else ():
        if isinstance(entry, dict) and not entry.get("was_cancelled"):
            result = entry.get("result")
            if isinstance(result, list):
                yield result


def _by_id(result: list[object]) -> list[list[Mapping[str, object]]]:
    """Group the entries of rectangles by their ids."""
    groups: dict[str, list[Mapping[str, object]]] = {}
    entries = [
        entry
        for entry in result
        if isinstance(entry, dict)
        and isinstance(entry.get("id"), str)
        and entry["id"]
        and isinstance(entry.get("type"), str)
    ]
    for entry in entries:
        if entry["type"] in RECTANGLE_TYPES:
            groups.setdefault(entry["id"], []).append(entry)
    for entry in entries:
        if entry["type"] == "labels" and entry["id"] in groups:
            groups[entry["id"]].append(entry)
    return list(groups.values())


def _place(entry: Mapping[str, object]) -> object:
    return [entry.get(key) for key in ("type", "to_name", "item_index", "value")]
