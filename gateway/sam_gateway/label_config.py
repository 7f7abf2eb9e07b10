"""A project's labeling config (XML) as what the gateway needs of it."""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException, ElementTree

from sam_gateway.errors import InvalidRequestError, NoOutputTagError
from sam_gateway.shapes import SHAPES

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
    `smart` is whether its tool has a smart copy, which it has unless the config denies it.
    """

    kind: str
    name: str
    to_names: tuple[str, ...]
    labels: frozenset[str]
    smart: bool


@dataclass(frozen=True, slots=True)
class Output:
    """Where an object goes: a control with labels, or one without and its `<Labels>`."""

    control: ControlTag
    labels_control: ControlTag | None = None

    @property
    def shape(self) -> str:
        """What the control holds, one of SHAPES."""
        return self.control.kind.removesuffix("labels")


@dataclass(frozen=True, slots=True)
class LabelConfig:
    """The image and control tags of a labeling config."""

    images: dict[str, ImageTag]
    controls: tuple[ControlTag, ...]

    def outputs(
        self, to_name: str, labels: Sequence[str], shapes: Sequence[str] = ()
    ) -> list[Output]:
        """Choose the tags that can hold an object with these labels on this image.

        Of each of `shapes` that the config has a tag for, one; without `shapes`, the first of
        SHAPES only. For a shape, a tag with the labels comes first, as `<BrushLabels>`, then one
        whose labels come from the task data, then a plain one beside `<Labels>`. If no shape has
        any of these, tags with other labels are taken.

        Raises NoOutputTagError if there is none.
        """
        wanted = shapes or tuple(SHAPES)
        for choose in (self._holding_output, self._any_output):
            found = [output for shape in wanted if (output := choose(shape, to_name, labels))]
            if found:
                return found if shapes else found[:1]
        raise NoOutputTagError(
            f"no tag for {' or '.join(shapes) + ' (OUTPUT)' if shapes else 'masks'} on image "
            f'{to_name!r}: add <{wanted[0].capitalize()}Labels name="{wanted[0]}" '
            f'toName="{to_name}"> with the labels {", ".join(labels) or "of the prompts"} to the '
            "labeling config",
            field="label_config",
        )

    def _holding_output(self, shape: str, to_name: str, labels: Sequence[str]) -> Output | None:
        if control := _holding(self._controls(f"{shape}labels", to_name), labels):
            return Output(control)
        plain = next(iter(self._controls(shape, to_name)), None)
        holder = _holding(self._controls("labels", to_name), labels)
        return Output(plain, holder) if plain and holder else None

    def _any_output(self, shape: str, to_name: str, labels: Sequence[str]) -> Output | None:
        del labels
        if controls := self._controls(f"{shape}labels", to_name):
            return Output(controls[0])
        plain = next(iter(self._controls(shape, to_name)), None)
        holder = next(iter(self._controls("labels", to_name)), None)
        return Output(plain, holder) if plain else None

    def _controls(self, kind: str, to_name: str) -> list[ControlTag]:
        return [c for c in self.controls if c.kind == kind and to_name in c.to_names]


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
    controls: list[tuple[str, dict[str, str], set[str]]] = []
    # Elements still to read, each with the labels of the control around it. A stack, so that
    # the depth of the config does not matter, and one visit each.
    pending: list[tuple[Element, set[str]]] = [(root, set())]
    while pending:
        element, labels = pending.pop()
        kind = element.tag.lower()
        attributes = {key.lower(): value for key, value in element.attrib.items()}
        if kind == "image":
            source = attributes.get("valuelist") or attributes.get("value", "")
            if match := _TASK_KEY.fullmatch(source.strip()):
                name = attributes.get("name", "")
                images[name] = ImageTag(name, match[1])
        elif kind == "label":
            if label := attributes.get("alias") or attributes.get("value"):
                labels.add(label)
        elif "toname" in attributes:
            labels = set()
            controls.append((kind, attributes, labels))
        pending.extend((child, labels) for child in reversed(element))
    return LabelConfig(
        images,
        tuple(
            ControlTag(
                kind,
                attributes.get("name", ""),
                tuple(map(str.strip, attributes["toname"].split(","))),
                frozenset(labels),
                _is_smart(attributes),
            )
            for kind, attributes, labels in controls
        ),
    )


def _is_smart(attributes: dict[str, str]) -> bool:
    smart_only = attributes.get("smartonly", "").lower() == "true"
    return smart_only or attributes.get("smart", "").lower() != "false"


def _holding(controls: Sequence[ControlTag], labels: Sequence[str]) -> ControlTag | None:
    """Choose the control that has the labels, else one that has none until it sees the task."""
    having = (control for control in controls if labels and control.labels.issuperset(labels))
    dynamic = (control for control in controls if labels and not control.labels)
    return next(having, None) or next(dynamic, None)
