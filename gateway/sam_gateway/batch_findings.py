"""What is well and what is not with the predictions of whole tasks. Pure."""

from collections.abc import Iterator, Mapping, Sequence

from sam_gateway.batch import Progress
from sam_gateway.errors import GatewayError
from sam_gateway.findings import Finding, remedy

_SUBJECT = "batch"


def batch_findings(
    projects: Sequence[Progress], mistakes: Mapping[int, str], refusal: GatewayError | None
) -> Iterator[Finding]:
    """Tell of each project that has something predicted, or should have.

    `mistakes` are those in projects' own settings; `refusal` is why nothing can be stored.
    """
    for number, mistake in mistakes.items():
        yield Finding(
            "fail",
            _SUBJECT,
            f"project {number} predicts nothing: {mistake}",
            "correct the extra params in Settings > Model",
        )
    for project in projects:
        yield _finding(project, refusal)


def _finding(project: Progress, refusal: GatewayError | None) -> Finding:
    name = f"project {project.project} ({project.mode})"
    if refusal and (project.kept or project.waiting):
        return Finding(
            "fail",
            _SUBJECT,
            f"{name}: {project.kept} predictions are ready, {project.waiting} are to come, and "
            f"Label Studio takes none: {refusal}",
            f"{remedy(refusal.reason)}. Or ask once more by Retrieve predictions: it gets what is "
            "ready, and the others are worked on",
        )
    if project.failed:
        last = project.failures[-1]
        return Finding(
            "warn",
            _SUBJECT,
            f"{name}: {project.failed} tasks have no prediction; the last is {last.task}: "
            f"{last.reason}: {last.message}",
            remedy(last.reason),
        )
    if project.waiting:
        return Finding("ok", _SUBJECT, f"{name}: {project.done} done, {project.waiting} to come")
    return Finding("ok", _SUBJECT, f"{name}: all {project.done} done")
