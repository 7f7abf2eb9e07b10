// A method of the generated service description as @grpc/grpc-js wants it.
import type { DescMethod, MessageShape } from "@bufbuild/protobuf";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import type { MethodDefinition } from "@grpc/grpc-js";

type Message<M extends DescMethod, Side extends "input" | "output"> = MessageShape<M[Side]>;

/** The method's path, its streams, and how its messages are written and read. */
export function methodDefinition<M extends DescMethod>(
  method: M,
): MethodDefinition<Message<M, "input">, Message<M, "output">> {
  return {
    path: `/${method.parent.typeName}/${method.name}`,
    requestStream: method.methodKind === "client_streaming" || method.methodKind === "bidi_streaming",
    responseStream:
      method.methodKind === "server_streaming" || method.methodKind === "bidi_streaming",
    requestSerialize: (message) => Buffer.from(toBinary(method.input, message)),
    requestDeserialize: (bytes) => fromBinary(method.input, bytes) as Message<M, "input">,
    responseSerialize: (message) => Buffer.from(toBinary(method.output, message)),
    responseDeserialize: (bytes) => fromBinary(method.output, bytes) as Message<M, "output">,
  };
}
