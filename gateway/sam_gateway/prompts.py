"""Requests of Label Studio as objects to cut out. Pure: dictionaries in, values out."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sam_gateway.accepted import SavedResult
from sam_gateway.errors import InvalidRequestError
from sam_gateway.rectangles import RECTANGLE_TYPES, rectangles

# Open prompts of one image, as many as the worker takes; the editor is unusable long before.
MAX_PROMPTS = 256
# Bounds of the mask that is answered: each side, and the whole.
MAX_ORIGINAL_SIDE = 2**20
MAX_ORIGINAL_PIXELS = 2**28

_MAX_ITEM_INDEX = 2**31

_POINT_TYPES = frozenset({"keypointlabels", "keypoint"})
_CONTEXT = "params.context.result"


@dataclass(frozen=True, slots=True)
class Task:
    """One task: its id, its data (raw, addresses not resolved) and its path in the request.

    `project` is the number of its project, if that is told; `saved` are the drafts and
    annotations that come along, and `rectangles` those that are drawn already.
    """

    id: int | str
    data: Mapping[str, object]
    field: str
    project: int | None = None
    saved: tuple[SavedResult, ...] = ()
    rectangles: tuple[Mapping[str, object], ...] = ()


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """The body of `POST /predict`; `prompts` is None unless it is interactive.

    `label_config` may be empty where there are no prompts.
    """

    tasks: tuple[Task, ...]
    label_config: str
    prompts: Sequence[object] | None


@dataclass(frozen=True, slots=True)
class Point:
    """A click, in percent of the upright image's width and height."""

    x: float
    y: float
    positive: bool


