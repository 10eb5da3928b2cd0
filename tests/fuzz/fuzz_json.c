/* Fuzz target: any bytes as JSON, then every accessor on every value.
 *
 * What must hold beside not crashing: an error has one line that begins with the file's name; the
 * children that the iterator visits are as many as counted; a decoded string is what mr_jis and
 * mr_jget say; and what was held before is held after.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "fuzz_json: line %d: %s\n", __LINE__, #condition);                     \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static void require_message(mr_err err)
{
    REQUIRE(err == MR_EFORMAT);
    REQUIRE(strncmp(mr_error(), "fuzz:", 5) == 0);
    REQUIRE(strchr(mr_error(), '\n') == NULL);
    REQUIRE(mr_utf8_check(mr_error(), strlen(mr_error())) == strlen(mr_error()));
}

static void read_string(mr_jval v, mr_buf *scratch)
{
    mr_str s;
    mr_err err = mr_jstr(v, scratch, &s);
    if (mr_jtype(v) != MR_JSTRING) {
        require_message(err);
        REQUIRE(!mr_jis(v, ""));
        return;
    }
    REQUIRE(err == MR_OK);
    REQUIRE(mr_utf8_check(s.data, s.len) == s.len);
    char *z = mr_alloc(MR_MEM_OTHER, s.len + 1);
    memcpy(z, s.data, s.len);
    z[s.len] = '\0';
    REQUIRE(mr_jis(v, z) == (strlen(z) == s.len));
    mr_free(z);
}

static void read_scalars(mr_jval v, mr_buf *scratch)
{
    int64_t n;
    double x;
    bool b;
    read_string(v, scratch);
    mr_err as_int = mr_jint(v, -1000, INT64_MAX, &n), as_num, as_bool;
    if (as_int != MR_OK)
        require_message(as_int);
    as_num = mr_jnum(v, &x);
    if (as_num != MR_OK)
        require_message(as_num);
    as_bool = mr_jbool(v, &b);
    if (as_bool != MR_OK)
        require_message(as_bool);
    REQUIRE(as_int != MR_OK || (as_num == MR_OK && n >= -1000 && x == (double)n));
    REQUIRE((as_bool == MR_OK) == (mr_jtype(v) == MR_JTRUE || mr_jtype(v) == MR_JFALSE));
    mr_str raw = mr_jraw(v);
    REQUIRE(raw.len > 0);
}

static void read_key(mr_jval object, mr_jval member, mr_buf *scratch)
{
    mr_str key;
    REQUIRE(mr_jkey(member, scratch, &key) == MR_OK);
    char *z = mr_alloc(MR_MEM_OTHER, key.len + 1);
    memcpy(z, key.data, key.len);
    z[key.len] = '\0';
    mr_jval found = mr_jget(object, z);
    if (strlen(z) == key.len)
        REQUIRE(found.doc == member.doc && found.node == member.node);
    mr_free(z);
}

/* The first values of each container fully (paths and look-ups are linear), all of them counted.
 * Recursion is bounded: the parser refuses depths over 128. */
static void walk(mr_jval v, mr_buf *scratch)
{
    enum { FULL = 40 };
    uint32_t visited = 0;
    read_scalars(v, scratch);
    for (mr_jval c = mr_jfirst(v); c.doc; c = mr_jnext(c)) {
        if (visited++ >= FULL)
            continue;
        if (mr_jtype(v) == MR_JOBJECT)
            read_key(v, c, scratch);
        else
            require_message(mr_jkey(c, scratch, &(mr_str){0}));
        REQUIRE(mr_jpath(c)[0] != '\0' || mr_jtype(v) == MR_JOBJECT);
        walk(c, scratch);
    }
    REQUIRE(visited == mr_jcount(v));
    require_message(mr_jfail(mr_jget(v, "no such key"), "is %d", 1));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t held = mr_mem_held(MR_MEM_COUNT);
    char *text = mr_alloc(MR_MEM_OTHER, size); /* its end is guarded by the sanitizer */
    if (size)
        memcpy(text, data, size);
    mr_json *doc;
    mr_err err = mr_json_parse(&doc, "fuzz", text, size);
    if (err == MR_OK) {
        mr_buf scratch = {0};
        walk(mr_json_root(doc), &scratch);
        mr_buf_free(&scratch);
        mr_json_free(doc);
    } else {
        require_message(err);
    }
    mr_free(text);
    REQUIRE(mr_mem_held(MR_MEM_COUNT) == held);
    return 0;
}
