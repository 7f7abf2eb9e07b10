"""Client of the Segment Anything service: embed an image once, then decode prompts into masks."""

from sam_client.aio import AsyncSamClient
from sam_client.errors import (
    DeadlineExceededError,
    EmbeddingNotFoundError,
    InvalidRequestError,
    ModelNotFoundError,
    SamError,
    WorkerBusyError,
    WorkerUnavailableError,
)
from sam_client.sync import SamClient
from sam_client.values import (
    DecodeTimings,
    EmbeddedImage,
    EmbedTimings,
    Limits,
    Model,
    Prompt,
    SegmentedMask,
    ServerInfo,
)

__all__ = [
    "AsyncSamClient",
    "DeadlineExceededError",
    "DecodeTimings",
    "EmbedTimings",
    "EmbeddedImage",
    "EmbeddingNotFoundError",
    "InvalidRequestError",
    "Limits",
    "Model",
    "ModelNotFoundError",
    "Prompt",
    "SamClient",
    "SamError",
    "SegmentedMask",
    "ServerInfo",
    "WorkerBusyError",
    "WorkerUnavailableError",
]
