"""What can go wrong in the gateway, each with its HTTP status.

GatewayError
├── InvalidRequestError         400  the request is not what Label Studio sends
├── UnauthorizedError           401  Basic credentials missing or wrong
├── NoOutputTagError            422  the labeling config has no tag that can hold a mask
├── LabelStudioError            502  Label Studio's API does not do what it is asked
├── ImageRefusedError           422  the image is one that the gateway or the worker will not take
├── ImageUnavailableError       502  the image's host does not give it
│   ├── TemporarilyUnavailableError  another attempt may help
│   └── LabelStudioAuthError    502  Label Studio does not accept the token
└── WorkerError                 502  the worker failed
    ├── WorkerBusyError         503  its queue is full
    ├── WorkerUnavailableError  503  it is down, starting or stopping
    └── WorkerTimeoutError      504  it took too long
"""

# What the caller is told of an exception that nobody foresaw.
UNEXPECTED = "the gateway failed; its log has more"


class GatewayError(Exception):
    """A failure that the caller is told about: what was wrong and what would be right."""

    status: int = 500
    reason: str = "internal"
    # Whether the same may succeed a little later.
    temporary: bool = False

    def __init__(self, message: str, *, field: str | None = None) -> None:
        """`field` is the path of the offending value in the request, if there is one."""
        super().__init__(message)
        self.field = field


class InvalidRequestError(GatewayError):
    """The request is not one that Label Studio sends."""

    status = 400
    reason = "invalid_request"


class UnauthorizedError(GatewayError):
    """Basic credentials are missing or wrong."""

    status = 401
    reason = "unauthorized"


class NoOutputTagError(GatewayError):
    """The labeling config has no tag that could hold the mask."""

    status = 422
    reason = "no_output_tag"


class LabelStudioError(GatewayError):
    """Label Studio's API cannot be reached or does not do what it is asked."""

    status = 502
    reason = "label_studio_failed"

    def __init__(self, message: str, *, temporary: bool = False) -> None:
        """`temporary` says that the same may succeed a little later."""
        super().__init__(message)
        self.temporary = temporary


class ImageRefusedError(GatewayError):
    """The image's address is not allowed, or what is there is not an acceptable image."""

    status = 422
    reason = "image_refused"


class ImageUnavailableError(GatewayError):
    """The image's host cannot be reached or does not give the image."""

    status = 502
    reason = "image_unavailable"


class TemporarilyUnavailableError(ImageUnavailableError):
    """The image's host failed in a way that may pass; another attempt may help."""

    temporary = True


class LabelStudioAuthError(ImageUnavailableError):
    """Label Studio does not accept the gateway's token, or there is none."""

    reason = "label_studio_auth"


class WorkerError(GatewayError):
    """The worker failed in a way that it should not."""

    status = 502
    reason = "worker_failed"


class WorkerBusyError(WorkerError):
    """The worker's queue is full."""

    status = 503
    reason = "worker_busy"
    temporary = True

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        """`retry_after_s` says when to try again."""
        super().__init__(message)
        self.retry_after_s = retry_after_s


class WorkerUnavailableError(WorkerError):
    """The worker is down, starting or stopping."""

    status = 503
    reason = "worker_unavailable"
    temporary = True


class WorkerTimeoutError(WorkerError):
    """The answer would come too late for Label Studio."""

    status = 504
    reason = "timeout"
