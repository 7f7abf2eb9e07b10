/* The Python face of kernels.h: takes buffers, checks them, gives bytes or fills arrays.
 *
 * sam_core/__init__.py checks arguments and names them for the user; the checks here keep memory
 * safe whoever calls. The functions and their meaning are those of _numpy.py. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

/* Sides that float32 coordinates still tell apart, half pixels included. */
#define MAX_SIDE ((Py_ssize_t)1 << 20)

/* Releasing the GIL can cost milliseconds when other threads want it: not for less than this. */
#define LARGE_BYTES ((Py_ssize_t)1 << 16)

/* ---- arguments ----------------------------------------------------------------------------- */

/* Take a C-contiguous buffer of one of `formats` with `ndim` dimensions. */
static int
get_array(PyObject *object, const char *name, const char *formats, Py_ssize_t itemsize, int ndim,
          int flags, Py_buffer *view)
{
    if (PyObject_GetBuffer(object, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | flags) < 0) {
        return -1;
    }
    if (strlen(view->format) != 1 || strchr(formats, view->format[0]) == NULL ||
        view->itemsize != itemsize) {
        PyErr_Format(PyExc_TypeError, "%s: items have format '%s', expected one of '%s'", name,
                     view->format, formats);
        PyBuffer_Release(view);
        return -1;
    }
    if (view->ndim != ndim || view->len == 0 || (uintptr_t)view->buf % (size_t)itemsize != 0) {
        PyErr_Format(PyExc_ValueError, "%s: expected %d dimensions, none empty, aligned", name,
                     ndim);
        PyBuffer_Release(view);
        return -1;
    }
    return 0;
}

static int
check_side(const char *name, Py_ssize_t side)
{
    if (side < 1 || side > MAX_SIDE) {
        PyErr_Format(PyExc_ValueError, "%s: %zd is outside 1 to %zd", name, side, MAX_SIDE);
        return -1;
    }
    return 0;
}

static int
check_pixels(const char *name, Py_ssize_t height, Py_ssize_t width)
{
    if (check_side(name, height) < 0 || check_side(name, width) < 0) {
        return -1;
    }
    if ((uint64_t)height * (uint64_t)width > UINT32_MAX) {
        PyErr_Format(PyExc_ValueError, "%s: %zd x %zd pixels do not fit 32 bits", name, height,
                     width);
        return -1;
    }
    return 0;
}

/* Take run lengths that fill height * width pixels; only the first may be 0. */
static int
get_counts(PyObject *object, Py_ssize_t height, Py_ssize_t width, Py_buffer *view)
{
    if (check_pixels("height and width", height, width) < 0 ||
        get_array(object, "counts", "IL", sizeof(uint32_t), 1, 0, view) < 0) {
        return -1;
    }
    const uint32_t *counts = view->buf;
    uint64_t sum = counts[0];
    bool zero = false;
    for (Py_ssize_t i = 1; i < view->shape[0]; i++) {
        sum += counts[i];
        zero |= counts[i] == 0;
    }
    if (zero || sum != (uint64_t)height * (uint64_t)width) {
        PyErr_SetString(PyExc_ValueError, "counts: not the run lengths of height * width pixels");
        PyBuffer_Release(view);
        return -1;
    }
    return 0;
}

static PyThreadState *
release_gil(Py_ssize_t bytes)
{
    return bytes >= LARGE_BYTES ? PyEval_SaveThread() : NULL;
}

static void
acquire_gil(PyThreadState *state)
{
    if (state != NULL) {
        PyEval_RestoreThread(state);
    }
}

static PyObject *
bytes_from_counts(const Counts *counts)
{
    return PyBytes_FromStringAndSize((const char *)counts->items,
                                     (Py_ssize_t)(counts->size * sizeof(uint32_t)));
}

/* ---- functions ----------------------------------------------------------------------------- */

