/* Reading values out of a parsed JSON document, and naming them in errors.
 *
 * A value is a document and a node number; its path is found by descending from the root, which is
 * slow in wide containers and only done for messages.
 *
 * An absent value has no node, yet "config.json: "hidden_size" is missing" needs file and key.  So
 * each thread remembers the last few lookups that failed, and an absent value carries the number of
 * its lookup where others carry their node.  A zeroed value has number 0, which is never given.
 */
#include "base/json.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json_doc.h"
#include "base/mem.h"

enum { MISSES = 16, KEY_SHOWN = 80, PATH_BYTES = 256 };

typedef struct miss {
    const mr_json *doc;
    uint32_t number, object;
    char key[KEY_SHOWN];
} miss;

static _Thread_local miss misses[MISSES];
static _Thread_local uint32_t miss_number;

static const mr_json_node *node_of(mr_jval v)
{
    assert(v.node < v.doc->count);
    return &v.doc->nodes[v.node];
}

static const miss *miss_of(mr_jval v)
{
    const miss *m = &misses[v.node % MISSES];
    return !v.doc && v.node && m->number == v.node && m->doc ? m : NULL;
}

void mr_json_free(mr_json *doc)
{
    if (!doc)
        return;
    for (int i = 0; i < MISSES; i++)
        if (misses[i].doc == doc)
            misses[i].doc = NULL;
    mr_free(doc->nodes);
    mr_free(doc);
}

const char *mr_json_file(const mr_json *doc)
{
    return doc->file;
}

mr_jval mr_json_root(const mr_json *doc)
{
    return (mr_jval){.doc = doc, .node = 0};
}

/* ---- structure ------------------------------------------------------------------------------- */

mr_jtype_t mr_jtype(mr_jval v)
{
    if (!v.doc)
        return MR_JABSENT;
    switch (v.doc->text[node_of(v)->start]) {
    case '{':
        return MR_JOBJECT;
    case '[':
        return MR_JARRAY;
    case '"':
        return MR_JSTRING;
    case 'n':
        return MR_JNULL;
    case 't':
        return MR_JTRUE;
    case 'f':
        return MR_JFALSE;
    default:
        return MR_JNUMBER;
    }
}

static bool is_container(mr_jval v)
{
    mr_jtype_t type = mr_jtype(v);
    return type == MR_JOBJECT || type == MR_JARRAY;
}

bool mr_jhas(mr_jval v)
{
    return mr_jtype(v) > MR_JNULL;
}

uint32_t mr_jcount(mr_jval v)
{
    return is_container(v) ? node_of(v)->end_or_count : 0;
}

static mr_jval note_miss(mr_jval object, const char *key)
{
    if (++miss_number == 0)
        miss_number = 1;
    miss *m = &misses[miss_number % MISSES];
    *m = (miss){.doc = object.doc, .number = miss_number, .object = object.node};
    snprintf(m->key, sizeof m->key, "%s", key);
    return (mr_jval){.doc = NULL, .node = miss_number};
}

mr_jval mr_jget(mr_jval object, const char *key)
{
    if (!object.doc)
        return object; /* what is missing is the object */
    size_t len = strlen(key);
    if (mr_jtype(object) == MR_JOBJECT)
        for (mr_jval c = mr_jfirst(object); c.doc; c = mr_jnext(c))
            if (mr_json_string_is(c.doc->text, node_of(c)->key, key, len))
                return c;
    return note_miss(object, key);
}

mr_jval mr_jfirst(mr_jval v)
{
    if (mr_jcount(v) == 0)
        return (mr_jval){0};
    return (mr_jval){.doc = v.doc, .node = v.node + 1};
}

mr_jval mr_jnext(mr_jval child)
{
    if (!child.doc || node_of(child)->last)
        return (mr_jval){0};
    return (mr_jval){.doc = child.doc, .node = node_of(child)->after};
}

/* Offset past the end.  A container's is not stored: its brackets are counted again. */
static size_t value_end(mr_jval v)
{
    const mr_json_node *n = node_of(v);
    if (!is_container(v))
        return n->end_or_count;
    const char *text = v.doc->text;
    uint32_t at = n->start;
    int depth = 0;
    do {
        char c = text[at];
        depth += (c == '{' || c == '[') - (c == '}' || c == ']');
        at = c == '"' ? mr_json_string_end(text, at) : at + 1;
    } while (depth > 0);
    return at;
}

