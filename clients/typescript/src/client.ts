// The client: three calls of the contract, and the one loop around them that every caller needs.
import type { DescMethodUnary, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { create } from "@bufbuild/protobuf";
import { type CallOptions, Client, credentials, Metadata, status } from "@grpc/grpc-js";

import { channelOptions, checkedTimeoutMs, DEFAULT_MAX_MESSAGE_BYTES } from "./channel.js";
import { EmbeddingNotFoundError, fromCallError, SamError } from "./errors.js";
import {
  type DecodeRequest,
  DecodeRequestSchema,
  type DecodeResponse,
  type EmbedResponse,
  type ListModelsResponse,
  MaskEncoding,
  Priority,
  type PromptSchema,
  SegmentAnythingService,
} from "./gen/segment_anything/v1/segment_anything_pb.js";
import { methodDefinition } from "./method.js";

/** One object to cut out, as a plain object: `{ points: [{ x: 320, y: 240 }] }`. */
export type Prompt = MessageInitShape<typeof PromptSchema>;

export interface ClientOptions {
  /** The longest that one call to the worker may take, its retries included. 60 000 if not set. */
  timeoutMs?: number;
  /**
   * The largest message to send or receive; an image takes its size and a little more. 64 MiB if
   * not set. The worker has a limit of its own, MAX_MESSAGE_MIB.
   */
  maxMessageBytes?: number;
}

export interface CallControl {
  /** Aborting it cancels the call, and the work on the worker. */
  signal?: AbortSignal;
}

export interface EmbedOptions extends CallControl {
  /** Name of a model of `listModels`; the default one if not set. */
  model?: string;
  /**
   * Nobody waits: the worker does it while nothing else is asked of it. There is no time limit
   * then.
   */
  background?: boolean;
}

export interface SegmentOptions extends EmbedOptions {
  /** Three candidates for each prompt instead of one. */
  multimaskOutput?: boolean;
  /** Run lengths if not set. */
  maskEncoding?: MaskEncoding;
  /** Fill `DecodeResponse.lowResLogits`, which a next prompt may carry as its `maskInput`. */
  returnLowResLogits?: boolean;
}

export interface DecodeOptions extends SegmentOptions {
  /**
   * Return the encoded image. If the worker does not hold the embedding any more, it is called
   * once, and the image is embedded (with `model`) and decoded again; without it
   * EmbeddingNotFoundError is thrown.
   */
  loadImage?: () => Uint8Array | Promise<Uint8Array>;
}

/**
 * A connection to a worker. It connects with the first call, reconnects by itself, and carries any
 * number of calls at the same time. Every call throws SamError if it fails, and the reason of its
 * `signal` if it is aborted.
 */
export class SegmentAnythingClient {
  readonly #client: Client;
  readonly #timeoutMs: number;
  #closed = false;

  /**
   * @param target `host:port` or `unix:/path/to/socket`
   * @throws RangeError if an option is out of range.
   */
  constructor(
    target: string,
    { timeoutMs = 60_000, maxMessageBytes = DEFAULT_MAX_MESSAGE_BYTES }: ClientOptions = {},
  ) {
    this.#timeoutMs = checkedTimeoutMs(timeoutMs);
    const options = channelOptions(maxMessageBytes);
    this.#client = new Client(target, credentials.createInsecure(), options);
  }

  /** Close the connection, once calls under way have ended; a call after it throws SamError. */
  close(): void {
    this.#closed = true;
    this.#client.close();
  }

  /** Ask what the worker offers and how large requests may be. */
  listModels(control: CallControl = {}): Promise<ListModelsResponse> {
    return this.#unary(SegmentAnythingService.method.listModels, {}, control);
  }

  /**
   * Embed an image, so that prompts can be decoded on it.
   *
   * @param image an encoded file: JPEG, PNG, WebP, GIF, BMP or TIFF
   */
  embed(image: Uint8Array, options: EmbedOptions = {}): Promise<EmbedResponse> {
    const request = { image, model: options.model ?? "", priority: priority(options) };
    return this.#unary(SegmentAnythingService.method.embed, request, options);
  }

  /**
   * Decode prompts on an embedded image and yield each mask as it arrives: prompts in any order,
   * the candidates of one prompt one after the other, best predicted IoU first. Leaving the loop
   * cancels the work on the worker.
   *
   * @throws RangeError if `imageId` cannot be an id that a worker gave.
   */
  async *decode(
    imageId: string,
    prompts: readonly Prompt[],
    options: DecodeOptions = {},
  ): AsyncGenerator<DecodeResponse, void, undefined> {
    const request = create(DecodeRequestSchema, {
      imageSource: { case: "imageId", value: imageId },
      model: options.model ?? "",
      prompts: [...prompts],
      multimaskOutput: options.multimaskOutput ?? false,
      maskEncoding: options.maskEncoding ?? MaskEncoding.RUN_LENGTHS,
      returnLowResLogits: options.returnLowResLogits ?? false,
      priority: priority(options),
    });
    try {
      yield* this.#decode(request, imageId, options);
    } catch (error) {
      // It is thrown before the first mask, so that none comes twice.
      if (!(error instanceof EmbeddingNotFoundError) || options.loadImage === undefined) throw error;
      const embedded = await this.embed(await options.loadImage(), options);
      request.imageSource = { case: "imageId", value: embedded.imageId };
      yield* this.#decode(request, embedded.imageId, options);
    }
  }

  /** Embed an image and decode prompts on it, as `embed` and `decode` do. */
  async *segment(
    image: Uint8Array,
    prompts: readonly Prompt[],
    options: SegmentOptions = {},
  ): AsyncGenerator<DecodeResponse, void, undefined> {
    const { imageId, model } = await this.embed(image, options);
    yield* this.decode(imageId, prompts, { ...options, model, loadImage: () => image });
  }

  async *#decode(
    request: DecodeRequest,
    imageId: string,
    { signal, background }: EmbedOptions,
  ): AsyncGenerator<DecodeResponse, void, undefined> {
    this.#throwIfClosed();
    signal?.throwIfAborted();
    if (!/^[ -~]*$/.test(imageId)) {
      throw new RangeError(`imageId: expected the id of an embedded image, got ${imageId}`);
    }
    const method = methodDefinition(SegmentAnythingService.method.decode);
    const metadata = new Metadata();
    metadata.set("x-image-id", imageId); // lets a balancer find the worker that holds it
    const call = this.#client.makeServerStreamRequest(
      method.path,
      method.requestSerialize,
      method.responseDeserialize,
      request,
      metadata,
      this.#callOptions(background),
    );
    // The status of a call that the loop has left is of no interest, yet it is an event.
    call.on("error", () => {});
    const cancel = () => call.cancel();
    signal?.addEventListener("abort", cancel);
    try {
      for await (const response of call) yield response as DecodeResponse;
    } catch (error) {
      signal?.throwIfAborted();
      throw fromCallError(error);
    } finally {
      signal?.removeEventListener("abort", cancel);
      call.cancel();
    }
  }

  #unary<M extends DescMethodUnary>(
    description: M,
    request: MessageInitShape<M["input"]>,
    { signal, background }: EmbedOptions,
  ): Promise<MessageShape<M["output"]>> {
    const method = methodDefinition(description);
    return new Promise((resolve, reject) => {
      this.#throwIfClosed();
      signal?.throwIfAborted();
      const call = this.#client.makeUnaryRequest(
        method.path,
        method.requestSerialize,
        method.responseDeserialize,
        create(description.input, request) as MessageShape<M["input"]>,
        new Metadata(),
        this.#callOptions(background),
        (error, response) => {
          signal?.removeEventListener("abort", cancel);
          if (response !== undefined) resolve(response);
          else reject(signal?.aborted ? signal.reason : fromCallError(error));
        },
      );
      const cancel = () => call.cancel();
      signal?.addEventListener("abort", cancel);
    });
  }

  #throwIfClosed(): void {
    if (this.#closed) throw new SamError(status.CANCELLED, "the client is closed");
  }

  #callOptions(background = false): CallOptions {
    return background ? {} : { deadline: Date.now() + this.#timeoutMs };
  }
}

/** What a request says of who waits for it. */
function priority({ background = false }: EmbedOptions): Priority {
  return background ? Priority.BACKGROUND : Priority.INTERACTIVE;
}
