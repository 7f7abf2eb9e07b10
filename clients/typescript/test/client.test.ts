// The contract from outside: every test talks to the worker at SAM_SERVER.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, before, test } from "node:test";

import { create } from "@bufbuild/protobuf";
import {
  Client,
  credentials,
  type handleServerStreamingCall,
  type handleUnaryCall,
  Server,
  ServerCredentials,
  status,
} from "@grpc/grpc-js";
import * as health from "grpc-health-check";

import {
  type DecodeRequest,
  type EmbedRequest,
  EmbedResponseSchema,
  Priority,
} from "../src/gen/segment_anything/v1/segment_anything_pb.js";
import {
  DeadlineExceededError,
  type DecodeResponse,
  EmbeddingNotFoundError,
  type EmbedResponse,
  InvalidRequestError,
  MaskEncoding,
  ModelNotFoundError,
  PointLabel,
  type Prompt,
  SamError,
  SegmentAnythingClient,
  SegmentAnythingService,
  TensorType,
  toBitmap,
  WorkerUnavailableError,
} from "../src/index.js";
import { methodDefinition } from "../src/method.js";

const target = process.env["SAM_SERVER"];
if (target === undefined) throw new Error("SAM_SERVER must name a running worker");

// As stored with its EXIF orientation: 600x900 pixels, upright 900x600.
const TURNED = "exif_orientation_6.jpg";
const CLICK: Prompt = { points: [{ x: 320.5, y: 240.5 }] };

const client = new SegmentAnythingClient(target);
let photo: Uint8Array;
let imageId: string;

before(async () => {
  photo = await testImage(TURNED);
  ({ imageId } = await client.embed(photo));
});

after(() => client.close());

test("the worker says that it serves", async () => {
  const { path, requestSerialize, responseDeserialize } = health.service["Check"]!;
  const checker = new Client(target, credentials.createInsecure());
  try {
    for (const service of ["", SegmentAnythingService.typeName]) {
      const answer = await new Promise<unknown>((resolve, reject) =>
        checker.makeUnaryRequest(
          path,
          requestSerialize,
          responseDeserialize,
          { service },
          (error, response) => (error ? reject(error) : resolve(response)),
        ),
      );
      assert.deepEqual(answer, { status: "SERVING" });
    }
  } finally {
    checker.close();
  }
});

test("listModels tells the default model first, and the limits", async () => {
  const { models, defaultModel, limits } = await client.listModels();

  assert.equal(models[0]?.name, defaultModel);
  for (const model of models) {
    assert.ok(model.engine && model.device && model.licence && model.title);
    assert.ok(model.inputSize > 0 && model.maskSize > 0 && model.embeddingBytes > 0);
  }
  assert.ok(limits && limits.maxPrompts > 0 && limits.maxPoints > 0 && limits.maxImagePixels > 0);
});

test("embed measures the upright image, and gives equal images equal ids", async () => {
  const first = await client.embed(photo);
  const second = await client.embed(photo);
  const other = await client.embed(await testImage("lossy.webp"));

  assert.deepEqual([first.width, first.height], [900, 600]);
  assert.equal(second.imageId, first.imageId);
  assert.equal(second.cached, true);
  assert.notEqual(other.imageId, first.imageId);
});

test("a mask is what its numbers say", async () => {
  const [answer, ...more] = await collect(client.decode(imageId, [CLICK]));
  assert.ok(answer && more.length === 0);

  const { width, height, bitmap } = pixels(answer);
  let [area, xMin, yMin, xMax, yMax] = [0, width, height, 0, 0];
  bitmap.forEach((bit, index) => {
    if (bit === 0) return;
    const [x, y] = [index % width, Math.floor(index / width)];
    area += 1;
    [xMin, yMin] = [Math.min(xMin, x), Math.min(yMin, y)];
    [xMax, yMax] = [Math.max(xMax, x + 1), Math.max(yMax, y + 1)];
  });

  assert.deepEqual([width, height], [900, 600]);
  assert.equal(area, answer.areaPixels);
  assert.ok(area > 0, "a click on the truck gives an object");
  const { box } = answer;
  assert.deepEqual([box?.xMin, box?.yMin, box?.xMax, box?.yMax], [xMin, yMin, xMax, yMax]);
  assert.ok(answer.stabilityScore >= 0 && answer.stabilityScore <= 1);
  assert.equal(answer.imageId, imageId);
});

