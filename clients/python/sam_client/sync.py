"""The client for scripts and threads: AsyncSamClient without asyncio."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

import grpc

from sam_api.v1 import segment_anything_pb2 as pb
from sam_api.v1.segment_anything_pb2_grpc import SegmentAnythingServiceStub
from sam_client import messages
from sam_client.channel import DEFAULT_MAX_MESSAGE_BYTES, channel_options, checked_timeout_s
from sam_client.errors import EmbeddingNotFoundError, closed_client, sam_errors
from sam_client.values import EmbeddedImage, Prompt, SegmentedMask, ServerInfo


class SamClient:
    """A connection to a worker; a context manager.

    Threads may share it. It connects with the first call, reconnects by itself, and carries any
    number of calls at the same time. Every call raises SamError if it fails.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout_s: float = 60.0,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    ) -> None:
        """Name the worker.

        Args:
            target: `host:port` or `unix:/path/to/socket`.
            timeout_s: the longest that one call to the worker may take, its retries included.
            max_message_bytes: the largest message to send or receive; an image takes its size and
                a little more. The worker has a limit of its own, MAX_MESSAGE_MIB.

        Raises:
            ValueError: a number is out of range; the message begins with its name.
        """
        self._timeout_s = checked_timeout_s(timeout_s)
        self._channel = grpc.insecure_channel(target, options=channel_options(max_message_bytes))
        self._stub = SegmentAnythingServiceStub(self._channel)
        self._closed = False

    def __enter__(self) -> SamClient:
        """Return the client itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection; a call under way ends in SamError."""
        self._closed = True
        self._channel.close()

    def embed(self, image: bytes, *, model: str = "", background: bool = False) -> EmbeddedImage:
        """Embed an image, so that prompts can be decoded on it.

        Args:
            image: an encoded file: JPEG, PNG, WebP, GIF, BMP or TIFF.
            model: name of a model of `list_models`; empty for the default one.
            background: nobody waits: the worker does it while nothing else is asked of it. There
                is no time limit then.
        """
        request = pb.EmbedRequest(
            image=image, model=model, priority=messages.priority(background=background)
        )
        timeout_s = None if background else self._timeout_s
        with self._errors():
            response = self._stub.Embed(request, timeout=timeout_s)
        return messages.embedded_image(response)

    def decode(
        self,
        image_id: str,
        prompts: Sequence[Prompt],
        *,
        model: str = "",
        multimask_output: bool = False,
        return_low_res_logits: bool = False,
        background: bool = False,
        load_image: Callable[[], bytes] | None = None,
    ) -> Generator[SegmentedMask, None, None]:
        """Decode prompts on an embedded image and yield each mask as it arrives.

        Prompts come in any order (`prompt_index` tells which), the candidates of one prompt one
        after the other, best predicted IoU first. Closing the iterator cancels the work on the
        worker.

        Args:
            image_id: of an embedded image.
            prompts: the objects to cut out, at least one.
            model: name of the model that the image was embedded with; needed only if
                `load_image` is given and it is not the default one.
            multimask_output: three candidates for each prompt instead of one.
            return_low_res_logits: fill `SegmentedMask.low_res_logits`.
            background: nobody waits: the worker does it while nothing else is asked of it. There
                is no time limit then.
            load_image: returns the encoded image. If the worker does not hold the embedding any
                more, it is called once, and the image is embedded and decoded again; without it
                EmbeddingNotFoundError is raised.
        """
        request = messages.decode_request(
            image_id,
            prompts,
            model=model,
            multimask_output=multimask_output,
            return_low_res_logits=return_low_res_logits,
            background=background,
        )
        try:
            yield from self._decode(request)
        except EmbeddingNotFoundError:  # raised before the first mask, so none comes twice
            if load_image is None:
                raise
            request.image_id = self.embed(load_image(), model=model, background=background).image_id
            yield from self._decode(request)

    def segment(
        self,
        image: bytes,
        prompts: Sequence[Prompt],
        *,
        model: str = "",
        multimask_output: bool = False,
        return_low_res_logits: bool = False,
        background: bool = False,
    ) -> Generator[SegmentedMask, None, None]:
        """Embed an image and decode prompts on it, as `embed` and `decode` do."""
        embedded = self.embed(image, model=model, background=background)
        yield from self.decode(
            embedded.image_id,
            prompts,
            model=embedded.model,
            multimask_output=multimask_output,
            return_low_res_logits=return_low_res_logits,
            background=background,
            load_image=lambda: image,
        )

    def list_models(self) -> ServerInfo:
        """Ask what the worker offers and how large requests may be."""
        with self._errors():
            response = self._stub.ListModels(pb.ListModelsRequest(), timeout=self._timeout_s)
        return messages.server_info(response)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what a call fails with into SamError."""
        try:
            with sam_errors():
                yield
        except ValueError as error:  # of a closed channel, but also of an argument
            if not self._closed:
                raise
            raise closed_client() from error

    def _decode(self, request: pb.DecodeRequest) -> Generator[SegmentedMask, None, None]:
        background = request.priority == pb.PRIORITY_BACKGROUND
        metadata = messages.decode_metadata(request.image_id)
        with self._errors():
            call = self._stub.Decode(
                request, timeout=None if background else self._timeout_s, metadata=metadata
            )
            try:
                for response in call:
                    yield messages.segmented_mask(response)
            finally:
                call.cancel()
