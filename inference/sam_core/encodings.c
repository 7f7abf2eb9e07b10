/* Run lengths in the formats of others. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"
#include "runs.h"

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
