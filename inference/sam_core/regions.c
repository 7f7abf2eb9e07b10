/* The connected parts of masks: small ones removed, outlines traced.
 *
 * Both work on segments, the pieces of runs that lie within one row: time and memory follow the
 * number of runs and rows, not that of pixels. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"
#include "runs.h"

/* ---- components ---------------------------------------------------------------------------- */

/* Columns begin <= x < end of row y. */
typedef struct {
    uint32_t y, begin, end;
} Segment;

/* Segments of the object, or of the background, in row-major order, and what is connected. The
 * first segment of a component is its root, and `pixels` has the component's number there. */
typedef struct {
    Segment *segments;
    size_t size;
    uint32_t *parents;
    uint32_t *pixels;
} Components;

static void
components_free(Components *components)
{
    free(components->segments);
    free(components->parents);
    free(components->pixels);
}

static void
components_append(Components *components, size_t y, size_t begin, size_t end)
{
    size_t i = components->size++;
    components->segments[i] = (Segment){(uint32_t)y, (uint32_t)begin, (uint32_t)end};
    components->parents[i] = (uint32_t)i;
    components->pixels[i] = (uint32_t)(end - begin);
}

static size_t
find_root(const Components *components, size_t i)
{
    uint32_t *parents = components->parents;
    while (parents[i] != i) {
        parents[i] = parents[parents[i]];
        i = parents[i];
    }
    return i;
}

static void
unite(Components *components, size_t i, size_t j)
{
    i = find_root(components, i);
    j = find_root(components, j);
    if (i != j) {
        size_t root = i < j ? i : j, other = i < j ? j : i;
        components->parents[other] = (uint32_t)root;
        components->pixels[root] += components->pixels[other];
    }
}

/* Unite the segments of neighbouring rows that share an edge or, if `corners`, a corner. */
static void
unite_rows(Components *components, bool corners)
{
    const Segment *segments = components->segments;
    size_t above = 0; /* the first segment of the row above that may reach this or a later one */
    for (size_t i = 0; i < components->size; i++) {
        const Segment *below = &segments[i];
        while (segments[above].y + 1 < below->y ||
               (segments[above].y < below->y && segments[above].end + corners <= below->begin)) {
            above++;
        }
        for (size_t j = above; segments[j].y + 1 == below->y; j++) {
            if (segments[j].begin >= below->end + corners) {
                break;
            }
            unite(components, i, j);
        }
    }
}

/* Find the connected components of the object or of the background: 8-connected ones if `corners`,
 * else 4-connected ones. */
static int
components_init(Components *components, const uint32_t *counts, size_t size, size_t height,
                size_t width, bool object, bool corners)
{
    int result = -1;
    RowReader reader = {.counts = counts, .size = size, .width = width};
    uint32_t *changes = malloc((width + 1) * sizeof(uint32_t));
    /* A run is cut at most once a row end. */
    size_t most = size / 2 + 1 + height;
    components->segments = malloc(most * sizeof(Segment));
    components->parents = malloc(most * sizeof(uint32_t));
    components->pixels = malloc(most * sizeof(uint32_t));
    if (changes == NULL || components->segments == NULL || components->parents == NULL ||
        components->pixels == NULL) {
        goto exit;
    }

    for (size_t y = 0; y < height; y++) {
        size_t changes_size = read_row(&reader, y, changes);
        size_t end = 0;
        for (size_t k = 0; k < changes_size; k += 2) {
            if (object) {
                components_append(components, y, changes[k], changes[k + 1]);
            }
            else if (changes[k] > end) {
                components_append(components, y, end, changes[k]);
            }
            end = changes[k + 1];
        }
        if (!object && width > end) {
            components_append(components, y, end, width);
        }
    }
    unite_rows(components, corners);
    result = 0;

exit:
    free(changes);
    return result;
}

/* ---- small regions ------------------------------------------------------------------------- */

