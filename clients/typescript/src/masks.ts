// Masks out of their run lengths.

/**
 * Return one byte a pixel, 1 on the object and 0 elsewhere, row by row.
 *
 * @param counts lengths of alternating runs, background first: `RunLengths.counts`.
 * @throws RangeError if a count is not a whole number of pixels.
 */
export function toBitmap(counts: readonly number[]): Uint8Array {
  let pixels = 0;
  for (const count of counts) {
    if (!Number.isSafeInteger(count) || count < 0) {
      throw new RangeError(`counts: expected whole numbers of pixels, got ${count}`);
    }
    pixels += count;
  }
  const bitmap = new Uint8Array(pixels);
  let start = 0;
  counts.forEach((count, run) => {
    if (run % 2 === 1) bitmap.fill(1, start, start + count);
    start += count;
  });
  return bitmap;
}