mr_str mr_jraw(mr_jval v)
{
    if (!v.doc)
        return (mr_str){0};
    size_t start = node_of(v)->start;
    return (mr_str){.data = v.doc->text + start, .len = value_end(v) - start};
}

/* ---- paths and messages ---------------------------------------------------------------------- */

typedef struct path {
    char text[PATH_BYTES];
    size_t len;
    bool full;
} path;

/* Adds a step whole, or "..." once and nothing more. */
static void add_step(path *p, const char *dot, const char *text, size_t len)
{
    size_t room = sizeof p->text - 4 - p->len; /* "..." and NUL */
    if (p->full)
        return;
    if (len > room || strlen(dot) + len > room) {
        memcpy(p->text + p->len, "...", 4);
        p->full = true;
        return;
    }
    if (p->len > 0) {
        memcpy(p->text + p->len, dot, strlen(dot));
        p->len += strlen(dot);
    }
    memcpy(p->text + p->len, text, len);
    p->len += len;
    p->text[p->len] = '\0';
}

static void add_node_path(path *p, const mr_json *doc, uint32_t target)
{
    const mr_json_node *nodes = doc->nodes;
    for (uint32_t at = 0; at != target;) {
        uint32_t child = at + 1, index = 0;
        for (; nodes[child].after <= target; child = nodes[child].after)
            index++;
        uint32_t key = nodes[child].key;
        if (key) {
            add_step(p, ".", doc->text + key + 1, mr_json_string_end(doc->text, key) - key - 2);
        } else {
            char step[16];
            int n = snprintf(step, sizeof step, "[%" PRIu32 "]", index);
            add_step(p, "", step, (size_t)n);
        }
        at = child;
    }
}

const char *mr_jpath(mr_jval v)
{
    static _Thread_local path p;
    p.len = 0;
    p.full = false;
    p.text[0] = '\0';
    const miss *m = miss_of(v);
    if (v.doc)
        add_node_path(&p, v.doc, v.node);
    if (m) {
        add_node_path(&p, m->doc, m->object);
        add_step(&p, ".", m->key, strlen(m->key));
    }
    return p.text;
}

static mr_err fail_at(mr_jval v, const char *join, const char *what)
{
    const miss *m = miss_of(v);
    const mr_json *doc = v.doc ? v.doc : m ? m->doc : NULL;
    const char *where = mr_jpath(v);
    if (!doc)
        return mr_fail(MR_EFORMAT, "a JSON value%s%s", join, what);
    if (!*where)
        return mr_fail(MR_EFORMAT, "%s: %s", doc->file, what);
    return mr_fail(MR_EFORMAT, "%s: \"%s\"%s%s", doc->file, where, join, what);
}

