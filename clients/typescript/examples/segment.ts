// Cut out what is at a pixel of a photo, and print the conversation with the worker:
//
//   node dist/examples/segment.js IMAGE X Y
import { readFile } from "node:fs/promises";

import { SamError, SegmentAnythingClient, toBitmap } from "../src/index.js";

const [path, x, y] = process.argv.slice(2);
if (path === undefined || !isFinite(Number(x ?? NaN)) || !isFinite(Number(y ?? NaN))) {
  console.error("usage: node dist/examples/segment.js IMAGE X Y");
  process.exit(2);
}

const client = new SegmentAnythingClient(process.env["SAM_SERVER"] ?? "127.0.0.1:50051");
try {
  const { models, defaultModel } = await client.listModels();
  console.log(`models    ${models.map(({ name }) => name).join(", ")}; default ${defaultModel}`);

  const image = await client.embed(await readFile(path));
  const embedMs = image.timings?.encoderMs.toFixed(0);
  const how = image.cached ? "held already" : `encoder ${embedMs} ms`;
  console.log(`embed     ${image.width}x${image.height}, ${how}, id ${image.imageId}`);

  const click = { x: Number(x), y: Number(y) };
  for await (const answer of client.decode(image.imageId, [{ points: [click] }], {
    multimaskOutput: true,
  })) {
    const { mask, predictedIou, stabilityScore, areaPixels } = answer;
    if (mask?.encoding.case !== "runLengths") throw new Error("not the encoding asked for");
    const bitmap = toBitmap(mask.encoding.value.counts);
    const inside = bitmap[Math.floor(click.y) * mask.width + Math.floor(click.x)] === 1;
    console.log(
      `decode    mask ${answer.maskIndex}: predicted IoU ${predictedIou.toFixed(3)}, ` +
        `stability ${stabilityScore.toFixed(3)}, ${areaPixels} pixels, ` +
        `${inside ? "with" : "without"} the pixel clicked`,
    );
  }
} catch (error) {
  if (!(error instanceof SamError)) throw error;
  console.error(`${error.name}: ${error.message}`);
  process.exitCode = 1;
} finally {
  client.close();
}
