"""The rpcs: unpack a request, have it worked on, pack the answer."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc

from sam_api.v1 import segment_anything_pb2 as pb
from sam_api.v1 import segment_anything_pb2_grpc as pb_grpc
from sam_inference.config import Config
from sam_inference.engines import EngineError
from sam_inference.errors import InvalidArgumentError, UnavailableError, WorkerError
from sam_inference.messages import (
    box_to_proto,
    embedding_from_proto,
    embedding_to_proto,
    logits_to_proto,
    mask_writer,
    prompts_from_proto,
)
from sam_inference.pipeline import DecodedMask, EmbeddedImage, Pipeline
from sam_inference.prompts import check_prompt
from sam_inference.registry import Registry
from sam_inference.status import status_of, trailers_of

log = logging.getLogger(__name__)

Facts = dict[str, object]
"""What a call's log line says, by key."""


class SegmentAnythingServicer(pb_grpc.SegmentAnythingServiceServicer):
    """Segment Anything over gRPC. The contract is in segment_anything.proto."""

    def __init__(self, registry: Registry, config: Config) -> None:
        """Serve the models of `registry` within the limits of `config`."""
        self._registry = registry
        self._config = config
        self._pipeline = Pipeline(registry, config)
        self.ready = False

    def close(self) -> None:
        """Drop queued work and wait for running work."""
        self._pipeline.close()

    async def Embed(  # noqa: N802 - the rpc's name
        self, request: pb.EmbedRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.EmbedResponse:
        """See the contract."""
        async with self._answering("Embed", context) as facts:
            spec = self._registry.spec(request.model)
            background = request.priority == pb.PRIORITY_BACKGROUND
            image = await self._pipeline.embed(request.image, spec, background=background)
            height, width = image.embedding.original_size
            facts |= {"model": spec.name, "width": width, "height": height, "cached": image.cached}
            return pb.EmbedResponse(
                image_id=image.image_id,
                width=width,
                height=height,
                model=spec.name,
                cached=image.cached,
                timings=_embed_timings(image),
                embedding=embedding_to_proto(image.embedding) if request.return_embedding else None,
            )
        raise AssertionError("unreachable: a refusal aborts the call")

    async def Decode(  # noqa: N802 - the rpc's name
        self, request: pb.DecodeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.DecodeResponse]:
        """See the contract."""
        async with self._answering("Decode", context) as facts:
            prompts = prompts_from_proto(
                request.prompts,
                max_prompts=self._config.max_prompts,
                max_points=self._config.max_points,
            )
            write = mask_writer(request.mask_encoding)
            image = await self._image_of(request)
            spec = self._registry.spec(image.embedding.model)
            for index, prompt in enumerate(prompts):
                check_prompt(
                    prompt,
                    f"prompts[{index}]",
                    original_size=image.embedding.original_size,
                    mask_size=spec.mask_size,
                )
            facts |= {"model": spec.name, "prompts": len(prompts)}
            decoding = self._pipeline.decode(
                image.embedding,
                prompts,
                multimask_output=request.multimask_output,
                write=write,
                keep_logits=request.return_low_res_logits,
                background=request.priority == pb.PRIORITY_BACKGROUND,
            )
            async with aclosing(decoding) as masks:
                async for mask in masks:
                    yield _decode_response(mask, image.image_id)

    async def ListModels(  # noqa: N802 - the rpc's name
        self, request: pb.ListModelsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListModelsResponse:
        """See the contract."""
        async with self._answering("ListModels", context):
            return pb.ListModelsResponse(
                models=[
                    pb.Model(
                        name=model.spec.name,
                        title=model.spec.title,
                        licence=model.spec.licence,
                        engine=model.engine.name,
                        device=model.engine.device,
                        precision=model.engine.precision,
                        input_size=model.spec.input_size,
                        mask_size=model.spec.mask_size,
                        embedding_bytes=model.spec.embedding_bytes,
                    )
                    for model in self._registry.models
                ],
                default_model=self._registry.default,
                limits=pb.Limits(
                    max_message_bytes=self._config.max_message_bytes,
                    max_image_pixels=self._config.max_image_pixels,
                    max_prompts=self._config.max_prompts,
                    max_points=self._config.max_points,
                ),
            )
        raise AssertionError("unreachable: a refusal aborts the call")

    async def _image_of(self, request: pb.DecodeRequest) -> EmbeddedImage:
        """Return the embedding that a request names, carries, or has made now."""
        source = request.WhichOneof("image_source")
        if source == "image":
            return await self._pipeline.embed(
                request.image,
                self._registry.spec(request.model),
                background=request.priority == pb.PRIORITY_BACKGROUND,
            )
        if source == "image_id":
            image = self._pipeline.held(request.image_id)
        elif source == "embedding":
            spec = self._registry.spec(request.embedding.model)
            embedding = embedding_from_proto(
                request.embedding, spec, max_pixels=self._config.max_image_pixels
            )
            image = EmbeddedImage(image_id="", embedding=embedding, cached=True)
        else:
            raise InvalidArgumentError("image_source", "image_id, image or embedding was expected")
        made_by = image.embedding.model
        if request.model and self._registry.spec(request.model).name != made_by:
            raise InvalidArgumentError(
                "model", f"is {request.model!r}, but the embedding was made by {made_by!r}"
            )
        return image

    @asynccontextmanager
    async def _answering(
        self, rpc: str, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Facts]:
        """Turn what goes wrong in a call into its status, and log one line."""
        start = time.perf_counter()
        facts: Facts = {}
        code = grpc.StatusCode.CANCELLED  # unless the call gets to one of the ends below
        try:
            if not self.ready:
                raise UnavailableError("the worker is starting or stopping; try again")
            yield facts
            code = grpc.StatusCode.OK
        except WorkerError as error:
            code, details = status_of(error)
            facts["error"] = str(error)
            await context.abort(code, str(error), trailers_of(code, str(error), details))
        except EngineError as error:
            code = grpc.StatusCode.INTERNAL
            log.error("rpc=%s %s", rpc, error)  # noqa: TRY400 - the message says it all
            await context.abort(code, "the model cannot be loaded; the worker's log says why")
        except Exception:
            code = grpc.StatusCode.INTERNAL
            log.exception("rpc=%s failed unexpectedly", rpc)
            await context.abort(code, "internal error; the worker's log says more")
        finally:
            facts["ms"] = round((time.perf_counter() - start) * 1e3, 1)
            text = " ".join(f"{key}={_quoted(value)}" for key, value in facts.items())
            log.info("rpc=%s code=%s %s", rpc, code.name, text)


def _quoted(value: object) -> str:
    text = str(value)
    return repr(text) if " " in text else text


def _embed_timings(image: EmbeddedImage) -> pb.EmbedTimings:
    if image.durations is None:
        return pb.EmbedTimings()
    return pb.EmbedTimings(
        queue_ms=image.queue_ms,
        image_decode_ms=image.durations.image_decode_ms,
        preprocess_ms=image.durations.preprocess_ms,
        encoder_ms=image.durations.encoder_ms,
    )


def _decode_response(decoded: DecodedMask[pb.Mask], image_id: str) -> pb.DecodeResponse:
    logits = decoded.low_res_logits
    return pb.DecodeResponse(
        prompt_index=decoded.prompt_index,
        mask_index=decoded.mask_index,
        mask=decoded.written,
        predicted_iou=decoded.predicted_iou,
        stability_score=decoded.mask.stability_score,
        area_pixels=decoded.mask.area,
        box=box_to_proto(decoded.mask),
        low_res_logits=None if logits is None else logits_to_proto(logits),
        image_id=image_id,
        timings=pb.DecodeTimings(
            queue_ms=decoded.queue_ms,
            decoder_ms=decoded.decoder_ms,
            postprocess_ms=decoded.postprocess_ms,
        ),
    )
