// Client of the Segment Anything service: embed an image once, then decode prompts into masks.
export {
  type CallControl,
  type ClientOptions,
  type DecodeOptions,
  type EmbedOptions,
  type Prompt,
  SegmentAnythingClient,
  type SegmentOptions,
} from "./client.js";
export {
  DeadlineExceededError,
  EmbeddingNotFoundError,
  InvalidRequestError,
  ModelNotFoundError,
  SamError,
  WorkerBusyError,
  WorkerUnavailableError,
} from "./errors.js";
export {
  type Box,
  type DecodeResponse,
  type DecodeTimings,
  type EmbedResponse,
  type EmbedTimings,
  type Limits,
  type ListModelsResponse,
  type Mask,
  MaskEncoding,
  type Model,
  type Point,
  PointLabel,
  SegmentAnythingService,
  type Tensor,
  TensorType,
} from "./gen/segment_anything/v1/segment_anything_pb.js";
export { toBitmap } from "./masks.js";
