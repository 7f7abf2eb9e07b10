/* Pixels to the model's input, and the model's logits to masks. */
#include <float.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"
#include "runs.h"

/* Bit-exactness with NumPy needs float arithmetic done in float. */
_Static_assert(FLT_EVAL_METHOD == 0, "float expressions must be evaluated in float");

/* The loops over low-res rows are compiled twice, and which one runs is found out when the module
 * is loaded: 1.3 to 1.4 times as many masks a second. Both give the same bits. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__has_attribute)
#if __has_attribute(target_clones)
#define VECTOR_CLONES __attribute__((target_clones("avx2", "default")))
#endif
#endif
#ifndef VECTOR_CLONES
#define VECTOR_CLONES
#endif

/* ---- pixels to the model's input ----------------------------------------------------------- */

void
normalize_and_pad(const uint8_t *image, size_t height, size_t width, const float mean[3],
                  const float std[3], size_t frame_size, float *frame)
{
    float normalized[3][256]; /* every value that a pixel can take */
    for (size_t c = 0; c < 3; c++) {
        for (size_t value = 0; value < 256; value++) {
            normalized[c][value] = ((float)value - mean[c]) / std[c];
        }
    }

    for (size_t c = 0; c < 3; c++) {
        const uint8_t *pixel = image + c;
        float *row = frame + c * frame_size * frame_size;
        for (size_t y = 0; y < height; y++) {
            for (size_t x = 0; x < width; x++) {
                row[x] = normalized[c][pixel[3 * x]];
            }
            memset(row + width, 0, (frame_size - width) * sizeof(float));
            pixel += 3 * width;
            row += frame_size;
        }
        memset(row, 0, (frame_size - height) * frame_size * sizeof(float));
    }
}

/* ---- logits to runs ------------------------------------------------------------------------
 *
 * Bilinear interpolation is two passes along each axis, and passes along different axes commute.
 * So both vertical passes come first, on rows as narrow as the low-res logits, and both
 * horizontal ones after. Along a row the values between two samples lie between these two and
 * are monotone: a pass is looked at only where neighbouring samples lie on unlike sides of the
 * threshold, and there until the side changes. The time a row takes depends on its changes, not
 * on its width. */

/* Where sample i of the fine axis lies on the coarse one: between base and base + 1. */
typedef struct {
    uint32_t base;
    float weight;
} Sample;

/* One bilinear pass. `first[j]` is the first fine sample with a base of j or more. */
typedef struct {
    size_t coarse;
    size_t size;
    Sample *samples;
    uint32_t *first;
} Axis;

/* `size` of the `fine` samples are used, as the crop leaves them. */
static int
axis_init(Axis *axis, size_t coarse, size_t fine, size_t size)
{
    axis->coarse = coarse;
    axis->size = size;
    axis->samples = malloc(size * sizeof(Sample));
    axis->first = malloc((coarse + 1) * sizeof(uint32_t));
    if (axis->samples == NULL || axis->first == NULL) {
        return -1;
    }
    float scale = (float)coarse / (float)fine;
    size_t j = 0;
    for (size_t i = 0; i < size; i++) {
        float source = scale * ((float)i + 0.5f) - 0.5f;
        source = source > 0.0f ? source : 0.0f;
        size_t base = (size_t)source;
        base = base < coarse - 1 ? base : coarse - 1;
        float weight = source - (float)base;
        axis->samples[i] = (Sample){(uint32_t)base, weight < 1.0f ? weight : 1.0f};
        while (j <= base) {
            axis->first[j++] = (uint32_t)i;
        }
    }
    while (j <= coarse) {
        axis->first[j++] = (uint32_t)size;
    }
    return 0;
}

static void
axis_free(Axis *axis)
{
    free(axis->samples);
    free(axis->first);
}

/* Kept between its ends, which rounding alone would not do and which the skipping relies on. */
static inline float
lerp(float a, float b, float weight)
{
    float least = a < b ? a : b;
    float most = a > b ? a : b;
    float value = a + (b - a) * weight;
    value = value > least ? value : least;
    return value < most ? value : most;
}

static inline float
axis_value(const Axis *axis, const float *values, size_t i)
{
    size_t base = axis->samples[i].base;
    size_t next = base + 1 < axis->coarse ? base + 1 : base;
    return lerp(values[base], values[next], axis->samples[i].weight);
}

/* Not a number counts as background, and no difference of two values overflows. */
static inline float
bounded(float logit)
{
    const float limit = 0x1p126f;
    float value = logit > -limit ? logit : -limit;
    return value < limit ? value : limit;
}

VECTOR_CLONES static void
lerp_logits(const float *restrict a, const float *restrict b, float weight, size_t size,
            float *restrict out)
{
    for (size_t i = 0; i < size; i++) {
        out[i] = lerp(bounded(a[i]), bounded(b[i]), weight);
    }
}

