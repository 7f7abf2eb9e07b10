"""A project's labeling config (XML) as what the gateway needs of it."""

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException, ElementTree

from sam_gateway.errors import InvalidRequestError, NoOutputTagError

# Real configs are some kilobytes; a few thousand labels are some hundred.
MAX_CONFIG_CHARACTERS = 2**20

_TASK_KEY = re.compile(r"\$([\w.]+)")


@dataclass(frozen=True, slots=True)
class ImageTag:
    """An `<Image>`: its name, and the key of the task data that holds its address(es)."""

    name: str
    key: str


@dataclass(frozen=True, slots=True)
class ControlTag:
    """A tag that makes regions: its kind in lower case, its image tags and its labels.

    `labels` holds what is on the wire: the alias of a label that has one, else its value.
    """

    kind: str
    name: str
    to_names: tuple[str, ...]
    labels: frozenset[str]


@dataclass(frozen=True, slots=True)
class Output:
    """Where a mask goes: a control of kind `brushlabels`, or a `brush` with its `<Labels>`."""

    control: ControlTag
    labels_control: ControlTag | None = None


@dataclass(frozen=True, slots=True)
class LabelConfig:
    """The image and control tags of a labeling config."""

    images: dict[str, ImageTag]
    controls: tuple[ControlTag, ...]

    def output(self, to_name: str, labels: Sequence[str]) -> Output:
        """Choose the tag that can hold a mask with these labels on this image.

        A `<BrushLabels>` with the labels comes first, then `<Brush>` beside a `<Labels>` with
        the labels, then any of them (labels may come from the task data).

        Raises NoOutputTagError if there is none.
        """
        brush_labels = list(self._controls("brushlabels", to_name))
        brushes = list(self._controls("brush", to_name))
        holder = _holding(self._controls("labels", to_name), labels)
        if control := _holding(brush_labels, labels):
            return Output(control)
        if brushes and holder:
            return Output(brushes[0], holder)
        if brush_labels:
            return Output(brush_labels[0])
        if brushes:
            return Output(brushes[0], next(self._controls("labels", to_name), None))
        raise NoOutputTagError(
            f"no tag for masks on image {to_name!r}: add "
            f'<BrushLabels name="brush" toName="{to_name}"> with the labels '
            f"{', '.join(labels) or 'of the prompts'} to the labeling config",
            field="label_config",
        )

    def _controls(self, kind: str, to_name: str) -> Iterator[ControlTag]:
        return (c for c in self.controls if c.kind == kind and to_name in c.to_names)


@functools.lru_cache(maxsize=256)
def parse_label_config(text: str) -> LabelConfig:
    """Read a labeling config; the last ones read are remembered by their text.

    Tag and attribute names are compared without case, as Label Studio's own editor does.

    Raises InvalidRequestError (field `label_config`) if it is no XML, declares entities, or is
    larger than MAX_CONFIG_CHARACTERS.
    """
    if len(text) > MAX_CONFIG_CHARACTERS:
        raise InvalidRequestError(
            f"{len(text)} characters, at most {MAX_CONFIG_CHARACTERS} are read",
            field="label_config",
        )
    try:
        root = ElementTree.fromstring(text, forbid_dtd=True)
    except (ParseError, ValueError, DefusedXmlException) as error:
        raise InvalidRequestError(f"not a labeling config: {error}", field="label_config") from None
    images: dict[str, ImageTag] = {}
    controls: list[tuple[str, str, str, set[str]]] = []
    # Elements still to read, each with the labels of the control around it. A stack, so that
    # the depth of the config does not matter, and one visit each.
    pending: list[tuple[Element, set[str]]] = [(root, set())]
    while pending:
        element, labels = pending.pop()
        kind = element.tag.lower()
        attributes = {key.lower(): value for key, value in element.attrib.items()}
        name = attributes.get("name", "")
        if kind == "image":
            source = attributes.get("valuelist") or attributes.get("value", "")
            if match := _TASK_KEY.fullmatch(source.strip()):
                images[name] = ImageTag(name, match[1])
        elif kind == "label":
            if label := attributes.get("alias") or attributes.get("value"):
                labels.add(label)
        elif "toname" in attributes:
            labels = set()
            controls.append((kind, name, attributes["toname"], labels))
        pending.extend((child, labels) for child in reversed(element))
    return LabelConfig(
        images,
        tuple(
            ControlTag(kind, name, tuple(map(str.strip, to_names.split(","))), frozenset(labels))
            for kind, name, to_names, labels in controls
        ),
    )


def _holding(controls: Iterable[ControlTag], labels: Sequence[str]) -> ControlTag | None:
    return next((c for c in controls if labels and c.labels.issuperset(labels)), None)
