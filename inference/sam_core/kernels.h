/* The kernels of sam_core in plain C: no Python, no global state, arrays in and arrays out.
 * Masks are made in masks.c, cleaned and outlined in regions.c, and encoded in encodings.c.
 *
 * _numpy.py is the definition: every kernel gives the same bits as the function of the same name
 * there. Callers have checked shapes and values; sizes are at least 1, sides at most 2**20 and
 * height * width fits 32 bits. Run lengths are row-major, background first; only the first may
 * be 0. Kernels that allocate return 0, or -1 when there is no memory left. */
#ifndef SAM_CORE_KERNELS_H
#define SAM_CORE_KERNELS_H

#include <stddef.h>
#include <stdint.h>

/* A growing array; starts as {0}, the owner frees `items`. */
typedef struct {
    uint32_t *items;
    size_t size;
    size_t capacity;
} Counts;

/* Low-res logits (rows, columns), row-major, and the frames they are taken through. */
typedef struct {
    const float *logits;
    size_t rows, columns;
    size_t frame_size;
    size_t input_height, input_width;
    size_t height, width;
} Logits;

typedef struct {
    Counts counts;
    uint64_t area;
    size_t x_min, y_min, x_max, y_max;
    double stability_score;
} Mask;

void normalize_and_pad(const uint8_t *image, size_t height, size_t width, const float mean[3],
                       const float std[3], size_t frame_size, float *frame);

/* `low` <= `threshold` <= `high`; the two others are those of the stability score. */
int mask_from_logits(const Logits *source, float threshold, float low, float high, Mask *mask);

int counts_from_mask(const uint8_t *mask, size_t pixels, Counts *counts);

void mask_from_counts(const uint32_t *counts, size_t size, uint8_t *mask);

/* Number of bytes that brush_rle writes. */
size_t brush_rle_size(const uint32_t *counts, size_t size);

void brush_rle(const uint32_t *counts, size_t size, uint32_t pixels, uint8_t *rle);

/* Number of characters written; `json` has room for 4 * size + 4. `size` is at least 1. */
size_t json_from_bytes(const uint8_t *bytes, size_t size, char *json);

/* Column-major run lengths of the row-major ones. */
int transpose_counts(const uint32_t *counts, size_t size, size_t height, size_t width,
                     Counts *transposed);

/* COCO's text of column-major run lengths. Number of characters written; `text` has room for
 * COCO_LONGEST * size. */
#define COCO_LONGEST ((size_t)7)
size_t coco_text(const uint32_t *counts, size_t size, char *text);

/* `bits` has (pixels + 7) / 8 bytes, all 0. */
void packed_bits(const uint32_t *counts, size_t size, uint8_t *bits);

/* Fills holes, then drops specks, of at most so many pixels. */
int remove_small_regions(const uint32_t *counts, size_t size, size_t height, size_t width,
                         uint32_t max_speck_pixels, uint32_t max_hole_pixels, Counts *out);

/* x and y of each point; the number of points and the part of each ring; the pixels of each part.
 * Of a part, the outline comes before the holes. */
int polygons(const uint32_t *counts, size_t size, size_t height, size_t width, Counts *points,
             Counts *rings, Counts *areas);

#endif