VECTOR_CLONES static void
lerp_rows(const float *restrict a, const float *restrict b, float weight, size_t size,
          float *restrict out)
{
    for (size_t i = 0; i < size; i++) {
        out[i] = lerp(a[i], b[i], weight);
    }
}

VECTOR_CLONES static void
find_above(const float *restrict values, float threshold, size_t size, uint8_t *restrict above)
{
    for (size_t i = 0; i < size; i++) {
        above[i] = values[i] > threshold;
    }
}

/* A half-open rectangle of low-res samples. */
typedef struct {
    size_t top, bottom, left, right;
} Region;

/* The smallest region that holds every logit above `low`: outside it nothing can be object. */
static Region
region_above(const Logits *source, float low)
{
    Region region = {source->rows, 0, source->columns, 0};
    for (size_t i = 0; i < source->rows; i++) {
        const float *row = source->logits + i * source->columns;
        size_t left = 0;
        while (left < source->columns && !(bounded(row[left]) > low)) {
            left++;
        }
        if (left == source->columns) {
            continue;
        }
        size_t right = source->columns;
        while (!(bounded(row[right - 1]) > low)) {
            right--;
        }
        region.top = region.top < i ? region.top : i;
        region.bottom = i + 1;
        region.left = region.left < left ? region.left : left;
        region.right = region.right > right ? region.right : right;
    }
    return region;
}

/* The four passes and the memory that a row needs. */
typedef struct {
    Axis frame_rows, rows;       /* low-res to frame, frame to original, down */
    Axis frame_columns, columns; /* and across */
    float *frame[2];             /* frame rows at low-res width; row y is in frame[y % 2] */
    size_t frame_row[2];         /* which y that is */
    float *row;                  /* one row of the original at low-res width */
    float *knots;                /* the same at frame width, filled only around changes */
    uint8_t *above;              /* which samples of `row` lie above the threshold */
    uint32_t *changes[2];
} Upscaler;

static int
upscaler_init(Upscaler *up, const Logits *source)
{
    size_t columns = source->columns;
    size_t widest = columns > source->input_width ? columns : source->input_width;
    widest = widest > source->width ? widest : source->width;

    *up = (Upscaler){.frame_row = {SIZE_MAX, SIZE_MAX}};
    if (axis_init(&up->frame_rows, source->rows, source->frame_size, source->input_height) < 0 ||
        axis_init(&up->rows, source->input_height, source->height, source->height) < 0 ||
        axis_init(&up->frame_columns, columns, source->frame_size, source->input_width) < 0 ||
        axis_init(&up->columns, source->input_width, source->width, source->width) < 0) {
        return -1;
    }
    up->frame[0] = malloc(columns * sizeof(float));
    up->frame[1] = malloc(columns * sizeof(float));
    up->row = malloc(columns * sizeof(float));
    up->knots = malloc(source->input_width * sizeof(float));
    up->above = malloc(columns);
    up->changes[0] = malloc((widest + 1) * sizeof(uint32_t));
    up->changes[1] = malloc((widest + 1) * sizeof(uint32_t));
    return up->frame[0] && up->frame[1] && up->row && up->knots && up->above && up->changes[0] &&
                   up->changes[1]
               ? 0
               : -1;
}

static void
upscaler_free(Upscaler *up)
{
    axis_free(&up->frame_rows);
    axis_free(&up->rows);
    axis_free(&up->frame_columns);
    axis_free(&up->columns);
    free(up->frame[0]);
    free(up->frame[1]);
    free(up->row);
    free(up->knots);
    free(up->above);
    free(up->changes[0]);
    free(up->changes[1]);
}

/* Row `y` of the frame, at low-res width. Rows are asked for downwards, two neighbours a time. */
static const float *
frame_row(Upscaler *up, const Logits *source, size_t y)
{
    float *row = up->frame[y % 2];
    if (up->frame_row[y % 2] != y) {
        Sample sample = up->frame_rows.samples[y];
        size_t base = sample.base;
        size_t next = base + 1 < source->rows ? base + 1 : base;
        lerp_logits(source->logits + base * source->columns,
                    source->logits + next * source->columns, sample.weight, source->columns, row);
        up->frame_row[y % 2] = y;
    }
    return row;
}

/* Where the values of a row cross the threshold: changes[0], changes[2], ... upwards, the others
 * downwards, as if background went before it. Samples outside [left, right) are background. */
static size_t
row_changes(Upscaler *up, size_t left, size_t right, float threshold)
{
    find_above(up->row + left, threshold, right - left, up->above + left);
    size_t size = 0;
    size_t j = left;
    while (j < right) {
        const uint8_t *found = memchr(up->above + j, size % 2 == 0, right - j);
        if (found == NULL) {
            break;
        }
        j = (size_t)(found - up->above);
        up->changes[0][size++] = (uint32_t)j;
    }
    if (size % 2 == 1 && right < up->frame_columns.coarse) {
        up->changes[0][size++] = (uint32_t)right;
    }
    return size;
}

