#include "kernels.h"

#include <float.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

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

/* ---- growing arrays ---------------------------------------------------------------------- */

static int
counts_append(Counts *counts, uint32_t item)
{
    if (counts->size == counts->capacity) {
        size_t capacity = counts->capacity ? 2 * counts->capacity : 1024;
        if (capacity > SIZE_MAX / sizeof(uint32_t)) {
            return -1;
        }
        uint32_t *items = realloc(counts->items, capacity * sizeof(uint32_t));
        if (items == NULL) {
            return -1;
        }
        counts->items = items;
        counts->capacity = capacity;
    }
    counts->items[counts->size++] = item;
    return 0;
}

/* ---- changes: the positions at which a mask goes from background to object or back --------- */

/* Two changes at one position are none: that is how runs grow together across row ends. */
static int
changes_append(Counts *changes, uint32_t position)
{
    if (changes->size > 0 && changes->items[changes->size - 1] == position) {
        changes->size--;
        return 0;
    }
    return counts_append(changes, position);
}

/* Turn changes into run lengths, in place. */
static int
counts_from_changes(Counts *changes, uint32_t pixels)
{
    bool ends_in_object = changes->size > 0 && changes->items[changes->size - 1] == pixels;
    if (!ends_in_object && counts_append(changes, pixels) < 0) {
        return -1;
    }
    uint32_t previous = 0;
    for (size_t i = 0; i < changes->size; i++) {
        uint32_t position = changes->items[i];
        changes->items[i] = position - previous;
        previous = position;
    }
    return 0;
}

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

/* ---- masks and runs ------------------------------------------------------------------------ */

/* The first position from `start` on that is set, or `pixels`. */
static size_t
find_set(const uint8_t *mask, size_t start, size_t pixels)
{
    uint64_t word;
    while (pixels - start >= sizeof word) {
        memcpy(&word, mask + start, sizeof word);
        if (word != 0) {
            break;
        }
        start += sizeof word;
    }
    while (start < pixels && mask[start] == 0) {
        start++;
    }
    return start;
}

int
counts_from_mask(const uint8_t *mask, size_t pixels, Counts *counts)
{
    size_t position = 0;
    while (position < pixels) {
        size_t start = find_set(mask, position, pixels);
        if (counts_append(counts, (uint32_t)(start - position)) < 0) {
            return -1;
        }
        if (start == pixels) {
            break;
        }
        const uint8_t *clear = memchr(mask + start, 0, pixels - start);
        position = clear != NULL ? (size_t)(clear - mask) : pixels;
        if (counts_append(counts, (uint32_t)(position - start)) < 0) {
            return -1;
        }
    }
    return 0;
}

void
mask_from_counts(const uint32_t *counts, size_t size, uint8_t *mask)
{
    for (size_t i = 0; i < size; i++) {
        memset(mask, i % 2 == 1, counts[i]);
        mask += counts[i];
    }
}

/* ---- Label Studio's brush RLE --------------------------------------------------------------
 *
 * A bit stream, most significant bit first, of an RGBA image whose four channels are all 255 in
 * the object and 0 outside. A header gives the number of bytes and the widths of the records;
 * each record is 1 (a run), 2 bits for the class, the length - 1 in as many bits as the class
 * has, and 8 bits of value. */

enum { CHANNELS = 4, HEADER_BITS = 53, LONGEST_RECORD = 65536 };

static const unsigned class_bits[4] = {3, 4, 8, 16};

static unsigned
record_class(uint64_t length)
{
    return length <= 8 ? 0 : length <= 16 ? 1 : length <= 256 ? 2 : 3;
}

size_t
brush_rle_size(const uint32_t *counts, size_t size)
{
    size_t bits = HEADER_BITS;
    for (size_t i = 0; i < size; i++) {
        uint64_t length = (uint64_t)counts[i] * CHANNELS;
        if (length > 0) {
            size_t records = (size_t)((length + LONGEST_RECORD - 1) / LONGEST_RECORD);
            bits += records * (11 + class_bits[record_class(length)]);
        }
    }
    return bits / 8 + 1; /* the SDK's encoder pads a full byte where none is needed */
}

typedef struct {
    uint8_t *next;
    uint64_t pending; /* the lowest `size` bits are still to be written, at most 7 between calls */
    unsigned size;
} BitWriter;