test("three candidates come, the best first", async () => {
  const answers = await collect(client.decode(imageId, [CLICK], { multimaskOutput: true }));

  const scores = answers.map(({ predictedIou }) => predictedIou);
  assert.deepEqual(answers.map(({ maskIndex }) => maskIndex).sort(), [0, 1, 2]);
  assert.deepEqual(scores, scores.toSorted((a, b) => b - a));
});

test("points, boxes and earlier masks go together in one call", async () => {
  const [earlier] = await collect(client.decode(imageId, [CLICK], { returnLowResLogits: true }));
  const logits = earlier?.lowResLogits;
  assert.ok(logits);
  assert.deepEqual([logits.type, logits.shape[0]], [TensorType.FLOAT32, 1]);

  const box = { xMin: 100, yMin: 100, xMax: 800, yMax: 500 };
  const corrected = [
    { x: 320, y: 240 },
    { x: 10, y: 10, label: PointLabel.NEGATIVE },
  ];
  const prompts: Prompt[] = [
    { box },
    { points: corrected, maskInput: logits },
    { points: corrected, box },
    { maskInput: logits },
  ];
  const answers = await collect(client.decode(imageId, prompts, { multimaskOutput: true }));

  const scores = prompts.map((_, index) =>
    answers.filter((answer) => answer.promptIndex === index).map((answer) => answer.predictedIou),
  );
  assert.deepEqual(scores.map((candidates) => candidates.length), [3, 3, 3, 3]);
  assert.deepEqual(scores, scores.map((candidates) => candidates.toSorted((a, b) => b - a)));
});

test("the other encodings come when asked for", async () => {
  const [native] = await collect(client.decode(imageId, [CLICK]));
  const { bitmap } = pixels(native);
  const decodeAs = async (maskEncoding: MaskEncoding) => {
    const [answer] = await collect(client.decode(imageId, [CLICK], { maskEncoding }));
    return answer?.mask?.encoding;
  };

  const packed = await decodeAs(MaskEncoding.PACKED_BITS);
  assert.ok(packed?.case === "packedBits");
  const bits = bitmap.map((_, i) => ((packed.value[i >> 3] ?? 0) >> (7 - (i & 7))) & 1);
  assert.deepEqual(bits, bitmap);

  const png = await decodeAs(MaskEncoding.PNG);
  assert.ok(png?.case === "png");
  assert.equal(Buffer.from(png.value.subarray(1, 4)).toString(), "PNG");

  const coco = await decodeAs(MaskEncoding.COCO_RLE);
  assert.ok(coco?.case === "cocoRle" && coco.value.length > 0);
});

test("aborting in mid-stream ends the loop", async () => {
  const controller = new AbortController();
  const prompts = Array.from({ length: 100 }, () => CLICK);
  let seen = 0;

  const loop = async () => {
    // So much to send that it cannot all be on its way when the first mask is here.
    for await (const answer of client.decode(imageId, prompts, {
      multimaskOutput: true,
      returnLowResLogits: true,
      signal: controller.signal,
    })) {
      assert.ok(answer.lowResLogits);
      seen += 1;
      controller.abort();
    }
  };

  await assert.rejects(loop(), { name: "AbortError" });
  assert.ok(seen >= 1 && seen < 300, `${seen} masks`);
});

test("leaving the loop cancels the call and leaves the connection usable", async () => {
  for await (const answer of client.decode(imageId, [CLICK, CLICK, CLICK])) {
    assert.ok(answer.mask);
    break;
  }

  assert.equal((await collect(client.decode(imageId, [CLICK]))).length, 1);
});

test("a call can be aborted before it is answered", async () => {
  const controller = new AbortController();
  const call = client.embed(await testImage("large_12mp.jpg"), { signal: controller.signal });
  controller.abort();

  await assert.rejects(call, { name: "AbortError" });
  await assert.rejects(client.listModels({ signal: AbortSignal.abort() }), { name: "AbortError" });
});

test("an unknown image id is EmbeddingNotFoundError, and loadImage answers it", async () => {
  const unknown = `${imageId}0`;

  await assert.rejects(collect(client.decode(unknown, [CLICK])), EmbeddingNotFoundError);

  let loads = 0;
  const loadImage = async () => {
    loads += 1;
    return photo;
  };
  const answers = await collect(client.decode(unknown, [CLICK], { loadImage }));
  assert.equal(loads, 1);
  assert.deepEqual(answers.map((answer) => answer.imageId), [imageId]);
});

