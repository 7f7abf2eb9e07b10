"""How both clients connect: message sizes, keepalive, retries."""

from __future__ import annotations

import json

DEFAULT_MAX_MESSAGE_BYTES = 64 * 1024 * 1024
# Neither gRPC nor Protocol Buffers count further.
LARGEST_MESSAGE_BYTES = 2**31 - 1
# Later deadlines overflow in gRPC, and are over at once.
_LONGEST_TIMEOUT_S = 1e9

# Every rpc of the service is safe to retry. A stream is retried only until its first message.
# Three more attempts within about two seconds outlast a worker's restart behind a balancer.
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": "segment_anything.v1.SegmentAnythingService"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.2s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


def checked_timeout_s(timeout_s: float) -> float:
    """Return a timeout that gRPC can count.

    Raises:
        ValueError: `timeout_s` is not above 0 and at most 1e9.
    """
    if not 0 < timeout_s <= _LONGEST_TIMEOUT_S:
        raise ValueError(
            f"timeout_s: expected more than 0 and at most {_LONGEST_TIMEOUT_S:g}, got {timeout_s}"
        )
    return timeout_s


def channel_options(max_message_bytes: int) -> tuple[tuple[str, int | str], ...]:
    """Return gRPC's options of a channel that carries messages up to a size, in both directions.

    Raises:
        ValueError: `max_message_bytes` is not from 1 to LARGEST_MESSAGE_BYTES.
    """
    if not 1 <= max_message_bytes <= LARGEST_MESSAGE_BYTES:
        raise ValueError(
            f"max_message_bytes: expected 1 to {LARGEST_MESSAGE_BYTES}, got {max_message_bytes}"
        )
    return (
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        # A request is retried only if it fits this buffer; the default holds no photo.
        ("grpc.per_rpc_retry_buffer_size", max_message_bytes),
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
        # A connection that died silently is noticed while a call waits on it.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # A worker that comes back is found within a second or two, not after a minute.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        # Workers are neighbours; the proxy of the environment is for the internet.
        ("grpc.enable_http_proxy", 0),
    )
