/* Run lengths as the kernels make and read them; see kernels.h for what is kept where. */
#ifndef SAM_CORE_RUNS_H
#define SAM_CORE_RUNS_H

#include <stdlib.h>

#include "kernels.h"

static inline int
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
static inline int
changes_append(Counts *changes, uint32_t position)
{
    if (changes->size > 0 && changes->items[changes->size - 1] == position) {
        changes->size--;
        return 0;
    }
    return counts_append(changes, position);
}

/* Turn changes into run lengths, in place. */
int counts_from_changes(Counts *changes, uint32_t pixels);

/* ---- rows ---------------------------------------------------------------------------------- */

/* Reads the runs of a mask row by row. */
typedef struct {
    const uint32_t *counts;
    size_t size;
    size_t width;
    size_t next;       /* the first run that is not read yet */
    uint64_t position; /* where that run begins */
} RowReader;

/* The changes of row `y` in pairs, up and down, as columns 0 .. width; `changes` has room for
 * width + 1. Rows are read in order. */
size_t read_row(RowReader *reader, size_t y, uint32_t *changes);

#endif