static inline void
write_bits(BitWriter *writer, uint64_t value, unsigned bits)
{
    writer->pending = writer->pending << bits | value;
    writer->size += bits;
    while (writer->size >= 8) {
        writer->size -= 8;
        *writer->next++ = (uint8_t)(writer->pending >> writer->size);
    }
}

static inline void
write_record(BitWriter *writer, unsigned class, uint64_t length, uint64_t value)
{
    uint64_t record = 4u | class;
    record = record << class_bits[class] | (length - 1);
    write_bits(writer, record << 8 | value, 11 + class_bits[class]);
}

void
brush_rle(const uint32_t *counts, size_t size, uint32_t pixels, uint8_t *rle)
{
    BitWriter writer = {.next = rle};
    write_bits(&writer, (uint64_t)pixels * CHANNELS, 32);
    write_bits(&writer, 8 - 1, 5); /* values have 8 bits */
    for (size_t i = 0; i < 4; i++) {
        write_bits(&writer, class_bits[i] - 1, 4);
    }
    for (size_t i = 0; i < size; i++) {
        uint64_t value = i % 2 == 1 ? 255 : 0;
        uint64_t length = (uint64_t)counts[i] * CHANNELS;
        unsigned class = record_class(length);
        for (; length > LONGEST_RECORD; length -= LONGEST_RECORD) {
            write_record(&writer, class, LONGEST_RECORD, value);
        }
        if (length > 0) {
            write_record(&writer, class, length, value);
        }
    }
    write_bits(&writer, 0, 8 - writer.size);
}

size_t
json_from_bytes(const uint8_t *bytes, size_t size, char *json)
{
    char number[256][4]; /* every byte in decimal with a comma after it */
    uint8_t length[256];
    for (unsigned value = 0; value < 256; value++) {
        uint8_t n = 0;
        if (value >= 100) {
            number[value][n++] = (char)('0' + value / 100);
        }
        if (value >= 10) {
            number[value][n++] = (char)('0' + value / 10 % 10);
        }
        number[value][n++] = (char)('0' + value % 10);
        number[value][n++] = ',';
        length[value] = n;
    }

    char *next = json;
    *next++ = '[';
    for (size_t i = 0; i < size; i++) {
        memcpy(next, number[bytes[i]], 4); /* the next number overwrites what is too much */
        next += length[bytes[i]];
    }
    next[-1] = ']';
    return (size_t)(next - json);
}

/* ---- COCO's compressed counts --------------------------------------------------------------
 *
 * COCO's runs go down the columns. A column changes between two rows exactly where one of the
 * rows is object and the other is not, that is between the changes of both rows taken together.
 * So the changes of each column are counted, then filled in row by row, and no mask is made. */

/* Reads the runs of a mask row by row. */
typedef struct {
    const uint32_t *counts;
    size_t size;
    size_t width;
    size_t next;       /* the first run that is not read yet */
    uint64_t position; /* where that run begins */
} RowReader;

/* The changes of row `y` in pairs, up and down, as columns 0 .. width. Rows are read in order. */
static size_t
read_row(RowReader *reader, size_t y, uint32_t *changes)
{
    uint64_t begin = (uint64_t)y * reader->width;
    uint64_t end = begin + reader->width;
    size_t size = 0;
    if (reader->next % 2 == 0 && reader->position > begin) {
        changes[size++] = 0; /* the last run read is one of the object and goes on here */
    }
    /* A run of background that begins with the next row ends the object's run in this one. */
    while (reader->next < reader->size &&
           (reader->position < end || (reader->position == end && reader->next % 2 == 0))) {
        if (reader->next > 0) {
            changes[size++] = (uint32_t)(reader->position - begin);
        }
        reader->position += reader->counts[reader->next++];
    }
    if (size % 2 == 1) {
        changes[size++] = (uint32_t)reader->width;
    }
    return size;
}

/* Merge the changes of two rows; those that both have drop out. */
static size_t
merge_changes(const uint32_t *a, size_t a_size, const uint32_t *b, size_t b_size, uint32_t *merged)
{
    size_t i = 0, j = 0, size = 0;
    while (i < a_size || j < b_size) {
        if (j == b_size || (i < a_size && a[i] < b[j])) {
            merged[size++] = a[i++];
        }
        else if (i == a_size || b[j] < a[i]) {
            merged[size++] = b[j++];
        }
        else {
            i++;
            j++;
        }
    }
    return size;
}

