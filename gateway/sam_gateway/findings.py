"""What is well and what is not, each with what to do about it. Pure."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from sam_gateway.errors import GatewayError
from sam_gateway.label_config import LabelConfig, Output, parse_label_config

Level = Literal["ok", "warn", "fail"]

_CONNECT = (
    "Label Studio 1.23 and later refuse private addresses: start it with "
    "`ML_BLOCK_LOCAL_IP=false SSRF_PROTECTION_ENABLED=false label-studio start`. Then add the "
    "address of the gateway, as seen from Label Studio, in the project under Settings > Model"
)
_CLICK = (
    "Switch on Interactive preannotations in Settings > Model, and Auto-Annotation in the task; "
    "choose the smart key point or rectangle tool (the last group of the toolbar), then the label"
)

_PROMPT_KINDS = ("keypointlabels", "keypoint", "rectanglelabels", "rectangle")
# Their smart copies ask for nothing when they are used.
_SILENT_KINDS = ("brushlabels", "brush")
_MAX_LABELS_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `subject` is what, `remedy` is empty if nothing is wrong."""

    level: Level
    subject: str
    message: str
    remedy: str = ""


# By the reason of a failed prediction, see errors.py.
_REMEDIES = {
    "label_studio_auth": "set `LABEL_STUDIO_API_KEY` to a personal access token of Label Studio "
    "(Account & Settings > Personal Access Token)",
    "image_unavailable": "check `LABEL_STUDIO_URL` as seen from the gateway, and that the token's "
    "owner can open the task",
    "image_refused": "do what the message says; a private address is allowed by "
    "`ALLOWED_IMAGE_HOSTS`",
    "no_output_tag": "add the tag that the message names, with the labels of the prompts, to the "
    "labeling config",
    "invalid_request": "what came is not what Label Studio sends; the field is named",
    "worker_unavailable": "see the worker's log; a model may still be loading",
    "worker_busy": "clicks come faster than the worker answers: add workers, or a faster model",
    "worker_failed": "see the worker's log",
    "label_studio_failed": "do what the message says; see the log of Label Studio",
    "batch_full": "ask for fewer tasks at once, or again when those that wait are done",
    "timeout": "a smaller model, a GPU, or a larger `PREDICT_TIMEOUT_S` (below Label Studio's "
    "`ML_TIMEOUT_PREDICT`)",
}


def remedy(reason: str) -> str:
    """Return what to do about a prediction that failed."""
    return _REMEDIES.get(reason, "the gateway's log has more")


def call_finding(routes: Collection[str], *, refused: bool) -> Finding:
    """Say whether Label Studio calls; `routes` are those that it has called.

    `refused` says that it did not give the user and password that it should.
    """
    if refused:
        return Finding(
            "fail",
            "calls",
            "Label Studio calls without the user and password that are set",
            "give Label Studio those of `BASIC_AUTH_USER` and `BASIC_AUTH_PASS` (Settings > Model)",
        )
    if not routes:
        return Finding("warn", "calls", "Label Studio has not called since the start", _CONNECT)
    if "predict" not in routes:
        return Finding("warn", "calls", "Label Studio is connected; no click came yet", _CLICK)
    return Finding("ok", "calls", "Label Studio is connected, and its clicks arrive")


def label_config_findings(text: str, shapes: Sequence[str] = ()) -> list[Finding]:
    """Say whether a labeling config lets somebody click, and where masks go and why.

    `shapes` are those that the gateway is set to answer; none: the first that the config holds.
    """
    try:
        config = parse_label_config(text)
    except GatewayError as error:
        return [Finding("fail", "labeling config", str(error), "correct it in Settings")]
    if not config.images:
        return [
            Finding(
                "fail",
                "labeling config",
                "no <Image> with a task key",
                'add `<Image name="image" value="$image"/>`',
            )
        ]
    return [
        finding
        for image in config.images
        for finding in (
            _prompt_finding(config, image),
            *_output_findings(config, image, shapes),
            *_silent_findings(config, image),
        )
    ]


def _prompt_finding(config: LabelConfig, image: str) -> Finding:
    tags = [
        f"{control.name} ({control.kind})"
        for control in config.controls
        if control.kind in _PROMPT_KINDS and image in control.to_names and control.smart
    ]
    if tags:
        return Finding("ok", "prompts", f"{image} is clicked on with {_listed(tags)}")
    return Finding(
        "fail",
        "prompts",
        f"no smart key point or rectangle tag for {image}: nothing can be clicked",
        f'add `<KeyPointLabels name="point" toName="{image}" smart="true">` with the labels',
    )


def _output_findings(config: LabelConfig, image: str, shapes: Sequence[str]) -> Iterator[Finding]:
    prompted = [c for c in config.controls if c.kind in _PROMPT_KINDS and image in c.to_names]
    holders = [c for c in config.controls if c.kind == "labels" and image in c.to_names]
    labels = sorted({label for control in [*prompted, *holders] for label in control.labels})
    by_output: dict[tuple[str, bool], list[str]] = {}
    for label in labels or [""]:
        wanted = [label] if label else []
        try:
            for output in config.outputs(image, wanted, shapes):
                key = f"{output.control.name} ({output.control.kind})", _holds(output, wanted)
                by_output.setdefault(key, []).append(label)
        except GatewayError as error:
            yield Finding("fail", "output", f"no tag holds a mask of {image}", str(error))
            return
    for (tag, held), names in by_output.items():
        what = f"masks of {image}" + (f" with {_listed(names)}" if labels else "")
        if held:
            why = "the first tag that has the labels" if labels else "no labels to tell tags by"
            yield Finding("ok", "output", f"{what} go to {tag}: {why}")
        else:
            yield Finding(
                "warn",
                "output",
                f"{what} go to {tag}, which does not have these labels: no tag has them",
                f"add the labels to {tag.partition(' ')[0]}",
            )


def _holds(output: Output, labels: Sequence[str]) -> bool:
    held = output.control.labels or (output.labels_control and output.labels_control.labels)
    return not held or held.issuperset(labels)


def _silent_findings(config: LabelConfig, image: str) -> Iterator[Finding]:
    for control in config.controls:
        is_silent = control.kind in _SILENT_KINDS and image in control.to_names
        if is_silent and control.smart:
            yield Finding(
                "warn",
                "smart brush",
                f"{control.name} ({control.kind}) offers a smart brush, which sends nothing to "
                "any backend and hides the other smart tools",
                f'add `smart="false"` to {control.name}',
            )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MAX_LABELS_SHOWN])
    more = len(names) - _MAX_LABELS_SHOWN
    return shown + (f" and {more} more" if more > 0 else "")
