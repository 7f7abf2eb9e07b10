"""What the status page and `sam-gateway doctor` tell."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import sam_client
from sam_gateway.batch import Progress
from sam_gateway.findings import Finding
from sam_gateway.history import ImageOutcomes, Prediction


@dataclass(frozen=True, slots=True)
class Report:
    """All that the status page shows; predictions come newest first."""

    version: str
    started: datetime
    uptime_s: float
    label_studio_url: str
    findings: list[Finding]
    label_studio_calls: Mapping[str, datetime]
    worker: sam_client.ServerInfo | None
    counters: Mapping[str, int]
    images: Mapping[str, ImageOutcomes]
    batch: list[Progress]
    predictions: list[Prediction]