test("segment embeds and decodes", async () => {
  const image = await testImage("tiny_16x9.png");
  const answers = await collect(client.segment(image, [{ points: [{ x: 8, y: 4 }] }]));

  const { width, height } = pixels(answers[0]);
  assert.deepEqual([answers.length, width, height], [1, 16, 9]);
});

test("an unknown model is refused with the models that there are", async () => {
  const { models } = await client.listModels();

  await assert.rejects(client.embed(photo, { model: "nonesuch" }), (error) => {
    assert.ok(error instanceof ModelNotFoundError);
    assert.deepEqual(error.models, models.map(({ name }) => name));
    return true;
  });
});

for (const [what, prompts, field] of [
  ["no prompts", [], "prompts"],
  ["an empty prompt", [CLICK, {}], "prompts[1]"],
  ["a point outside", [{ points: [{ x: 901, y: 1 }] }], "prompts[0].points[0].x"],
  ["a coordinate that is no number", [{ points: [{ x: 1, y: NaN }] }], "prompts[0].points[0].y"],
  ["a box without area", [{ box: { xMin: 5, yMin: 5, xMax: 5, yMax: 9 } }], "prompts[0].box"],
  [
    "logits of the wrong shape",
    [{ maskInput: { shape: [1, 2, 2], type: TensorType.FLOAT32, data: new Uint8Array(16) } }],
    "prompts[0].mask_input.shape",
  ],
] satisfies [string, Prompt[], string][]) {
  test(`${what} is refused by the field's name`, async () => {
    await assert.rejects(collect(client.decode(imageId, prompts)), (error) => {
      assert.ok(error instanceof InvalidRequestError, String(error));
      assert.equal(error.field, field);
      assert.ok(error.message.length > 0);
      return true;
    });
  });
}

test("what is no image is refused by the field's name", async () => {
  for (const image of [new Uint8Array(), await testImage("login_page.jpg")]) {
    await assert.rejects(client.embed(image), (error) => {
      assert.ok(error instanceof InvalidRequestError, String(error));
      assert.equal(error.field, "image");
      return true;
    });
  }
});

test("a message over a limit is refused with the setting to raise", async () => {
  const image = new Uint8Array(65 * 1024 * 1024);
  const patient = new SegmentAnythingClient(target, { maxMessageBytes: 66 * 1024 * 1024 });
  try {
    for (const [refusing, setting] of [
      [client, "maxMessageBytes of the client"],
      [patient, "MAX_MESSAGE_MIB of the worker"],
    ] as const) {
      await assert.rejects(refusing.embed(image), (error) => {
        assert.ok(error instanceof InvalidRequestError, String(error));
        assert.equal(error.code, status.RESOURCE_EXHAUSTED);
        assert.ok(error.message.endsWith(`: raise ${setting}`), error.message);
        return true;
      });
    }
  } finally {
    patient.close();
  }
});

test("a photo of any size is sent again to a worker that was not there", async () => {
  const sizes: number[] = [];
  const worker = await serve({
    embed({ request }, answer) {
      sizes.push(request.image.length);
      if (sizes.length < 3) answer({ code: status.UNAVAILABLE });
      else answer(null, create(EmbedResponseSchema));
    },
  });
  try {
    const size = 20 * 1024 * 1024; // over what grpc-js keeps for all retries by default
    await worker.client.embed(new Uint8Array(size));
    assert.deepEqual(sizes, [size, size, size]);
  } finally {
    worker.stop();
  }
});

test("work that nobody waits for says so, and has no deadline", async () => {
  const calls: [Priority, boolean][] = [];
  const worker = await serve({
    embed(call, answer) {
      calls.push([call.request.priority, isFinite(Number(call.getDeadline()))]);
      answer(null, create(EmbedResponseSchema));
    },
    decode(call) {
      calls.push([call.request.priority, isFinite(Number(call.getDeadline()))]);
      call.end();
    },
  });
  try {
    for (const background of [true, false]) {
      await collect(worker.client.segment(photo, [CLICK], { background }));
    }
    assert.deepEqual(calls, [
      [Priority.BACKGROUND, false],
      [Priority.BACKGROUND, false],
      [Priority.INTERACTIVE, true],
      [Priority.INTERACTIVE, true],
    ]);
  } finally {
    worker.stop();
  }
});

