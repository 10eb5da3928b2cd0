/* What the tests of the run layer share: engines on small models, logits of ids, stored arrays.
 *
 * Fails:  a model that cannot be opened or a file that cannot be read ends the test with its
 *         message. */
#ifndef MR_TESTS_RUN_TEST_H
#define MR_TESTS_RUN_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "millrace.h"

#define assert_ok(expr)                                                                            \
    do {                                                                                           \
        mr_status assert_ok_ = (mr_status)(expr);                                                  \
        if (assert_ok_)                                                                            \
            fail_msg("%s: %s", #expr, mr_error_text());                                            \
    } while (0)

/* The call must fail with this code, and its message must hold this text. */
#define assert_refused(expr, code, text)                                                           \
    do {                                                                                           \
        mr_status refused_ = (mr_status)(expr);                                                    \
        if (refused_ != (code) || !strstr(mr_error_text(), text))                                  \
            fail_msg("%s: %d \"%s\", expected %d \"%s\"", #expr, refused_, mr_error_text(),        \
                     (int)(code), text);                                                           \
    } while (0)

static inline mr_engine *open_engine(const char *dir, const mr_engine_opts *o)
{
    mr_engine *e;
    assert_ok(mr_engine_open(&e, dir, o));
    return e;
}

static inline mr_session *new_session(mr_engine *e)
{
    mr_session *s;
    assert_ok(mr_session_new(&s, e));
    return s;
}

/* A JSON document with its text. */
typedef struct test_doc {
    char *text;
    mr_json *json;
    mr_jval root;
} test_doc;

static inline test_doc read_doc(const char *path)
{
    test_doc d = {0};
    size_t len;
    assert_ok(mr_file_read_all(path, 1 << 26, MR_MEM_OTHER, &d.text, &len));
    assert_ok(mr_json_parse(&d.json, path, d.text, len));
    d.root = mr_json_root(d.json);
    return d;
}

static inline void free_doc(test_doc *d)
{
    mr_json_free(d->json);
    mr_free(d->text);
}

static inline int32_t *read_ids(mr_jval array, int64_t *n)
{
    int32_t *ids = calloc(mr_jcount(array) + 1u, sizeof *ids);
    *n = 0;
    for (mr_jval c = mr_jfirst(array); c.doc; c = mr_jnext(c)) {
        int64_t v;
        assert_ok(mr_jint(c, 0, INT32_MAX, &v));
        ids[(*n)++] = (int32_t)v;
    }
    assert_true(*n > 0);
    return ids;
}

static inline double read_num(mr_jval object, const char *key)
{
    double v;
    assert_ok(mr_jnum(mr_jget(object, key), &v));
    return v;
}

/* The numbers of a float32 .npy file, version 1. */
static inline float *read_npy(const char *path, int64_t *n)
{
    char *data;
    size_t len;
    assert_ok(mr_file_read_all(path, 1 << 26, MR_MEM_OTHER, &data, &len));
    assert_true(len > 10 && memcmp(data, "\x93NUMPY\x01", 7) == 0 && strstr(data + 10, "'<f4'"));
    size_t head = 10 + (size_t)(uint8_t)data[8] + 256 * (size_t)(uint8_t)data[9];
    float *out = malloc(len - head + 4);
    memcpy(out, data + head, len - head);
    *n = (int64_t)((len - head) / 4);
    mr_free(data);
    return out;
}

/* Ids that are nothing in particular, within the vocabulary. */
static inline void some_ids(int32_t *ids, int64_t n, int64_t vocab)
{
    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)((i * i * 31 + i * 7 + 5) % vocab);
}

#endif
