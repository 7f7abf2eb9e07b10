/* Masks to run lengths and back, and run lengths row by row. */
#include "runs.h"

#include <stdbool.h>
#include <string.h>

int
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

size_t
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