PyDoc_STRVAR(normalize_and_pad_into_doc,
             "normalize_and_pad_into(image, mean, std, frame, /)\n--\n\n"
             "Fill float32 frame (3, S, S) from uint8 image (H, W, 3).");

static PyObject *
native_normalize_and_pad_into(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *image_object, *frame_object, *result = NULL;
    Py_buffer image = {0}, frame = {0};
    float mean[3], std[3];

    if (!PyArg_ParseTuple(args, "O(fff)(fff)O:normalize_and_pad_into", &image_object, &mean[0],
                          &mean[1], &mean[2], &std[0], &std[1], &std[2], &frame_object)) {
        goto exit;
    }
    if (get_array(image_object, "image", "B", 1, 3, 0, &image) < 0 ||
        get_array(frame_object, "frame", "f", sizeof(float), 3, PyBUF_WRITABLE, &frame) < 0) {
        goto exit;
    }
    if (image.shape[2] != 3 || frame.shape[0] != 3 || frame.shape[1] != frame.shape[2]) {
        PyErr_SetString(PyExc_ValueError, "expected image (H, W, 3) and frame (3, S, S)");
        goto exit;
    }
    if (image.shape[0] > frame.shape[1] || image.shape[1] > frame.shape[1]) {
        PyErr_SetString(PyExc_ValueError, "image: larger than the frame");
        goto exit;
    }

    PyThreadState *state = release_gil(frame.len);
    normalize_and_pad(image.buf, (size_t)image.shape[0], (size_t)image.shape[1], mean, std,
                      (size_t)frame.shape[1], frame.buf);
    acquire_gil(state);
    result = Py_NewRef(Py_None);

exit:
    PyBuffer_Release(&image);
    PyBuffer_Release(&frame);
    return result;
}

PyDoc_STRVAR(mask_from_logits_doc,
             "mask_from_logits(logits, frame_size, input_size, original_size, threshold, low,\n"
             "                 high, /)\n--\n\n"
             "Give (counts, area, box, stability_score); counts as bytes of uint32.");

static PyObject *
native_mask_from_logits(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *logits_object, *counts = NULL, *result = NULL;
    Py_buffer logits = {0};
    Py_ssize_t frame_size, input_height, input_width, height, width;
    float threshold, low, high;
    Mask mask = {0};

    if (!PyArg_ParseTuple(args, "On(nn)(nn)fff:mask_from_logits", &logits_object, &frame_size,
                          &input_height, &input_width, &height, &width, &threshold, &low, &high)) {
        goto exit;
    }
    if (check_side("frame_size", frame_size) < 0 ||
        check_pixels("input_size", input_height, input_width) < 0 ||
        check_pixels("original_size", height, width) < 0 ||
        get_array(logits_object, "logits", "f", sizeof(float), 2, 0, &logits) < 0 ||
        check_side("logits", logits.shape[0]) < 0 || check_side("logits", logits.shape[1]) < 0) {
        goto exit;
    }
    if (input_height > frame_size || input_width > frame_size) {
        PyErr_SetString(PyExc_ValueError, "input_size: larger than the frame");
        goto exit;
    }
    if (!(low <= threshold && threshold <= high)) {
        PyErr_SetString(PyExc_ValueError, "expected low <= threshold <= high");
        goto exit;
    }

    const Logits source = {
        .logits = logits.buf,
        .rows = (size_t)logits.shape[0],
        .columns = (size_t)logits.shape[1],
        .frame_size = (size_t)frame_size,
        .input_height = (size_t)input_height,
        .input_width = (size_t)input_width,
        .height = (size_t)height,
        .width = (size_t)width,
    };
    PyThreadState *state = release_gil(logits.len);
    int status = mask_from_logits(&source, threshold, low, high, &mask);
    acquire_gil(state);
    if (status < 0) {
        PyErr_NoMemory();
        goto exit;
    }
    counts = bytes_from_counts(&mask.counts);
    if (counts == NULL) {
        goto exit;
    }
    result = Py_BuildValue("OK(nnnn)d", counts, (unsigned long long)mask.area,
                           (Py_ssize_t)mask.x_min, (Py_ssize_t)mask.y_min, (Py_ssize_t)mask.x_max,
                           (Py_ssize_t)mask.y_max, mask.stability_score);

exit:
    free(mask.counts.items);
    Py_XDECREF(counts);
    PyBuffer_Release(&logits);
    return result;
}

