"""What is well and what is not with the predictions of whole tasks. Pure."""

from collections.abc import Iterator, Mapping, Sequence

from sam_gateway.batch import Progress
from sam_gateway.errors import GatewayError
from sam_gateway.findings import Finding, remedy

_SUBJECT = "batch"


def batch_findings(
    projects: Sequence[Progress], mistakes: Mapping[int, str], refusal: GatewayError | None
) -> Iterator[Finding]:
    """Tell of the projects whose tasks are not all predicted and stored, or will not be.

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
        name = f"project {project.project} ({project.mode})"
        if refusal and (project.kept or project.waiting):
            yield Finding(
                "fail",
                _SUBJECT,
                f"{name}: {project.kept} predictions are ready, {project.waiting} are to come, "
                f"and Label Studio takes none: {refusal}",
                f"{remedy(refusal.reason)}. Or choose Retrieve Predictions once more: it gets "
                "what is ready, and the others are worked on",
            )
        elif project.failed:
            last = project.failures[-1]
            yield Finding(
                "warn",
                _SUBJECT,
                f"{name}: {project.failed} tasks have no prediction; the last is {last.task}: "
                f"{last.reason}: {last.message}",
                remedy(last.reason),
            )
