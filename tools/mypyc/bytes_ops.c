/* mypyc's own file of this name, which setup.py has found behind this one, but for one function:
 * a slice of bytes that ends before it starts is empty in Python, and a SystemError in mypyc's. */
#include <Python.h>
#include "CPy.h"

#define CPyBytes_GetSlice slice_that_ends_behind_its_start
#include_next "bytes_ops.c"
#undef CPyBytes_GetSlice

static Py_ssize_t clamped(CPyTagged index, Py_ssize_t length) {
    Py_ssize_t place = CPyTagged_ShortAsSsize_t(index);
    if (place < 0) {
        place += length;
    }
    return place < 0 ? 0 : place > length ? length : place;
}

PyObject *CPyBytes_GetSlice(PyObject *bytes, CPyTagged start, CPyTagged end) {
    if (CPyTagged_CheckShort(start) && CPyTagged_CheckShort(end)) {
        Py_ssize_t length = Py_SIZE(bytes);
        if (clamped(end, length) < clamped(start, length)) {
            end = start;
        }
    }
    return slice_that_ends_behind_its_start(bytes, start, end);
}