test("a deadline ends a call", async () => {
  const hasty = new SegmentAnythingClient(target, { timeoutMs: 1 });
  try {
    // No machine reads that in a millisecond.
    await assert.rejects(hasty.embed(new Uint8Array(40 * 1024 * 1024)), DeadlineExceededError);
  } finally {
    hasty.close();
  }
});

test("the longest timeout is one", async () => {
  const patient = new SegmentAnythingClient(target, { timeoutMs: 1e12 });
  try {
    await patient.listModels();
  } finally {
    patient.close();
  }
});

for (const options of [
  { timeoutMs: 0 },
  { timeoutMs: NaN },
  { timeoutMs: Infinity },
  { maxMessageBytes: 0 },
  { maxMessageBytes: NaN },
  { maxMessageBytes: 2 ** 31 },
]) {
  const [[name, value]] = Object.entries(options) as [[string, number]];
  test(`${name} cannot be ${value}`, () => {
    assert.throws(() => new SegmentAnythingClient(target, options), {
      name: "RangeError",
      message: new RegExp(`^${name}: expected .*, got ${value}$`),
    });
  });
}

test("an image id that no worker gave is refused here", async () => {
  for (const unknown of ["ä", "a\nb"]) {
    await assert.rejects(collect(client.decode(unknown, [CLICK])), {
      name: "RangeError",
      message: /^imageId: expected the id of an embedded image/,
    });
  }
});

test("nobody at the target is WorkerUnavailableError", async () => {
  const lonely = new SegmentAnythingClient("unix:/nonexistent/sam.sock");
  try {
    await assert.rejects(lonely.listModels(), (error) => {
      assert.ok(error instanceof WorkerUnavailableError && error instanceof SamError);
      assert.ok(error.cause instanceof Error);
      return true;
    });
  } finally {
    lonely.close();
  }
});

test("a closed client says so", async () => {
  const closed = new SegmentAnythingClient(target);
  await closed.listModels();
  closed.close();

  for (const call of [
    () => closed.listModels(),
    () => closed.embed(photo),
    () => collect(closed.decode(imageId, [CLICK])),
    () => collect(closed.segment(photo, [CLICK])),
  ]) {
    await assert.rejects(call(), (error) => {
      assert.ok(error instanceof SamError, String(error));
      assert.equal(error.message, "the client is closed");
      return true;
    });
  }
});

test("closing lets a call under way end", async () => {
  const closing = new SegmentAnythingClient(target);
  const answers = closing.decode(imageId, [CLICK, CLICK]);
  assert.ok((await answers.next()).value);
  closing.close();

  assert.equal((await collect(answers)).length, 1);
});

/** A service that does as a test says, for what no worker can be brought to do, and its client. */
async function serve(handlers: {
  embed: handleUnaryCall<EmbedRequest, EmbedResponse>;
  decode?: handleServerStreamingCall<DecodeRequest, DecodeResponse>;
}) {
  const { embed, decode } = SegmentAnythingService.method;
  const server = new Server({ "grpc.max_receive_message_length": -1 });
  server.addService(
    { embed: methodDefinition(embed), decode: methodDefinition(decode) },
    { decode: () => {}, ...handlers },
  );
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, bound) =>
      error ? reject(error) : resolve(bound),
    ),
  );
  const client = new SegmentAnythingClient(`127.0.0.1:${port}`);
  const stop = () => {
    client.close();
    server.forceShutdown();
  };
  return { client, stop };
}

function testImage(name: string): Promise<Uint8Array> {
  return readFile(new URL(`../../../../tests/data/images/awkward/${name}`, import.meta.url));
}

async function collect<T>(stream: AsyncIterable<T>): Promise<T[]> {
  const items: T[] = [];
  for await (const item of stream) items.push(item);
  return items;
}

function pixels(answer: DecodeResponse | undefined) {
  const mask = answer?.mask;
  assert.ok(mask?.encoding.case === "runLengths", "run lengths unless asked otherwise");
  const { width, height } = mask;
  const bitmap = toBitmap(mask.encoding.value.counts);
  assert.equal(bitmap.length, width * height);
  return { width, height, bitmap };
}
