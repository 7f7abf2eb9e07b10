import assert from "node:assert/strict";
import { test } from "node:test";

import { toBitmap } from "../src/index.js";

test("runs alternate, background first", () => {
  assert.deepEqual([...toBitmap([2, 3, 1])], [0, 0, 1, 1, 1, 0]);
  assert.deepEqual([...toBitmap([0, 2, 2])], [1, 1, 0, 0]);
  assert.deepEqual([...toBitmap([4])], [0, 0, 0, 0]);
  assert.deepEqual([...toBitmap([])], []);
});

test("what is no count is refused", () => {
  for (const count of [-1, 0.5, NaN, Infinity]) {
    assert.throws(() => toBitmap([1, count]), { name: "RangeError", message: /counts.*got/ });
  }
});