PyDoc_STRVAR(counts_from_mask_doc, "counts_from_mask(mask, /)\n--\n\n"
                                   "Give the run lengths of uint8 mask (H, W) as bytes of uint32.");

static PyObject *
native_counts_from_mask(PyObject *Py_UNUSED(module), PyObject *mask_object)
{
    PyObject *result = NULL;
    Py_buffer mask = {0};
    Counts counts = {0};

    if (get_array(mask_object, "mask", "B?", 1, 2, 0, &mask) < 0 ||
        check_pixels("mask", mask.shape[0], mask.shape[1]) < 0) {
        goto exit;
    }
    PyThreadState *state = release_gil(mask.len);
    int status = counts_from_mask(mask.buf, (size_t)mask.len, &counts);
    acquire_gil(state);
    if (status < 0) {
        PyErr_NoMemory();
        goto exit;
    }
    result = bytes_from_counts(&counts);

exit:
    free(counts.items);
    PyBuffer_Release(&mask);
    return result;
}

PyDoc_STRVAR(mask_from_counts_into_doc, "mask_from_counts_into(counts, mask, /)\n--\n\n"
                                        "Fill uint8 mask (H, W) with 0 and 1.");

static PyObject *
native_mask_from_counts_into(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *counts_object, *mask_object, *result = NULL;
    Py_buffer counts = {0}, mask = {0};

    if (!PyArg_ParseTuple(args, "OO:mask_from_counts_into", &counts_object, &mask_object) ||
        get_array(mask_object, "mask", "B?", 1, 2, PyBUF_WRITABLE, &mask) < 0 ||
        get_counts(counts_object, mask.shape[0], mask.shape[1], &counts) < 0) {
        goto exit;
    }
    PyThreadState *state = release_gil(mask.len);
    mask_from_counts(counts.buf, (size_t)counts.shape[0], mask.buf);
    acquire_gil(state);
    result = Py_NewRef(Py_None);

exit:
    PyBuffer_Release(&counts);
    PyBuffer_Release(&mask);
    return result;
}

/* The arguments that an encoding takes: counts, height, width. */
static int
parse_encoding(PyObject *args, Py_buffer *counts, Py_ssize_t *height, Py_ssize_t *width)
{
    PyObject *object;
    if (!PyArg_ParseTuple(args, "Onn", &object, height, width)) {
        return -1;
    }
    return get_counts(object, *height, *width, counts);
}

/* The RGBA image's bytes are counted in 32 bits. */
static int
check_brush(Py_ssize_t height, Py_ssize_t width)
{
    if ((uint64_t)height * (uint64_t)width > UINT32_MAX / 4) {
        PyErr_SetString(PyExc_ValueError, "height and width: too many pixels for brush RLE");
        return -1;
    }
    return 0;
}

PyDoc_STRVAR(brush_rle_doc, "brush_rle(counts, height, width, /)\n--\n\n"
                            "Give Label Studio's brush RLE as bytes.");

static PyObject *
native_brush_rle(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *result = NULL;
    Py_buffer counts = {0};
    Py_ssize_t height, width;

    if (parse_encoding(args, &counts, &height, &width) < 0 || check_brush(height, width) < 0) {
        goto exit;
    }
    size_t size = (size_t)counts.shape[0];
    result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)brush_rle_size(counts.buf, size));
    if (result == NULL) {
        goto exit;
    }
    uint8_t *rle = (uint8_t *)PyBytes_AS_STRING(result);
    PyThreadState *state = release_gil(counts.len);
    brush_rle(counts.buf, size, (uint32_t)(height * width), rle);
    acquire_gil(state);

