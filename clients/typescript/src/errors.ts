// What can go wrong in a call, read out of the gRPC status and its google.rpc details.
//
// SamError
// ├── InvalidRequestError     the request can never work; `field` names the part at fault
// ├── ModelNotFoundError      no such model; `models` are those there are
// ├── EmbeddingNotFoundError  the worker does not hold the embedding; embed the image again
// ├── WorkerBusyError         the queue is full; try again after `retryAfterMs`
// ├── WorkerUnavailableError  no worker there, or it is starting or stopping
// └── DeadlineExceededError   no answer within `timeoutMs`
import type { DescMessage, MessageShape } from "@bufbuild/protobuf";
import { fromBinary } from "@bufbuild/protobuf";
import { anyUnpack, durationMs } from "@bufbuild/protobuf/wkt";
import { type ServiceError, status } from "@grpc/grpc-js";

import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { type Status, StatusSchema } from "./gen/google/rpc/status_pb.js";

/** A call failed: `message` is the worker's, `code` the gRPC status code. */
export class SamError extends Error {
  readonly code: status;

  constructor(code: status, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}

/** The worker refused the request, and will refuse it again. */
export class InvalidRequestError extends SamError {
  /** The part at fault, for example `prompts[1].points[0].x`; empty if it is the whole. */
  readonly field: string;

  constructor(field: string, code: status, message: string, options?: ErrorOptions) {
    super(code, message, options);
    this.field = field;
  }
}

/** The worker has no such model. */
export class ModelNotFoundError extends SamError {
  /** Names of the models that there are. */
  readonly models: readonly string[];

  constructor(models: readonly string[], message: string, options?: ErrorOptions) {
    super(status.NOT_FOUND, message, options);
    this.models = models;
  }
}

/** The worker does not hold the image's embedding: never embedded there, evicted, restarted. */
export class EmbeddingNotFoundError extends SamError {}

/** The worker's queue is full. */
export class WorkerBusyError extends SamError {
  /** The worker's advice on when to try again. */
  readonly retryAfterMs: number;

  constructor(retryAfterMs: number, message: string, options?: ErrorOptions) {
    super(status.RESOURCE_EXHAUSTED, message, options);
    this.retryAfterMs = retryAfterMs;
  }
}

/** No worker answers at the target, or it is starting or stopping. */
export class WorkerUnavailableError extends SamError {}

/** The call took longer than its timeout. */
export class DeadlineExceededError extends SamError {}

/** Return the exception that says what a failed call means; anything else is returned as it is. */
export function fromCallError(error: unknown): unknown {
  if (!isServiceError(error)) return error;
  const { code, details: message } = error;
  const options = { cause: error };
  const details = statusDetails(error);
  switch (code) {
    case status.INVALID_ARGUMENT: {
      const violation = find(details, BadRequestSchema)?.fieldViolations[0];
      return new InvalidRequestError(violation?.field ?? "", code, message, options);
    }
    case status.NOT_FOUND: {
      const info = find(details, ErrorInfoSchema);
      if (info?.reason === "MODEL_NOT_FOUND") {
        const models = (info.metadata["models"] ?? "").split(",").map((name) => name.trim());
        return new ModelNotFoundError(models.filter(Boolean), message, options);
      }
      if (info?.reason === "EMBEDDING_NOT_FOUND") {
        return new EmbeddingNotFoundError(code, message, options);
      }
      break;
    }
    case status.RESOURCE_EXHAUSTED: {
      const delay = find(details, RetryInfoSchema)?.retryDelay;
      // Without advice on when to retry it is not load: a message is larger than a side takes.
      return delay === undefined
        ? new InvalidRequestError("", code, message + limitToRaise(message), options)
        : new WorkerBusyError(durationMs(delay), message, options);
    }
    case status.UNAVAILABLE:
      return new WorkerUnavailableError(code, message, options);
    case status.DEADLINE_EXCEEDED:
      return new DeadlineExceededError(code, message, options);
  }
  return new SamError(code, `${status[code]}: ${message}`, options);
}

/** Say which setting lets a message through, if gRPC said that it is too large, and for whom. */
function limitToRaise(message: string): string {
  if (!message.includes("larger than")) return "";
  return message.startsWith("SERVER")
    ? ": raise MAX_MESSAGE_MIB of the worker"
    : ": raise maxMessageBytes of the client";
}

function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && "code" in error && "details" in error && "metadata" in error;
}

function statusDetails(error: ServiceError): Status | undefined {
  const [trailer] = error.metadata.get("grpc-status-details-bin");
  if (!Buffer.isBuffer(trailer)) return undefined;
  try {
    return fromBinary(StatusSchema, trailer);
  } catch {
    return undefined; // some proxy's own trailer; the code and message still stand
  }
}

function find<D extends DescMessage>(
  details: Status | undefined,
  schema: D,
): MessageShape<D> | undefined {
  for (const detail of details?.details ?? []) {
    const message = anyUnpack(detail, schema);
    if (message !== undefined) return message;
  }
  return undefined;
}