/* Give background that reaches the border more pixels than any hole can have. */
static void
exempt_border(Components *components, size_t height, size_t width)
{
    for (size_t i = 0; i < components->size; i++) {
        const Segment *segment = &components->segments[i];
        if (segment->y == 0 || segment->y == height - 1 || segment->begin == 0 ||
            segment->end == width) {
            components->pixels[find_root(components, i)] = UINT32_MAX;
        }
    }
}

/* The component with the most pixels, the first of equals. */
static size_t
largest_root(const Components *components)
{
    size_t largest = 0;
    for (size_t i = 0; i < components->size; i++) {
        if (components->parents[i] == i && components->pixels[i] > components->pixels[largest]) {
            largest = i;
        }
    }
    return largest;
}

static int
remove_specks(const uint32_t *counts, size_t size, size_t height, size_t width, uint32_t max_pixels,
              Counts *out)
{
    int result = -1;
    Components specks = {0};
    if (components_init(&specks, counts, size, height, width, true, true) < 0) {
        goto exit;
    }
    size_t largest = largest_root(&specks);
    for (size_t i = 0; i < specks.size; i++) {
        size_t root = find_root(&specks, i);
        uint32_t row = (uint32_t)(specks.segments[i].y * width);
        if ((specks.pixels[root] > max_pixels || root == largest) &&
            (changes_append(out, row + specks.segments[i].begin) < 0 ||
             changes_append(out, row + specks.segments[i].end) < 0)) {
            goto exit;
        }
    }
    result = counts_from_changes(out, (uint32_t)(height * width));

exit:
    components_free(&specks);
    return result;
}

static int
fill_holes(const uint32_t *counts, size_t size, size_t height, size_t width, uint32_t max_pixels,
           Counts *out)
{
    int result = -1;
    Components holes = {0};
    if (components_init(&holes, counts, size, height, width, false, false) < 0) {
        goto exit;
    }
    exempt_border(&holes, height, width);
    /* Object everywhere, but for the background that stays. */
    if (changes_append(out, 0) < 0) {
        goto exit;
    }
    for (size_t i = 0; i < holes.size; i++) {
        uint32_t row = (uint32_t)(holes.segments[i].y * width);
        if (holes.pixels[find_root(&holes, i)] > max_pixels &&
            (changes_append(out, row + holes.segments[i].begin) < 0 ||
             changes_append(out, row + holes.segments[i].end) < 0)) {
            goto exit;
        }
    }
    uint32_t pixels = (uint32_t)(height * width);
    if (changes_append(out, pixels) < 0) {
        goto exit;
    }
    result = counts_from_changes(out, pixels);

exit:
    components_free(&holes);
    return result;
}

int
remove_small_regions(const uint32_t *counts, size_t size, size_t height, size_t width,
                     uint32_t max_speck_pixels, uint32_t max_hole_pixels, Counts *out)
{
    Counts filled = {0};
    int result = fill_holes(counts, size, height, width, max_hole_pixels, &filled);
    if (result == 0) {
        result = remove_specks(filled.items, filled.size, height, width, max_speck_pixels, out);
    }
    free(filled.items);
    return result;
}

/* ---- outlines ------------------------------------------------------------------------------
 *
 * An outline goes along the edges of pixels with the object on its right: up the left end of a
 * segment, down its right end, and along the lines between rows from one such edge to another.
 * Edge 2 * i is the left end of segment i and 2 * i + 1 the right one; a sweep along each line
 * between two rows finds which edge follows which.
 *
 * Where two pixels of the object touch by their corners only, four edges meet. If both belong to
 * one part, the outlines turn so that they part the background there, else so that they part the
 * pixels. In both cases what is parted lies on different outlines: none visits a corner twice. */

/* One end of an edge, on the line between two rows; the edge comes from its tail to its head. */
typedef struct {
    size_t edge;
    bool head;
} End;

static uint32_t
edge_x(const Components *parts, size_t edge)
{
    const Segment *segment = &parts->segments[edge / 2];
    return edge % 2 == 0 ? segment->begin : segment->end;
}