mr_err mr_jfail(mr_jval v, const char *fmt, ...)
{
    char what[MR_ERR_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    return fail_at(v, ": ", what);
}

/* The source text, cut between characters where it is long. */
typedef struct shown {
    char text[48];
} shown;

static shown show(mr_jval v)
{
    mr_str raw = mr_jraw(v);
    shown s;
    size_t room = sizeof s.text - 4, n = raw.len;
    if (n > room)
        for (n = room; n > 0 && ((unsigned char)raw.data[n] & 0xc0) == 0x80;)
            n--;
    snprintf(s.text, sizeof s.text, "%.*s%s", (int)n, raw.data, n < raw.len ? "..." : "");
    return s;
}

static mr_err wrong_type(mr_jval v, const char *wanted)
{
    switch (mr_jtype(v)) {
    case MR_JABSENT:
        return fail_at(v, " ", "is missing");
    case MR_JOBJECT:
        return mr_jfail(v, "%s is needed, not an object", wanted);
    case MR_JARRAY:
        return mr_jfail(v, "%s is needed, not an array", wanted);
    case MR_JSTRING:
        return mr_jfail(v, "%s is needed, not a string (%s)", wanted, show(v).text);
    case MR_JNUMBER:
        return mr_jfail(v, "%s is needed, not a number (%s)", wanted, show(v).text);
    default:
        return mr_jfail(v, "%s is needed, not %s", wanted, show(v).text);
    }
}

/* ---- scalars --------------------------------------------------------------------------------- */

/* The string at `at`, which ends before `end`: from the text, or decoded if it holds escapes. */
static mr_err decode(const mr_json *doc, size_t at, size_t end, mr_buf *scratch, mr_str *out)
{
    const char *p = doc->text + at + 1;
    size_t len = end - at - 2;
    mr_buf_clear(scratch);
    *out = (mr_str){.data = p, .len = len};
    const char *escape = len ? memchr(p, '\\', len) : NULL;
    if (!escape)
        return MR_OK;
    mr_buf_add(scratch, p, (size_t)(escape - p));
    char c[4];
    for (int n; (n = mr_json_unescape(&escape, c)) != 0;)
        mr_buf_add(scratch, c, (size_t)n);
    *out = (mr_str){.data = scratch->data, .len = scratch->len};
    return mr_buf_check(scratch);
}

mr_err mr_jkey(mr_jval member, mr_buf *scratch, mr_str *out)
{
    *out = (mr_str){0};
    uint32_t key = member.doc ? node_of(member)->key : 0;
    if (!key)
        return fail_at(member, " ", "is not a member of an object");
    return decode(member.doc, key, mr_json_string_end(member.doc->text, key), scratch, out);
}

mr_err mr_jstr(mr_jval v, mr_buf *scratch, mr_str *out)
{
    *out = (mr_str){0};
    if (mr_jtype(v) != MR_JSTRING)
        return wrong_type(v, "a string");
    return decode(v.doc, node_of(v)->start, value_end(v), scratch, out);
}

bool mr_jis(mr_jval v, const char *z)
{
    return mr_jtype(v) == MR_JSTRING &&
           mr_json_string_is(v.doc->text, node_of(v)->start, z, strlen(z));
}

/* Digits are summed below zero, where the range is larger by one. */
mr_err mr_jint(mr_jval v, int64_t min, int64_t max, int64_t *out)
{
    *out = 0;
    if (mr_jtype(v) != MR_JNUMBER)
        return wrong_type(v, "a number");
    mr_str raw = mr_jraw(v);
    bool minus = raw.data[0] == '-', fits = true;
    int64_t n = 0;
    for (size_t i = minus; i < raw.len; i++) {
        int digit = raw.data[i] - '0';
        if (digit < 0 || digit > 9)
            return mr_jfail(v, "an integer is needed, not %s", show(v).text);
        fits = fits && !__builtin_mul_overflow(n, (int64_t)10, &n) &&
               !__builtin_sub_overflow(n, (int64_t)digit, &n);
    }
    if (!minus)
        fits = fits && !__builtin_sub_overflow((int64_t)0, n, &n);
    if (!fits || n < min || n > max)
        return mr_jfail(v, "%s is not in %" PRId64 "..%" PRId64, show(v).text, min, max);
    *out = n;
    return MR_OK;
}

/* The C library rounds correctly; it must see a NUL after the number and the C locale's point. */
mr_err mr_jnum(mr_jval v, double *out)
{
    *out = 0;
    if (mr_jtype(v) != MR_JNUMBER)
        return wrong_type(v, "a number");
    mr_str raw = mr_jraw(v);
    char small[64], *copy = raw.len < sizeof small ? small : mr_alloc(MR_MEM_OTHER, raw.len + 1);
    if (!copy)
        return MR_ENOMEM;
    memcpy(copy, raw.data, raw.len);
    copy[raw.len] = '\0';
    mr_err err = MR_OK;
    locale_t plain = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (plain) {
        double x = strtod_l(copy, NULL, plain);
        freelocale(plain);
        if (isfinite(x))
            *out = x;
        else
            err = mr_jfail(v, "%s is too large", show(v).text);
    } else {
        err = mr_fail(MR_ENOMEM, "out of memory: the C locale");
    }
    if (copy != small)
        mr_free(copy);
    return err;
}

mr_err mr_jbool(mr_jval v, bool *out)
{
    mr_jtype_t type = mr_jtype(v);
    *out = type == MR_JTRUE;
    if (type != MR_JTRUE && type != MR_JFALSE)
        return wrong_type(v, "true or false");
    return MR_OK;
}
