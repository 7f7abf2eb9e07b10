// How the client connects: message sizes, keepalive, retries.
import type { ChannelOptions } from "@grpc/grpc-js";

import { SegmentAnythingService } from "./gen/segment_anything/v1/segment_anything_pb.js";

export const DEFAULT_MAX_MESSAGE_BYTES = 64 * 1024 * 1024;
// Neither gRPC nor Protocol Buffers count further.
const LARGEST_MESSAGE_BYTES = 2 ** 31 - 1;
// Later deadlines do not fit gRPC's header.
const LONGEST_TIMEOUT_MS = 1e12;

// Every rpc is safe to retry; a stream is retried only until its first message.
const SERVICE_CONFIG = {
  methodConfig: [
    {
      name: [{ service: SegmentAnythingService.typeName }],
      retryPolicy: {
        maxAttempts: 4,
        initialBackoff: "0.2s",
        maxBackoff: "1s",
        backoffMultiplier: 2,
        retryableStatusCodes: ["UNAVAILABLE"],
      },
    },
  ],
};

/**
 * Return a timeout that gRPC can count.
 *
 * @throws RangeError if `timeoutMs` is not above 0 and at most 1e12.
 */
export function checkedTimeoutMs(timeoutMs: number): number {
  if (!(timeoutMs > 0 && timeoutMs <= LONGEST_TIMEOUT_MS)) {
    throw new RangeError(
      `timeoutMs: expected more than 0 and at most ${LONGEST_TIMEOUT_MS}, got ${timeoutMs}`,
    );
  }
  return timeoutMs;
}

/**
 * Return gRPC's options of a channel that carries messages up to a size, in both directions.
 *
 * @throws RangeError if `maxMessageBytes` is not from 1 to 2147483647.
 */
export function channelOptions(maxMessageBytes: number): ChannelOptions {
  if (!(maxMessageBytes >= 1 && maxMessageBytes <= LARGEST_MESSAGE_BYTES)) {
    throw new RangeError(
      `maxMessageBytes: expected 1 to ${LARGEST_MESSAGE_BYTES}, got ${maxMessageBytes}`,
    );
  }
  return {
    "grpc.max_send_message_length": maxMessageBytes,
    "grpc.max_receive_message_length": maxMessageBytes,
    // A request is retried only if it fits these buffers, its own and that of all calls together;
    // the defaults hold no photo.
    "grpc.per_rpc_retry_buffer_size": maxMessageBytes,
    "grpc.retry_buffer_size": Number.MAX_SAFE_INTEGER,
    "grpc.service_config": JSON.stringify(SERVICE_CONFIG),
    // A connection that died silently is noticed while a call waits on it.
    "grpc.keepalive_time_ms": 30_000,
    "grpc.keepalive_timeout_ms": 10_000,
    // Workers are neighbours; the proxy of the environment is for the internet.
    "grpc.enable_http_proxy": 0,
  };
}