/* Walks down the rows of a mask, background above and below it. */
typedef struct {
    RowReader reader;
    size_t height;
    size_t row_size;       /* of the row above */
    uint32_t *row, *below; /* changes of the row above and of this one, width + 1 each */
    uint32_t *merged;      /* columns [0], [1), [2], [3) ... differ between them, 2 * width + 2 */
} Differences;

static size_t
next_difference(Differences *rows, size_t y)
{
    size_t below_size = y < rows->height ? read_row(&rows->reader, y, rows->below) : 0;
    size_t size = merge_changes(rows->row, rows->row_size, rows->below, below_size, rows->merged);
    uint32_t *row = rows->row;
    rows->row = rows->below;
    rows->row_size = below_size;
    rows->below = row;
    return size;
}

int
transpose_counts(const uint32_t *counts, size_t size, size_t height, size_t width, Counts *out)
{
    int result = -1;
    const RowReader start = {.counts = counts, .size = size, .width = width};
    Differences rows = {.reader = start, .height = height};
    size_t *place = calloc(width + 1, sizeof(size_t)); /* a column's next change goes there */
    rows.row = malloc((width + 1) * sizeof(uint32_t));
    rows.below = malloc((width + 1) * sizeof(uint32_t));
    rows.merged = malloc((2 * width + 2) * sizeof(uint32_t));
    if (place == NULL || rows.row == NULL || rows.below == NULL || rows.merged == NULL) {
        goto exit;
    }

    /* Count: the differences of neighbouring columns first (they may wrap below 0), then sums. */
    for (size_t y = 0; y <= height; y++) {
        size_t merged_size = next_difference(&rows, y);
        for (size_t k = 0; k < merged_size; k += 2) {
            place[rows.merged[k]]++;
            place[rows.merged[k + 1]]--;
        }
    }
    size_t in_column = 0, total = 0;
    for (size_t x = 0; x < width; x++) {
        in_column += place[x];
        place[x] = total;
        total += in_column;
    }

    out->items = malloc((total + 1) * sizeof(uint32_t));
    if (out->items == NULL) {
        goto exit;
    }
    out->capacity = total + 1;
    rows.reader = start;
    for (size_t y = 0; y <= height; y++) {
        size_t merged_size = next_difference(&rows, y);
        for (size_t k = 0; k < merged_size; k += 2) {
            for (size_t x = rows.merged[k]; x < rows.merged[k + 1]; x++) {
                out->items[place[x]++] = (uint32_t)(x * height + y);
            }
        }
    }
    /* In place: never more are written than were read. */
    for (size_t i = 0; i < total; i++) {
        if (changes_append(out, out->items[i]) < 0) {
            goto exit;
        }
    }
    result = counts_from_changes(out, (uint32_t)(height * width));

exit:
    free(place);
    free(rows.row);
    free(rows.below);
    free(rows.merged);
    return result;
}

size_t
coco_text(const uint32_t *counts, size_t size, char *text)
{
    char *next = text;
    for (size_t i = 0; i < size; i++) {
        /* From the fourth on, a run is given as the difference to the last of its kind. */
        int64_t value = counts[i];
        if (i > 2) {
            value -= counts[i - 2];
        }
        /* Five bits a character, lowest first; bit 5 says that more follow, bit 4 of the last one
         * is the sign. */
        bool more = true;
        while (more) {
            unsigned bits = (unsigned)(value & 31);
            value >>= 5;
            more = bits & 16 ? value != -1 : value != 0;
            *next++ = (char)('0' + (more ? bits | 32 : bits));
        }
    }
    return (size_t)(next - text);
}

/* ---- packed bits --------------------------------------------------------------------------- */

static void
set_bits(uint8_t *bits, size_t begin, size_t end)
{
    size_t first = begin / 8, last = end / 8;
    uint8_t from = (uint8_t)(0xff >> begin % 8), below = (uint8_t)~(0xff >> end % 8);
    if (first == last) {
        bits[first] |= from & below;
        return;
    }
    bits[first] |= from;
    memset(bits + first + 1, 0xff, last - first - 1);
    if (below != 0) { /* else the byte may lie behind the last one */
        bits[last] |= below;
    }
}

void
packed_bits(const uint32_t *counts, size_t size, uint8_t *bits)
{
    size_t position = 0;
    for (size_t i = 0; i < size; i++) {
        if (i % 2 == 1) {
            set_bits(bits, position, position + counts[i]);
        }
        position += counts[i];
    }
}
