/* .npy files: the header of what is written, and reading float32 tables.
 *
 * The reader takes what NumPy itself writes for a C-ordered little-endian float32 array: versions 1
 * to 3, a header that is a Python dict of exactly descr, fortran_order and shape.  Anything else is
 * refused by name; nothing is converted. */
#include <stdio.h>
#include <string.h>

#include "app.h"

enum { MAGIC = 6, DIMS = 4 };
static const char magic[MAGIC + 1] = "\x93NUMPY";

mr_status app_npy_head(mr_out *o, int64_t rows, int64_t cols)
{
    char head[128], shape[64];
    if (rows)
        snprintf(shape, sizeof shape, "%lld, %lld", (long long)rows, (long long)cols);
    else
        snprintf(shape, sizeof shape, "%lld,", (long long)cols);
    memcpy(head, magic, MAGIC);
    head[6] = 1;
    head[7] = 0;
    int n = snprintf(head + 10, sizeof head - 10,
                     "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }", shape);
    memset(head + 10 + n, ' ', sizeof head - 10 - (size_t)n);
    head[8] = (char)(sizeof head - 10);
    head[9] = 0;
    head[sizeof head - 1] = '\n';
    return (mr_status)mr_out_write(o, head, sizeof head);
}

/* ---- reading ---- */

/* The dict of a header, as far as it is read. */
typedef struct header {
    const char *file;
    const char *at, *end;
    bool descr, order, shape; /* seen */
    int64_t dim[DIMS];
    int rank;
} header;

static mr_status bad(const header *h, const char *why)
{
    return (mr_status)mr_fail(MR_EFORMAT, "%s: %s", h->file, why);
}

static void blanks(header *h)
{
    while (h->at < h->end && (*h->at == ' ' || *h->at == '\n'))
        h->at++;
}

/* The next character but blanks, if it is c. */
static bool take(header *h, char c)
{
    blanks(h);
    if (h->at == h->end || *h->at != c)
        return false;
    h->at++;
    return true;
}

static bool take_word(header *h, const char *word)
{
    size_t n = strlen(word);
    blanks(h);
    if ((size_t)(h->end - h->at) < n || memcmp(h->at, word, n) != 0)
        return false;
    h->at += n;
    return true;
}

/* A string in either quotes; empty if there is none. */
static mr_str string(header *h)
{
    char quote = take(h, '\'') ? '\'' : '"';
    if (quote == '"' && !take(h, '"'))
        return (mr_str){"", 0};
    const char *from = h->at;
    while (h->at < h->end && *h->at != quote && *h->at != '\\')
        h->at++;
    mr_str s = {from, (size_t)(h->at - from)};
    return take(h, quote) ? s : (mr_str){"", 0};
}

static bool number(header *h, int64_t *out)
{
    blanks(h);
    const char *from = h->at;
    for (*out = 0; h->at < h->end && *h->at >= '0' && *h->at <= '9' && h->at - from < 15; h->at++)
        *out = 10 * *out + (*h->at - '0');
    return h->at > from;
}

static mr_status take_shape(header *h)
{
    if (!take(h, '('))
        return bad(h, "the shape is not a tuple");
    while (!take(h, ')')) {
        if (h->rank == DIMS || !number(h, &h->dim[h->rank++]))
            return bad(h, "the shape is not one of a table");
        if (!take(h, ',') && (blanks(h), h->at == h->end || *h->at != ')'))
            return bad(h, "the shape is not a tuple");
    }
    return MR_STATUS_OK;
}

static mr_status take_entry(header *h)
{
    mr_str key = string(h);
    if (!take(h, ':'))
        return bad(h, "the header is not a dict");
    if (mr_str_is(key, "shape") && !h->shape) {
        h->shape = true;
        return take_shape(h);
    }
    if (mr_str_is(key, "fortran_order") && !h->order) {
        h->order = true;
        return take_word(h, "False") ? MR_STATUS_OK : bad(h, "only C order is read");
    }
    if (mr_str_is(key, "descr") && !h->descr) {
        h->descr = true;
        mr_str type = string(h);
        if (mr_str_is(type, "<f4"))
            return MR_STATUS_OK;
        return (mr_status)mr_fail(MR_EFORMAT, "%s: elements are \"%.*s\", float32 (<f4) is needed",
                                  h->file, type.len > 40 ? 40 : (int)type.len, type.data);
    }
    return bad(h, "the header has other keys than descr, fortran_order and shape");
}

static mr_status take_dict(header *h)
{
    if (!take(h, '{'))
        return bad(h, "the header is not a dict");
    while (!take(h, '}')) {
        MR_TRY(take_entry(h));
        if (!take(h, ',') && (blanks(h), h->at == h->end || *h->at != '}'))
            return bad(h, "the header is not a dict");
    }
    blanks(h);
    if (h->at != h->end || !h->descr || !h->order || !h->shape)
        return bad(h, "the header is not that of an array");
    return MR_STATUS_OK;
}

static mr_status check_shape(const header *h, size_t bytes, int64_t rows, int64_t cols)
{
    if (h->rank != 2 || h->dim[0] != rows || h->dim[1] != cols) {
        char shape[96] = "";
        for (int i = 0; i < h->rank; i++)
            snprintf(shape + strlen(shape), sizeof shape - strlen(shape), "%s%lld", i ? ", " : "",
                     (long long)h->dim[i]);
        return (mr_status)mr_fail(MR_EFORMAT, "%s: shape (%s), (%lld, %lld) is needed", h->file,
                                  shape, (long long)rows, (long long)cols);
    }
    if (bytes != (size_t)(rows * cols) * sizeof(float))
        return (mr_status)mr_fail(MR_EFORMAT, "%s: %zu bytes of data, %zu are needed", h->file,
                                  bytes, (size_t)(rows * cols) * sizeof(float));
    return MR_STATUS_OK;
}

/* Where the data begins; *h is set to the dict. */
static mr_status find_data(header *h, const char *data, size_t len, size_t *from)
{
    const uint8_t *b = (const uint8_t *)data;
    if (len < MAGIC + 4 || memcmp(data, magic, MAGIC) != 0)
        return bad(h, "not a .npy file");
    if (b[6] < 1 || b[6] > 3 || b[7] != 0)
        return bad(h, "of a .npy version that is not known");
    size_t wide = b[6] == 1 ? 2 : 4, n = 0;
    if (len < MAGIC + 2 + wide)
        return bad(h, "the header is cut short");
    for (size_t i = wide; i-- > 0;)
        n = n << 8 | b[8 + i];
    *from = 8 + wide + n;
    if (n > len - 8 - wide)
        return bad(h, "the header is cut short");
    h->at = data + 8 + wide;
    h->end = h->at + n;
    return MR_STATUS_OK;
}

static mr_status parse(const char *file, char *data, size_t len, int64_t rows, int64_t cols)
{
    header h = {.file = file};
    size_t from = 0;
    MR_TRY(find_data(&h, data, len, &from));
    MR_TRY(take_dict(&h));
    MR_TRY(check_shape(&h, len - from, rows, cols));
    memmove(data, data + from, len - from); /* to the start, which is aligned */
    return MR_STATUS_OK;
}

mr_status app_npy_read(const char *file, int64_t rows, int64_t cols, float **out)
{
    char *data;
    size_t len;
    *out = NULL;
    MR_TRY(app_read_file(file, &data, &len));
    mr_status st = parse(file, data, len, rows, cols);
    if (st)
        mr_free(data);
    else
        *out = (float *)data;
    return st;
}
