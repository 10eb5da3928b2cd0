/* Opening GGUF models, whole or split into files.
 *
 * STEM-00001-of-000NN.gguf ... each have a tensor table of their own; the metadata stands in the
 * first, and every one says by split.no (from 0) and split.count which part of how many it is.  Any
 * part may be given: its name leads to the others.
 */
#include "weights/parse.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool mr_gguf_part_of(const char *name, mr_gguf_part *out)
{
    static const char form[] = "-00001-of-00001.gguf";
    size_t len = strlen(name), tail = sizeof form - 1;
    if (len < tail)
        return false;
    const char *p = name + len - tail;
    for (size_t i = 0; i < tail; i++)
        if (form[i] == '0' || form[i] == '1' ? p[i] < '0' || p[i] > '9' : p[i] != form[i])
            return false;
    *out = (mr_gguf_part){len - tail, atoi(p + 1), atoi(p + 10)};
    return out->number >= 1 && out->number <= out->count;
}

mr_err mr_gguf_part_path(const char *path, const mr_gguf_part *p, int number, mr_buf *out)
{
    mr_buf_clear(out);
    mr_buf_printf(out, "%.*s-%05d-of-%05d.gguf", (int)p->stem, path, number, p->count);
    return mr_buf_check(out);
}

/* split.KEY, or -1 if it is absent. */
static mr_err split_key(const mr_gguf *g, const char *key, int64_t *out)
{
    *out = -1;
    return mr_gguf_kind(g, key) == MR_GGUF_ABSENT ? MR_OK : mr_gguf_int(g, key, out);
}

static mr_err check_part(const mr_gguf *g, const mr_gguf_part *p, int number)
{
    int64_t count, no;
    MR_TRY(split_key(g, "split.count", &count));
    MR_TRY(split_key(g, "split.no", &no));
    if (count != p->count || no != number - 1)
        return mr_fail(MR_EFORMAT,
                       "%s: split.no %" PRId64 " of split.count %" PRId64
                       " in what is named part %d of %d",
                       g->path, no, count, number, p->count);
    return MR_OK;
}

/* A file that stands alone must not be part of a split. */
static mr_err check_whole(const mr_gguf *g)
{
    int64_t count;
    MR_TRY(split_key(g, "split.count", &count));
    if (count > 1)
        return mr_fail(MR_EFORMAT,
                       "%s: is one of %" PRId64
                       " files of a split model, but is not named NAME-00001-of-%05" PRId64 ".gguf",
                       g->path, count, count);
    return MR_OK;
}

/* One file's tensors into the table; its metadata is kept if it is the first. */
static mr_err add_file(mr_weights *w, const char *path, const mr_gguf_part *p, int number)
{
    int index;
    mr_gguf *g;
    MR_TRY(mr_weights_add_file(w, path, &index));
    MR_TRY(mr_gguf_load(&g, &w->files[index], index, &w->table));
    mr_err e = p ? check_part(g, p, number) : check_whole(g);
    if (!w->gguf)
        w->gguf = g;
    else
        mr_gguf_close(g);
    return e;
}

static mr_err add_parts(mr_weights *w, const char *path, const mr_gguf_part *p)
{
    mr_buf name = {0};
    mr_err e = MR_OK;
    for (int i = 1; i <= p->count && e == MR_OK; i++) {
        e = mr_gguf_part_path(path, p, i, &name);
        if (e == MR_OK && mr_file_exists(name.data) != 1)
            e = mr_fail(MR_EFORMAT, "%s: part %d of %d is missing", name.data, i, p->count);
        if (e == MR_OK)
            e = add_file(w, name.data, p, i);
    }
    mr_buf_free(&name);
    MR_TRY(e);
    int64_t total;
    MR_TRY(split_key(w->gguf, "split.tensors.count", &total));
    if (total >= 0 && (uint64_t)total != w->table.n)
        return mr_fail(MR_EFORMAT,
                       "%s: split.tensors.count %" PRId64 ", but the %d files hold %zu tensors",
                       w->gguf->path, total, p->count, w->table.n);
    return MR_OK;
}

mr_err mr_gguf_add(mr_weights *w, const char *path)
{
    mr_gguf_part part;
    if (mr_gguf_part_of(path, &part) && part.count > 1)
        MR_TRY(add_parts(w, path, &part));
    else
        MR_TRY(add_file(w, path, NULL, 0));
    MR_TRY(mr_weights_sort(w));
    return mr_gguf_join(w);
}

static mr_err open_metadata(mr_gguf **out, const char *path)
{
    mr_file f;
    MR_TRY(mr_file_open(&f, path));
    mr_err e = mr_gguf_load(out, &f, 0, NULL);
    mr_file_close(&f);
    return e;
}

mr_err mr_gguf_open(mr_gguf **out, const char *path)
{
    mr_gguf_part part;
    mr_buf first = {0};
    *out = NULL;
    if (!mr_gguf_part_of(path, &part))
        return open_metadata(out, path);
    mr_err e = mr_gguf_part_path(path, &part, 1, &first);
    if (e == MR_OK)
        e = open_metadata(out, first.data);
    mr_buf_free(&first);
    return e;
}