exit:
    PyBuffer_Release(&counts);
    return result;
}

PyDoc_STRVAR(brush_rle_json_doc, "brush_rle_json(counts, height, width, /)\n--\n\n"
                                 "Give Label Studio's brush RLE as the text of a JSON list.");

static PyObject *
native_brush_rle_json(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *result = NULL;
    Py_buffer counts = {0};
    Py_ssize_t height, width;
    uint8_t *rle = NULL;

    if (parse_encoding(args, &counts, &height, &width) < 0 || check_brush(height, width) < 0) {
        goto exit;
    }
    size_t size = (size_t)counts.shape[0];
    size_t rle_size = brush_rle_size(counts.buf, size);
    rle = PyMem_Malloc(rle_size);
    if (rle == NULL) {
        PyErr_NoMemory();
        goto exit;
    }
    result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(4 * rle_size + 4));
    if (result == NULL) {
        goto exit;
    }
    char *json = PyBytes_AS_STRING(result);
    PyThreadState *state = release_gil(counts.len);
    brush_rle(counts.buf, size, (uint32_t)(height * width), rle);
    size_t json_size = json_from_bytes(rle, rle_size, json);
    acquire_gil(state);
    _PyBytes_Resize(&result, (Py_ssize_t)json_size);

exit:
    PyMem_Free(rle);
    PyBuffer_Release(&counts);
    return result;
}

PyDoc_STRVAR(coco_counts_doc, "coco_counts(counts, height, width, /)\n--\n\n"
                              "Give COCO's compressed counts as bytes.");

static PyObject *
native_coco_counts(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *result = NULL;
    Py_buffer counts = {0};
    Py_ssize_t height, width;
    Counts transposed = {0};

    if (parse_encoding(args, &counts, &height, &width) < 0) {
        goto exit;
    }
    PyThreadState *state = release_gil(counts.len);
    int status = transpose_counts(counts.buf, (size_t)counts.shape[0], (size_t)height,
                                  (size_t)width, &transposed);
    acquire_gil(state);
    if (status < 0 || transposed.size > (size_t)PY_SSIZE_T_MAX / COCO_LONGEST) {
        PyErr_NoMemory();
        goto exit;
    }
    result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(COCO_LONGEST * transposed.size));
    if (result == NULL) {
        goto exit;
    }
    char *text = PyBytes_AS_STRING(result);
    state = release_gil(counts.len);
    size_t text_size = coco_text(transposed.items, transposed.size, text);
    acquire_gil(state);
    _PyBytes_Resize(&result, (Py_ssize_t)text_size);

exit:
    free(transposed.items);
    PyBuffer_Release(&counts);
    return result;
}

PyDoc_STRVAR(packed_bits_doc, "packed_bits(counts, height, width, /)\n--\n\n"
                              "Give the mask's bits, most significant first, as bytes.");

static PyObject *
native_packed_bits(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *result = NULL;
    Py_buffer counts = {0};
    Py_ssize_t height, width;

    if (parse_encoding(args, &counts, &height, &width) < 0) {
        goto exit;
    }
    Py_ssize_t bytes = (height * width + 7) / 8;
    result = PyBytes_FromStringAndSize(NULL, bytes);
    if (result == NULL) {
        goto exit;
    }
    uint8_t *bits = (uint8_t *)PyBytes_AS_STRING(result);
    PyThreadState *state = release_gil(bytes);
    memset(bits, 0, (size_t)bytes);
    packed_bits(counts.buf, (size_t)counts.shape[0], bits);
    acquire_gil(state);

exit:
    PyBuffer_Release(&counts);
    return result;
}

