"""Generated Protobuf messages and gRPC stubs of the Segment Anything service."""
