/* Sharded safetensors: model.safetensors.index.json says which tensor is in which file.
 *
 * The files are the truth about their tensors and the index is checked against them: both lists
 * are sorted by name and walked side by side, so that a tensor missing on either side, or in
 * another shard than stated, is named.  `metadata` of the index is informative and not read.
 */
#include "weights/parse.h"

#include <string.h>

typedef struct placed {
    const char *tensor, *shard;
} placed;

typedef struct shard_index {
    const char *path; /* of the index, for messages */
    placed *at;
    placed **order;
    size_t n;
    mr_arena *arena;
} shard_index;

static int by_shard(const void *a, const void *b)
{
    return strcmp(((const placed *)a)->shard, ((const placed *)b)->shard);
}

static int by_tensor(const void *a, const void *b)
{
    return strcmp(((const placed *)a)->tensor, ((const placed *)b)->tensor);
}

/* A shard lies beside the index; its name must not lead anywhere else. */
static mr_err check_shard_name(const char *path, mr_str name)
{
    MR_TRY(mr_wname_check(path, "shard name", name));
    bool leads_out = memchr(name.data, '/', name.len) != NULL;
    for (size_t i = 0; i + 1 < name.len; i++)
        leads_out |= name.data[i] == '.' && name.data[i + 1] == '.';
    if (leads_out || (name.len == 1 && name.data[0] == '.'))
        return mr_fail(MR_EFORMAT, "%s: shard name \"%.*s\" is not a plain file name", path,
                       name.len > 160 ? 160 : (int)name.len, name.data);
    return MR_OK;
}

static mr_err read_members(shard_index *x, mr_jval map, mr_buf *scratch)
{
    placed *last = NULL;
    for (mr_jval c = mr_jfirst(map); c.doc; c = mr_jnext(c)) {
        mr_str name;
        placed *p = &x->at[x->n];
        MR_TRY(mr_jkey(c, scratch, &name));
        MR_TRY(mr_wname_check(x->path, "tensor name in weight_map", name));
        p->tensor = mr_arena_strndup(x->arena, name.data, name.len);
        if (!p->tensor)
            return MR_ENOMEM;
        MR_TRY(mr_jstr(c, scratch, &name));
        if (last && mr_str_is(name, last->shard)) {
            p->shard = last->shard; /* neighbours are mostly in one file */
        } else {
            MR_TRY(check_shard_name(x->path, name));
            p->shard = mr_arena_strndup(x->arena, name.data, name.len);
            if (!p->shard)
                return MR_ENOMEM;
        }
        last = p;
        x->order[x->n++] = p;
    }
    return MR_OK;
}

static mr_err read_map(shard_index *x, const mr_json *doc)
{
    mr_jval root = mr_json_root(doc), map = mr_jget(root, "weight_map");
    if (mr_jtype(root) != MR_JOBJECT || mr_jtype(map) != MR_JOBJECT)
        return mr_fail(MR_EFORMAT, "%s: has no object \"weight_map\"", x->path);
    size_t count = mr_jcount(map);
    if (!count)
        return mr_fail(MR_EFORMAT, "%s: \"weight_map\" is empty", x->path);
    MR_TRY(mr_arena_new(&x->arena, MR_MEM_COMPILE));
    x->at = mr_alloc(MR_MEM_COMPILE, count * sizeof *x->at);
    x->order = mr_alloc(MR_MEM_COMPILE, count * sizeof *x->order);
    if (!x->at || !x->order)
        return MR_ENOMEM;
    mr_buf scratch = {0};
    mr_err e = read_members(x, map, &scratch);
    mr_buf_free(&scratch);
    return e;
}

static mr_err read_index(shard_index *x)
{
    char *text;
    size_t len;
    mr_json *doc;
    MR_TRY(mr_file_read_all(x->path, MR_ST_HEADER_MAX, MR_MEM_COMPILE, &text, &len));
    mr_err e = mr_json_parse(&doc, x->path, text, len);
    if (e == MR_OK) {
        e = read_map(x, doc);
        mr_json_free(doc);
    }
    mr_free(text);
    return e;
}

static mr_err open_shards(mr_weights *w, const char *dir, shard_index *x)
{
    MR_TRY(mr_wsort((void **)x->order, x->n, by_shard));
    for (size_t i = 0; i < x->n; i++) {
        if (i && !by_shard(x->order[i - 1], x->order[i]))
            continue;
        mr_buf path = {0};
        mr_buf_printf(&path, "%s/%s", dir, x->order[i]->shard);
        mr_err e = mr_buf_check(&path);
        if (e == MR_OK && mr_file_exists(path.data) != 1)
            e = mr_fail(MR_EFORMAT, "%s: shard \"%." MR_WNAME_SHOWN "s\" is missing", x->path,
                        x->order[i]->shard);
        if (e == MR_OK)
            e = mr_safetensors_add(w, path.data);
        mr_buf_free(&path);
        MR_TRY(e);
    }
    return MR_OK;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static mr_err compare(const mr_weights *w, const shard_index *x)
{
    size_t i = 0, j = 0;
    while (i < x->n || j < w->table.n) {
        const placed *p = i < x->n ? x->order[i] : NULL;
        const mr_winfo *t = j < w->table.n ? &w->table.at[j] : NULL;
        int order = !p ? 1 : !t ? -1 : strcmp(p->tensor, t->name);
        if (order < 0)
            return mr_fail(MR_EFORMAT, "%s: tensor \"%." MR_WNAME_SHOWN "s\" is not in %s", x->path,
                           p->tensor, p->shard);
        const char *file = mr_weights_file(w, t->data.file);
        if (order > 0)
            return mr_fail(MR_EFORMAT, "%s: tensor \"%." MR_WNAME_SHOWN "s\" is not in %s", file,
                           t->name, base_name(x->path));
        if (strcmp(p->shard, base_name(file)))
            return mr_fail(MR_EFORMAT, "%s: tensor \"%." MR_WNAME_SHOWN "s\" is in %s, not in %s",
                           x->path, t->name, base_name(file), p->shard);
        i++;
        j++;
    }
    return MR_OK;
}

mr_err mr_shards_add(mr_weights *w, const char *dir, const char *index_path)
{
    shard_index x = {.path = index_path};
    mr_err e = read_index(&x);
    if (e == MR_OK)
        e = open_shards(w, dir, &x);
    if (e == MR_OK)
        e = mr_weights_sort(w);
    if (e == MR_OK)
        e = mr_wsort((void **)x.order, x.n, by_tensor);
    if (e == MR_OK)
        e = compare(w, &x);
    mr_free(x.at);
    mr_free(x.order);
    mr_arena_free(x.arena);
    return e;
}