static void
join(uint32_t *next, End a, End b)
{
    if (a.head) {
        next[a.edge] = (uint32_t)b.edge;
    }
    else {
        next[b.edge] = (uint32_t)a.edge;
    }
}

/* Join the edges above a line, [above, above_end), and those below it. */
static void
join_rows(const Components *parts, size_t above, size_t above_end, size_t below, size_t below_end,
          uint32_t *next)
{
    bool along = false; /* the outline goes along the line here, from `last` */
    End last = {0};
    while (above < above_end || below < below_end) {
        End upper = {above, above % 2 == 1}, lower = {below, below % 2 == 0};
        bool has_upper = below == below_end ||
                         (above < above_end && edge_x(parts, above) <= edge_x(parts, below));
        bool has_lower = above == above_end ||
                         (below < below_end && edge_x(parts, below) <= edge_x(parts, above));
        above += has_upper;
        below += has_lower;
        if (has_upper && has_lower && !along) {
            join(next, upper, lower);
        }
        else if (has_upper && has_lower) {
            bool one_part = find_root(parts, upper.edge / 2) == find_root(parts, lower.edge / 2);
            bool up = upper.head != one_part;
            join(next, last, up ? upper : lower);
            last = up ? lower : upper;
        }
        else {
            End end = has_upper ? upper : lower;
            if (along) {
                join(next, last, end);
            }
            last = end;
            along = !along;
        }
    }
}

/* Follow the outline that `first` is part of, the first of its edges; number of its points. Edges
 * that were followed are their own next. */
static int
trace(const Components *parts, size_t first, uint32_t *next, Counts *points, uint32_t *size)
{
    size_t edge = first;
    *size = 0;
    do {
        size_t following = next[edge];
        uint32_t x = edge_x(parts, edge), following_x = edge_x(parts, following);
        if (x != following_x) {
            uint32_t y = parts->segments[edge / 2].y + (uint32_t)(edge % 2);
            if (counts_append(points, x) < 0 || counts_append(points, y) < 0 ||
                counts_append(points, following_x) < 0 || counts_append(points, y) < 0) {
                return -1;
            }
            *size += 2;
        }
        next[edge] = (uint32_t)edge;
        edge = following;
    } while (edge != first);
    return 0;
}

int
polygons(const uint32_t *counts, size_t size, size_t height, size_t width, Counts *points,
         Counts *rings, Counts *areas)
{
    int result = -1;
    uint32_t *next = NULL;
    Components parts = {0};
    if (components_init(&parts, counts, size, height, width, true, false) < 0) {
        goto exit;
    }
    size_t edges = 2 * parts.size;
    next = malloc((edges + 1) * sizeof(uint32_t));
    if (next == NULL) {
        goto exit;
    }
    size_t above = 0, below = 0;
    for (size_t y = 0; y <= height; y++) {
        size_t below_end = below;
        while (below_end < edges && parts.segments[below_end / 2].y == y) {
            below_end += 2;
        }
        join_rows(&parts, above, below, below, below_end, next);
        above = below;
        below = below_end;
    }

    for (size_t edge = 0; edge < edges; edge++) {
        if (next[edge] == edge) {
            continue;
        }
        /* Of a part, the first edge is a left end, and its outline comes first; of a hole, it is
         * the right end of what lies before the hole. */
        size_t root = find_root(&parts, edge / 2);
        if (edge % 2 == 0) {
            if (counts_append(areas, parts.pixels[root]) < 0) {
                goto exit;
            }
            parts.pixels[root] = (uint32_t)(areas->size - 1); /* from here on, the part's number */
        }
        uint32_t ring_size;
        if (trace(&parts, edge, next, points, &ring_size) < 0 ||
            counts_append(rings, ring_size) < 0 || counts_append(rings, parts.pixels[root]) < 0) {
            goto exit;
        }
    }
    result = 0;

exit:
    components_free(&parts);
    free(next);
    return result;
}