/* Take the changes of a row through one pass, from the coarse axis to the fine one. */
static size_t
refine_changes(const Axis *axis, const float *values, float threshold, const uint32_t *coarse,
               size_t coarse_size, uint32_t *fine)
{
    size_t size = 0;
    for (size_t k = 0; k < coarse_size; k++) {
        /* Between the samples j - 1 and j the values go one way: those before the change count. */
        size_t j = coarse[k];
        size_t i = axis->first[j];
        if (j > 0) {
            float a = values[j - 1], step = values[j] - a;
            size_t end = i;
            i = axis->first[j - 1];
            size_t before = 0;
            for (size_t n = i; n < end; n++) {
                before += (a + step * axis->samples[n].weight > threshold) != (k % 2 == 0);
            }
            i += before;
        }
        if (size > 0 && fine[size - 1] == i) {
            size--; /* no fine sample falls between two changes */
        }
        else if (i < axis->size) {
            fine[size++] = (uint32_t)i;
        }
    }
    return size;
}

/* The changes of the row at the original width, in up->changes[0]. */
static size_t
pixel_changes(Upscaler *up, size_t left, size_t right, float threshold)
{
    size_t size = row_changes(up, left, right, threshold);
    size = refine_changes(&up->frame_columns, up->row, threshold, up->changes[0], size,
                          up->changes[1]);
    for (size_t k = 0; k < size; k++) {
        size_t x = up->changes[1][k];
        up->knots[x] = axis_value(&up->frame_columns, up->row, x);
        if (x > 0) {
            up->knots[x - 1] = axis_value(&up->frame_columns, up->row, x - 1);
        }
    }
    return refine_changes(&up->columns, up->knots, threshold, up->changes[1], size, up->changes[0]);
}

/* Pixels between upward and downward changes. */
static size_t
changes_area(const uint32_t *changes, size_t size, size_t width)
{
    size_t area = 0;
    for (size_t k = 0; k < size; k += 2) {
        area += (k + 1 < size ? changes[k + 1] : width) - changes[k];
    }
    return area;
}

static int
mask_append_row(Mask *mask, const uint32_t *changes, size_t size, size_t y, size_t width)
{
    if (size == 0) {
        return 0;
    }
    size_t x_max = size % 2 == 0 ? changes[size - 1] : width;
    if (mask->area == 0) {
        mask->x_min = changes[0];
        mask->y_min = y;
    }
    mask->x_min = mask->x_min < changes[0] ? mask->x_min : changes[0];
    mask->x_max = mask->x_max > x_max ? mask->x_max : x_max;
    mask->y_max = y + 1;
    mask->area += changes_area(changes, size, width);

    for (size_t k = 0; k < size; k++) {
        if (changes_append(&mask->counts, (uint32_t)(y * width + changes[k])) < 0) {
            return -1;
        }
    }
    if (size % 2 == 1) {
        return changes_append(&mask->counts, (uint32_t)(y * width + width));
    }
    return 0;
}

int
mask_from_logits(const Logits *source, float threshold, float low, float high, Mask *mask)
{
    int result = -1;
    uint64_t area_low = 0, area_high = 0;
    Upscaler up;
    if (upscaler_init(&up, source) < 0) {
        goto exit;
    }

    /* The columns whose values the changes inside the region can touch. */
    Region region = region_above(source, low);
    const Axis *across = &up.frame_columns;
    size_t left = 0, right = source->columns;
    if (region.left > 0 && region.left < source->columns) {
        size_t x = across->first[region.left - 1];
        left = x > 0 ? across->samples[x - 1].base : 0;
    }
    if (region.right < source->columns && across->first[region.right] < across->size) {
        size_t next = across->samples[across->first[region.right]].base + 2;
        right = next < source->columns ? next : source->columns;
    }

    for (size_t y = 0; y < source->height; y++) {
        Sample sample = up.rows.samples[y];
        size_t upper = sample.base;
        size_t lower = upper + 1 < source->input_height ? upper + 1 : upper;
        if (up.frame_rows.samples[lower].base + 1 < region.top ||
            up.frame_rows.samples[upper].base >= region.bottom) {
            continue;
        }
        const float *a = frame_row(&up, source, upper);
        const float *b = frame_row(&up, source, lower);
        lerp_rows(a + left, b + left, sample.weight, right - left, up.row + left);

        size_t size = pixel_changes(&up, region.left, region.right, low);
        area_low += changes_area(up.changes[0], size, source->width);
        size = pixel_changes(&up, region.left, region.right, high);
        area_high += changes_area(up.changes[0], size, source->width);
        size = pixel_changes(&up, region.left, region.right, threshold);
        if (mask_append_row(mask, up.changes[0], size, y, source->width) < 0) {
            goto exit;
        }
    }
    if (counts_from_changes(&mask->counts, (uint32_t)(source->height * source->width)) < 0) {
        goto exit;
    }
    mask->stability_score = area_low > 0 ? (double)area_high / (double)area_low : 0.0;
    result = 0;

exit:
    upscaler_free(&up);
    return result;
}
