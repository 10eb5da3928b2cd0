/* A strict JSON reader.
 *
 * Why:     config.json and tokenizer.json can be wrong, hostile or 33 MB large; C libraries take
 *          0.5 s and 170 MB on one such file. A document is a flat array of 16-byte nodes over the
 *          caller's text: two allocations, no pointers, nothing decoded before it is asked for.
 * Use:     mr_json *doc;
 *          MR_TRY(mr_json_parse(&doc, "config.json", text, len));
 *          mr_jval v = mr_jget(mr_json_root(doc), "hidden_size");
 *          MR_TRY(mr_jint(v, 1, 1 << 24, &n)); error: config.json: "hidden_size": ...
 * Owns:    the document borrows `text` (which must outlive it) and copies the file name.
 * Threads: a parsed document is immutable.
 * Fails:   MR_EFORMAT with file, line and what is wrong: duplicate keys, trailing text, invalid
 *          UTF-8, unpaired surrogates, bare NaN or Infinity, control characters in strings, depth
 *          over 128, text of 4 GiB or more.
 * Rules:   1. An absent value is mr_jval{0}: every accessor accepts it (mr_jtype gives MR_JABSENT).
 *          2. Accessors never convert: a number given as a string is an error that names the key
 *             path.
 */
#ifndef MR_BASE_JSON_H
#define MR_BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"

typedef struct mr_json mr_json;

typedef struct mr_jval {
    const mr_json *doc; /* NULL: absent */
    uint32_t node;
} mr_jval;

typedef enum mr_jtype_t {
    MR_JABSENT,
    MR_JNULL,
    MR_JFALSE,
    MR_JTRUE,
    MR_JNUMBER,
    MR_JSTRING,
    MR_JARRAY,
    MR_JOBJECT
} mr_jtype_t;

mr_err mr_json_parse(mr_json **out, const char *file, const char *text, size_t len);
void mr_json_free(mr_json *doc);
const char *mr_json_file(const mr_json *doc);
mr_jval mr_json_root(const mr_json *doc);

mr_jtype_t mr_jtype(mr_jval v);
bool mr_jhas(mr_jval v);       /* present and not null */
uint32_t mr_jcount(mr_jval v); /* members or elements; 0 for others */

/* Object member by key (linear in the members; children are skipped in one step); absent if none.
 */
mr_jval mr_jget(mr_jval object, const char *key);

/* Children in order: for (mr_jval c = mr_jfirst(v); c.doc; c = mr_jnext(c)).  For objects the
 * values; mr_jkey gives a child's key. */
mr_jval mr_jfirst(mr_jval v);
mr_jval mr_jnext(mr_jval child);
/* The key of an object's member, decoded into `scratch` only if it holds escapes. */
mr_err mr_jkey(mr_jval member, mr_buf *scratch, mr_str *out);

/* The source text of a value, for numbers and messages. */
mr_str mr_jraw(mr_jval v);

/* Decoded string; borrowed from the text if it has no escapes, else from `scratch` (cleared first).
 */
mr_err mr_jstr(mr_jval v, mr_buf *scratch, mr_str *out);
/* The value is a string equal to z. */
bool mr_jis(mr_jval v, const char *z);
mr_err mr_jint(mr_jval v, int64_t min, int64_t max,
               int64_t *out);           /* 1.0 and 1e3 are not integers */
mr_err mr_jnum(mr_jval v, double *out); /* finite */
mr_err mr_jbool(mr_jval v, bool *out);

/* "rope_scaling.factor", "layer_types[3]"; into a per-thread buffer. */
const char *mr_jpath(mr_jval v);
/* MR_EFORMAT "FILE: "PATH": ..." */
mr_err mr_jfail(mr_jval v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