PyDoc_STRVAR(remove_small_regions_doc,
             "remove_small_regions(counts, height, width, max_speck_pixels, max_hole_pixels, /)\n"
             "--\n\n"
             "Give the run lengths without small regions as bytes of uint32.");

static PyObject *
native_remove_small_regions(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *counts_object, *result = NULL;
    Py_buffer counts = {0};
    Py_ssize_t height, width, max_speck_pixels, max_hole_pixels;
    Counts cleaned = {0};

    if (!PyArg_ParseTuple(args, "Onnnn:remove_small_regions", &counts_object, &height, &width,
                          &max_speck_pixels, &max_hole_pixels) ||
        get_counts(counts_object, height, width, &counts) < 0) {
        goto exit;
    }
    if (max_speck_pixels < 0 || max_speck_pixels >= UINT32_MAX || max_hole_pixels < 0 ||
        max_hole_pixels >= UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "max_speck_pixels, max_hole_pixels: out of range");
        goto exit;
    }
    PyThreadState *state = release_gil(counts.len);
    int status =
        remove_small_regions(counts.buf, (size_t)counts.shape[0], (size_t)height, (size_t)width,
                             (uint32_t)max_speck_pixels, (uint32_t)max_hole_pixels, &cleaned);
    acquire_gil(state);
    if (status < 0) {
        PyErr_NoMemory();
        goto exit;
    }
    result = bytes_from_counts(&cleaned);

exit:
    free(cleaned.items);
    PyBuffer_Release(&counts);
    return result;
}

PyDoc_STRVAR(polygons_doc, "polygons(counts, height, width, /)\n--\n\n"
                           "Give (points, rings, areas) as bytes of uint32.");

static PyObject *
native_polygons(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *result = NULL;
    Py_buffer counts = {0};
    Py_ssize_t height, width;
    Counts points = {0}, rings = {0}, areas = {0};

    if (parse_encoding(args, &counts, &height, &width) < 0) {
        goto exit;
    }
    PyThreadState *state = release_gil(counts.len);
    int status = polygons(counts.buf, (size_t)counts.shape[0], (size_t)height, (size_t)width,
                          &points, &rings, &areas);
    acquire_gil(state);
    if (status < 0) {
        PyErr_NoMemory();
        goto exit;
    }
    result = Py_BuildValue("NNN", bytes_from_counts(&points), bytes_from_counts(&rings),
                           bytes_from_counts(&areas));

exit:
    free(points.items);
    free(rings.items);
    free(areas.items);
    PyBuffer_Release(&counts);
    return result;
}

/* ---- module -------------------------------------------------------------------------------- */

static PyMethodDef methods[] = {
    {"normalize_and_pad_into", native_normalize_and_pad_into, METH_VARARGS,
     normalize_and_pad_into_doc},
    {"mask_from_logits", native_mask_from_logits, METH_VARARGS, mask_from_logits_doc},
    {"counts_from_mask", native_counts_from_mask, METH_O, counts_from_mask_doc},
    {"mask_from_counts_into", native_mask_from_counts_into, METH_VARARGS,
     mask_from_counts_into_doc},
    {"brush_rle", native_brush_rle, METH_VARARGS, brush_rle_doc},
    {"brush_rle_json", native_brush_rle_json, METH_VARARGS, brush_rle_json_doc},
    {"coco_counts", native_coco_counts, METH_VARARGS, coco_counts_doc},
    {"packed_bits", native_packed_bits, METH_VARARGS, packed_bits_doc},
    {"remove_small_regions", native_remove_small_regions, METH_VARARGS, remove_small_regions_doc},
    {"polygons", native_polygons, METH_VARARGS, polygons_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
#if PY_VERSION_HEX >= 0x030c0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030d0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef module = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "sam_core._native",
    .m_doc = "The kernels of sam_core in C; sam_core._numpy defines what they compute.",
    .m_size = 0,
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__native(void)
{
    return PyModuleDef_Init(&module);
}