@dataclass(frozen=True, slots=True)
class Box:
    """An axis-aligned rectangle, in percent of the upright image's width and height."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float


@dataclass(frozen=True, slots=True)
class ObjectPrompt:
    """One object to cut out. `prompt_id` is the id of the first prompt that belongs to it."""

    prompt_id: str
    points: tuple[Point, ...] = ()
    box: Box | None = None

    @property
    def ambiguous(self) -> bool:
        """Whether it is a single click, which may mean a part, the whole or a group."""
        return self.box is None and len(self.points) == 1


@dataclass(frozen=True, slots=True)
class PromptGroup:
    """The objects asked for on one image with one label.

    `original_width` and `original_height` are the size that the browser sees and that the
    answer must have; `item_index` is the page of a multi-image tag; `prompt_ids` are all prompts.
    """

    to_name: str
    item_index: int | None
    labels: tuple[str, ...]
    original_width: int
    original_height: int
    objects: tuple[ObjectPrompt, ...]
    prompt_ids: frozenset[str] = frozenset()


def parse_predict(body: object) -> PredictRequest:
    """Read the body of `POST /predict`.

    Raises InvalidRequestError naming the field that is missing or of the wrong type.
    """
    envelope = _mapping(body, "body")
    tasks = _tasks(envelope)
    label_config = envelope.get("label_config")
    params = envelope.get("params")
    context = None if params is None else _mapping(params, "params").get("context")
    if context is None:
        return PredictRequest(tasks, label_config if isinstance(label_config, str) else "", None)
    prompts = _list(_mapping(context, "params.context").get("result"), _CONTEXT)
    if not tasks:
        raise InvalidRequestError("expected one task, got none", field="tasks")
    return PredictRequest(tasks, _text(label_config, "label_config"), prompts)


def parse_tasks_created(body: object) -> PredictRequest:
    """Read the body of `POST /webhook` that tells of new tasks: tasks without prompts.

    Raises InvalidRequestError naming the field that is missing or of the wrong type.
    """
    envelope = _mapping(body, "body")
    project = _mapping(envelope.get("project"), "project")
    label_config = _text(project.get("label_config"), "project.label_config")
    return PredictRequest(_tasks(envelope), label_config, None)


def group_prompts(
    prompts: Sequence[object], saved: Sequence[SavedResult] = ()
) -> list[PromptGroup]:
    """Sort the open prompts of a click into objects to cut out.

    Entries with the same id are one prompt. The key points of an image and label are one
    object, each rectangle is another; key points together with a single rectangle are one.
    Objects without anything positive are left out. So are prompts of regions that were accepted
    already according to `saved`, as long as others remain.

    Raises InvalidRequestError naming the field.
    """
    if len(prompts) > MAX_PROMPTS:
        raise InvalidRequestError(
            f"{len(prompts)} prompts, at most {MAX_PROMPTS} are taken", field=_CONTEXT
        )
    return _grouped([_read_prompt(entries) for entries in _by_id(prompts, _CONTEXT)], saved)


def group_rectangles(
    task: Task, drawn: Sequence[Mapping[str, object]]
) -> tuple[list[PromptGroup], list[InvalidRequestError]]:
    """Sort rectangles that are on a task already into objects to cut out, as many as there are.

    Returns the groups, and why rectangles that cannot be read are left out, each on its own.
    """
    readable, unreadable = [], []
    for entries in _by_id(drawn, f"{task.field}.rectangles"):
        try:
            readable.append(_read_prompt(entries))
        except InvalidRequestError as error:
            unreadable.append(error)
    return _grouped(readable), unreadable


@dataclass(frozen=True, slots=True)
class _Prompt:
    id: str
    to_name: str
    item_index: int | None
    labels: tuple[str, ...]
    original_size: tuple[int, int]  # width, height
    shape: Point | Box


def _grouped(prompts: Sequence[_Prompt], saved: Sequence[SavedResult] = ()) -> list[PromptGroup]:
    groups: dict[tuple[object, ...], list[_Prompt]] = {}
    for prompt in prompts:
        key = (prompt.to_name, prompt.item_index, prompt.labels, prompt.original_size)
        groups.setdefault(key, []).append(prompt)
    result = []
    for members in groups.values():
        for earlier in saved:
            members = _open(members, earlier)
        first = members[0]
        if objects := _objects(members):
            result.append(
                PromptGroup(
                    first.to_name,
                    first.item_index,
                    first.labels,
                    *first.original_size,
                    objects,
                    frozenset(p.id for p in members),
                )
            )
    return result


def _by_id(
    entries: Sequence[object], context: str
) -> Iterable[Sequence[tuple[str, Mapping[str, object]]]]:
    """Group entries by their ids, each with its path; raises InvalidRequestError naming it."""
    by_id: dict[str, list[tuple[str, Mapping[str, object]]]] = {}
    for i, item in enumerate(entries):
        field = f"{context}[{i}]"
        entry = _mapping(item, field)
        _text(entry.get("type"), f"{field}.type")
        by_id.setdefault(_text(entry.get("id"), f"{field}.id"), []).append((field, entry))
    return by_id.values()


def _read_prompt(entries: Sequence[tuple[str, Mapping[str, object]]]) -> _Prompt:
    """Read one prompt, which a config with `<Labels>` writes twice under the same id."""
    field, entry = next(
        (pair for pair in entries if pair[1].get("type") in _POINT_TYPES | RECTANGLE_TYPES),
        entries[0],
    )
    value = _mapping(entry.get("value"), f"{field}.value")
    kind = entry.get("type")
    width = _whole(entry.get("original_width"), f"{field}.original_width", 1, MAX_ORIGINAL_SIDE)
    height = _whole(entry.get("original_height"), f"{field}.original_height", 1, MAX_ORIGINAL_SIDE)
    if width * height > MAX_ORIGINAL_PIXELS:
        raise InvalidRequestError(
            f"{width}x{height} pixels, at most {MAX_ORIGINAL_PIXELS} are answered",
            field=f"{field}.original_width",
        )
    shape: Point | Box
    if kind in _POINT_TYPES or (kind == "labels" and "height" not in value):
        shape = _point(entry, value, field)
    elif kind in RECTANGLE_TYPES or kind == "labels":
        shape = _box(value, field, width, height)
    else:
        raise InvalidRequestError(
            f"{_shown(kind)} is no prompt; expected a key point or a rectangle "
            f"({', '.join(sorted(_POINT_TYPES | RECTANGLE_TYPES))})",
            field=f"{field}.type",
        )
    index = entry.get("item_index")
    return _Prompt(
        id=_text(entry.get("id"), f"{field}.id"),
        to_name=_text(entry.get("to_name"), f"{field}.to_name"),
        item_index=None
        if index is None
        else _whole(index, f"{field}.item_index", 0, _MAX_ITEM_INDEX),
        labels=next(filter(None, (_labels(e, f) for f, e in entries)), ()),
        original_size=(width, height),
        shape=shape,
    )


def _open(prompts: list[_Prompt], saved: SavedResult) -> list[_Prompt]:
    """Leave out prompts of accepted regions, unless nothing is asked for by the others.

    Those that remain then are a new object. If all are left over, or others are negative only,
    the accepted region is being refined.
    """
    points = [p for p in prompts if isinstance(p.shape, Point)]
    while points:
        place = saved.accepted(points[0].id, points[0].labels)
        if place is None:
            break
        rest = [p for p in points[1:] if not saved.is_before(p.id, place)]
        if not _any_positive(rest):
            break
        points = rest
    boxes = [p for p in prompts if isinstance(p.shape, Box)]
    new_boxes = [p for p in boxes if saved.accepted(p.id, p.labels) is None]
    remaining = {p.id for p in points + (new_boxes or ([] if points else boxes))}
    return [p for p in prompts if p.id in remaining]


def _any_positive(prompts: Sequence[_Prompt]) -> bool:
    return any(isinstance(p.shape, Point) and p.shape.positive for p in prompts)


def _objects(prompts: Sequence[_Prompt]) -> tuple[ObjectPrompt, ...]:
    points = tuple(p.shape for p in prompts if isinstance(p.shape, Point))
    boxes = [(p.id, p.shape) for p in prompts if isinstance(p.shape, Box)]
    if points and len(boxes) == 1:
        return (ObjectPrompt(prompts[0].id, points, boxes[0][1]),)
    objects = [ObjectPrompt(prompt_id, box=box) for prompt_id, box in boxes]
    if _any_positive(prompts):
        first = next(p.id for p in prompts if isinstance(p.shape, Point))
        objects.append(ObjectPrompt(first, points))
    return tuple(objects)


def _point(entry: Mapping[str, object], value: Mapping[str, object], field: str) -> Point:
    positive = entry.get("is_positive", True)
    if not isinstance(positive, bool):
        raise InvalidRequestError(
            f"expected true or false, got {_shown(positive)}", field=f"{field}.is_positive"
        )
    return Point(_clamp(_number(value, "x", field)), _clamp(_number(value, "y", field)), positive)


def _box(value: Mapping[str, object], field: str, image_width: int, image_height: int) -> Box:
    """Read a rectangle; of a rotated one, the box around it.

    It turns by `rotation` degrees, clockwise on the screen, about its top left corner. Angles
    hold for pixels, not for percent, hence the image's size.
    """
    x, y, width, height = (_number(value, key, field) for key in ("x", "y", "width", "height"))
    angle = math.radians(_number(value, "rotation", field) if "rotation" in value else 0.0)
    if angle:
        cos, sin = math.cos(angle), math.sin(angle)
        dx, dy = width * image_width, height * image_height
        xs = [x + part / image_width for part in (0, dx * cos, -dy * sin, dx * cos - dy * sin)]
        ys = [y + part / image_height for part in (0, dx * sin, dy * cos, dx * sin + dy * cos)]
    else:
        xs, ys = [x, x + width], [y, y + height]
    box = Box(*map(_clamp, (min(xs), min(ys), max(xs), max(ys))))
    if not min(box.x_max - box.x_min, box.y_max - box.y_min) > _LEAST_EXTENT_PERCENT:
        raise InvalidRequestError(
            "the rectangle has no area within the image", field=f"{field}.value"
        )
    return box


def _labels(entry: Mapping[str, object], field: str) -> tuple[str, ...]:
    value = _mapping(entry.get("value"), f"{field}.value")
    for key in ("keypointlabels", "rectanglelabels", "labels"):
        labels = value.get(key)
        if labels is not None:
            path = f"{field}.value.{key}"
            return tuple(_text(text, f"{path}[{i}]") for i, text in enumerate(_list(labels, path)))
    return ()


def _tasks(envelope: Mapping[str, object]) -> tuple[Task, ...]:
    tasks = _list(envelope.get("tasks"), "tasks")
    return tuple(parse_task(task, f"tasks[{i}]") for i, task in enumerate(tasks))


def parse_task(item: object, field: str) -> Task:
    """Read a task as Label Studio writes it.

    Raises InvalidRequestError naming the field, whose path begins with `field`.
    """
    task = _mapping(item, field)
    task_id = task.get("id")
    if isinstance(task_id, bool) or not isinstance(task_id, int | str) or task_id == "":
        raise InvalidRequestError(
            f"expected the number of a task, got {_shown(task_id)}", field=f"{field}.id"
        )
    project = task.get("project")
    return Task(
        task_id,
        _mapping(task.get("data"), f"{field}.data"),
        field,
        project if isinstance(project, int) else None,
        _saved(task),
        rectangles(task),
    )


def _saved(task: Mapping[str, object]) -> tuple[SavedResult, ...]:
    """Read the drafts and annotations that come with a task, as far as they can be read."""
    found = []
    for key in ("drafts", "annotations"):
        entries = task.get(key)
        for entry in entries if isinstance(entries, list) else ():
            result = entry.get("result") if isinstance(entry, dict) else None
            if isinstance(result, list):
                found.append(SavedResult(result))
    return tuple(found)


def _mapping(value: object, field: str) -> Mapping[str, object]:
    if isinstance(value, dict):
        return value
    raise InvalidRequestError(f"expected an object, got {_shown(value)}", field=field)


def _list(value: object, field: str) -> Sequence[object]:
    if isinstance(value, list):
        return value
    raise InvalidRequestError(f"expected a list, got {_shown(value)}", field=field)


def _text(value: object, field: str) -> str:
    if isinstance(value, str) and value:
        return value
    raise InvalidRequestError(f"expected a text, got {_shown(value)}", field=field)


def _whole(value: object, field: str, minimum: int, maximum: int) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum:
        return value
    raise InvalidRequestError(
        f"expected a whole number from {minimum} to {maximum}, got {_shown(value)}", field=field
    )


def _number(value: Mapping[str, object], key: str, field: str) -> float:
    number = value.get(key)
    if (
        isinstance(number, int | float)
        and not isinstance(number, bool)
        and abs(number) < _LARGEST_PERCENT
    ):
        return float(number)
    raise InvalidRequestError(
        f"expected a number (percent), got {_shown(number)}", field=f"{field}.value.{key}"
    )


# Far outside of every image; keeps the arithmetic finite.
_LARGEST_PERCENT = 1e9
# Corners go to the worker as float32, in which those of a thinner rectangle may be equal.
_LEAST_EXTENT_PERCENT = 1e-4


def _clamp(percent: float) -> float:
    return min(max(percent, 0.0), 100.0)


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    text = repr(value) if isinstance(value, str | int | float) else type(value).__name__
    return text if len(text) <= 40 else text[:40] + "…"
