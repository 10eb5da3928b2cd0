/* What the tests of src/text share: stored files and lists in them. */
#ifndef TESTS_TEXT_HELP_H
#define TESTS_TEXT_HELP_H

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
#include "base/mem.h"
#include "text/tokenizer.h"

/* Seconds that hostile input may take; checked builds are several times slower. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { LONGEST = 60 };
#else
enum { LONGEST = 5 };
#endif

#define DATA "tests/text/data/"

typedef struct stored {
    char *text;
    mr_json *doc;
    mr_jval root;
} stored;

static inline stored load(const char *path)
{
    stored s = {0};
    size_t len;
    if (mr_file_read_all(path, 1 << 26, MR_MEM_OTHER, &s.text, &len) ||
        mr_json_parse(&s.doc, path, s.text, len))
        fail_msg("%s", mr_error());
    s.root = mr_json_root(s.doc);
    return s;
}

static inline void unload(stored *s)
{
    mr_json_free(s->doc);
    mr_free(s->text);
    memset(s, 0, sizeof *s);
}

/* A string of the document, copied into *b. */
static inline void copy_string(mr_jval v, mr_buf *b)
{
    mr_buf scratch = {0};
    mr_str s;
    assert_int_equal(mr_jstr(v, &scratch, &s), MR_OK);
    mr_buf_clear(b);
    mr_buf_add(b, s.data, s.len);
    mr_buf_free(&scratch);
}

static inline void read_ids(mr_jval list, mr_ids *ids)
{
    ids->n = 0;
    for (mr_jval c = mr_jfirst(list); c.doc; c = mr_jnext(c)) {
        int64_t id;
        assert_int_equal(mr_jint(c, -1, 1 << 24, &id), MR_OK);
        assert_int_equal(mr_ids_push(ids, (int32_t)id), MR_OK);
    }
}

static inline void check_ids(const char *what, mr_str line, const mr_ids *want, const mr_ids *got)
{
    size_t i = 0;
    while (i < want->n && i < got->n && want->id[i] == got->id[i])
        i++;
    if (want->n != got->n || i < want->n)
        fail_msg("%s: \"%.*s\": %zu ids, not %zu; at %zu: %d, not %d", what, (int)line.len,
                 line.data, got->n, want->n, i, i < got->n ? got->id[i] : -1,
                 i < want->n ? want->id[i] : -1);
}

static inline size_t memory_held(void)
{
    size_t n = 0;
    for (int a = 0; a < MR_MEM_COUNT; a++)
        n += mr_mem_held((mr_mem)a);
    return n;
}

/* A build without PCRE2 and utf8proc opens no tokenizer and says why. */
static inline int without_text(void)
{
    mr_tokenizer *t;
    mr_err err = mr_tokenizer_open(&t, "models/gemma3-stories");
    if (err != MR_EUNSUPPORTED || !strstr(mr_error(), "built without PCRE2 and utf8proc")) {
        fprintf(stderr, "error %d: %s\n", (int)err, err ? mr_error() : "");
        return 1;
    }
    printf("skipped: built without PCRE2 and utf8proc\n");
    return 0;
}

#ifdef MR_NO_TEXT
#define RUN_TESTS(tests) ((void)(tests), without_text())
#else
#define RUN_TESTS(tests) cmocka_run_group_tests(tests, NULL, NULL)
#endif

#endif
