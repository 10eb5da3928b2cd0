/* tokenizer.json.
 *
 * Order of reading: vocabulary (counted, then copied), merges, normaliser (added tokens are
 * normalised by it), added tokens, then the rest.  Everything in the file that would change ids and
 * is not known is refused by name.
 */
#include <float.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "text/read.h"
#include "text/tokenizer_parts.h"

/* Ids may have holes, but not many more than there are tokens: arrays are as long as the largest
 * id. */
enum { SPARSE_FACTOR = 8, SPARSE_BASE = 65536 };

typedef struct reader {
    mr_tokenizer *t;
    const char *file;
    mr_json *doc;
    mr_jval root, model, vocab, added;
    mr_buf a, b; /* scratch for strings */
    size_t vocab_n;
} reader;

/* ---- vocabulary -------------------------------------------------------------------------- */

static mr_err read_id(mr_jval v, int64_t *id)
{
    return mr_jint(v, 0, MR_TOKEN_ID_MAX, id);
}

static mr_err count_added(reader *r, int64_t *max_id, size_t *bytes, size_t *count)
{
    mr_str s;
    for (mr_jval c = mr_jfirst(r->added); c.doc; c = mr_jnext(c)) {
        int64_t id;
        if (mr_jtype(c) != MR_JOBJECT)
            return mr_jfail(c, "must be an object");
        if (!mr_jhas(mr_jget(c, "id")) || !mr_jhas(mr_jget(c, "content")))
            return mr_jfail(c, "must have \"id\" and \"content\"");
        MR_TRY(read_id(mr_jget(c, "id"), &id));
        MR_TRY(mr_jstr(mr_jget(c, "content"), &r->a, &s));
        *max_id = id > *max_id ? id : *max_id;
        *bytes += s.len;
        ++*count;
    }
    return MR_OK;
}

static mr_err check_density(reader *r, int64_t max_id, size_t count)
{
    if (count == 0)
        return mr_jfail(r->vocab, "is empty");
    if ((size_t)max_id > SPARSE_FACTOR * count + SPARSE_BASE)
        return mr_fail(MR_EFORMAT, "%s: id %lld among %zu tokens is too sparse", r->file,
                       (long long)max_id, count);
    return MR_OK;
}

static mr_err read_vocab(reader *r)
{
    int64_t max_id = -1, id;
    size_t bytes = 0, count = 0;
    mr_str key;
    for (mr_jval c = mr_jfirst(r->vocab); c.doc; c = mr_jnext(c)) {
        MR_TRY(read_id(c, &id));
        MR_TRY(mr_jkey(c, &r->a, &key));
        max_id = id > max_id ? id : max_id;
        bytes += key.len;
        count++;
    }
    r->vocab_n = count;
    MR_TRY(count_added(r, &max_id, &bytes, &count));
    MR_TRY(check_density(r, max_id, count));
    mr_table *table = &r->t->model.table;
    MR_TRY(mr_table_init(table, (size_t)max_id + 1, count, bytes));
    for (mr_jval c = mr_jfirst(r->vocab); c.doc; c = mr_jnext(c)) {
        MR_TRY(read_id(c, &id));
        MR_TRY(mr_jkey(c, &r->a, &key));
        if (mr_table_has(table, (int32_t)id))
            return mr_jfail(c, "two tokens have the id %lld", (long long)id);
        mr_table_put(table, (int32_t)id, key.data, key.len);
        if (!mr_table_index(table, (int32_t)id, false))
            return mr_jfail(c, "this token is there twice");
    }
    return MR_OK;
}

/* ---- merges ------------------------------------------------------------------------------ */

/* "left right", or ["left", "right"]; all of a file in the same form. */
static mr_err merge_parts(reader *r, mr_jval v, mr_jtype_t form, mr_str *left, mr_str *right)
{
    if (mr_jtype(v) != form)
        return mr_jfail(v, "must be %s, as the merges before it",
                        form == MR_JSTRING ? "a string" : "a pair");
    if (form == MR_JARRAY) {
        if (mr_jcount(v) != 2)
            return mr_jfail(v, "has %u parts, not 2", mr_jcount(v));
        mr_jval first = mr_jfirst(v);
        MR_TRY(mr_jstr(first, &r->a, left));
        return mr_jstr(mr_jnext(first), &r->b, right);
    }
    MR_TRY(mr_jstr(v, &r->a, left));
    const char *space = left->len ? memchr(left->data, ' ', left->len) : NULL;
    if (!space)
        return mr_jfail(v, "has 1 part, not 2");
    *right = (mr_str){space + 1, left->len - (size_t)(space + 1 - left->data)};
    left->len = (size_t)(space - left->data);
    if (right->len && memchr(right->data, ' ', right->len))
        return mr_jfail(v, "has more than 2 parts");
    return MR_OK;
}

static mr_err read_merge(reader *r, mr_jval v, mr_str left, mr_str right, uint32_t rank,
                         mr_buf *joined)
{
    mr_bpe *m = &r->t->model;
    int32_t l = mr_table_find(&m->table, left.data, left.len);
    int32_t g = mr_table_find(&m->table, right.data, right.len);
    if (l < 0 || g < 0)
        return mr_jfail(v, "\"%.*s\" is not in the vocabulary",
                        (int)((l < 0 ? left.len : right.len) & 63), l < 0 ? left.data : right.data);
    mr_buf_clear(joined);
    mr_buf_add(joined, left.data, left.len);
    mr_buf_add(joined, right.data, right.len);
    MR_TRY(mr_buf_check(joined));
    int32_t id = mr_table_find(&m->table, joined->data, joined->len);
    if (id < 0)
        return mr_jfail(v, "its result \"%.*s\" is not in the vocabulary", (int)(joined->len & 63),
                        joined->data);
    mr_bpe_merge(m, l, g, id, rank);
    return MR_OK;
}

static mr_err read_merges(reader *r)
{
    mr_jval list = mr_jget(r->model, "merges");
    if (mr_jtype(list) != MR_JARRAY)
        return mr_jfail(r->model, "must have a list \"merges\"");
    MR_TRY(mr_bpe_reserve(&r->t->model, mr_jcount(list)));
    mr_jval first = mr_jfirst(list);
    mr_jtype_t form = mr_jtype(first);
    if (first.doc && form != MR_JSTRING && form != MR_JARRAY)
        return mr_jfail(first, "must be a string or a pair");
    mr_buf joined = {0};
    mr_err err = MR_OK;
    uint32_t rank = 0;
    for (mr_jval c = first; err == MR_OK && c.doc; c = mr_jnext(c)) {
        mr_str left = {0}, right = {0};
        mr_str raw = mr_jraw(c);
        if (form == MR_JSTRING && raw.len > 9 && memcmp(raw.data, "\"#version", 9) == 0)
            continue; /* the first line of merges.txt, which some files took along */
        err = merge_parts(r, c, form, &left, &right);
        if (err == MR_OK)
            err = read_merge(r, c, left, right, rank++, &joined);
    }
    mr_buf_free(&joined);
    return err;
}

/* ---- model ------------------------------------------------------------------------------- */

/* A string member that must be absent, null or empty. */
static mr_err refuse_text(reader *r, const char *key)
{
    mr_jval v = mr_jget(r->model, key);
    mr_str s;
    if (!mr_jhas(v))
        return MR_OK;
    MR_TRY(mr_jstr(v, &r->a, &s));
    if (s.len == 0)
        return MR_OK;
    return mr_fail(MR_EUNSUPPORTED, "%s: \"model.%s\" is not supported", r->file, key);
}

static mr_err read_options(reader *r)
{
    mr_bpe *m = &r->t->model;
    mr_jval dropout = mr_jget(r->model, "dropout"), unk = mr_jget(r->model, "unk_token");
    if (mr_jhas(dropout)) {
        double p;
        MR_TRY(mr_jnum(dropout, &p));
        if (p != 0)
            return mr_fail(MR_EUNSUPPORTED, "%s: \"model.dropout\" is not supported", r->file);
    }
    MR_TRY(refuse_text(r, "continuing_subword_prefix"));
    MR_TRY(refuse_text(r, "end_of_word_suffix"));
    MR_TRY(mr_read_flag(r->model, "fuse_unk", false, &m->fuse_unk));
    MR_TRY(mr_read_flag(r->model, "byte_fallback", false, &m->byte_fallback));
    MR_TRY(mr_read_flag(r->model, "ignore_merges", false, &m->ignore_merges));
    if (mr_jhas(unk)) {
        mr_str s;
        MR_TRY(mr_jstr(unk, &r->a, &s));
        m->unk = mr_table_find(&m->table, s.data, s.len);
        m->unk = m->unk < 0 ? MR_UNK_MISSING : m->unk;
    }
    return MR_OK;
}

/* ---- Unigram ----------------------------------------------------------------------------- */

/* [[text, score], ...]: the place is the id. */
static mr_err read_pieces(reader *r, double *low)
{
    mr_table *table = &r->t->model.table;
    mr_unigram *u = &r->t->unigram;
    int32_t id = 0;
    mr_str text;
    for (mr_jval c = mr_jfirst(r->vocab); c.doc; c = mr_jnext(c), id++) {
        double score;
        MR_TRY(mr_jstr(mr_jfirst(c), &r->a, &text));
        MR_TRY(mr_jnum(mr_jnext(mr_jfirst(c)), &score));
        *low = score < *low ? score : *low;
        mr_table_put(table, id, text.data, text.len);
        mr_table_index(table, id, true); /* of equal texts the last counts */
        MR_TRY(mr_unigram_put(u, text.data, text.len, id, score));
    }
    return MR_OK;
}

static mr_err read_unigram(reader *r)
{
    const double unk_penalty = 10;
    double low = DBL_MAX;
    int64_t max_id = -1, unk;
    size_t bytes = 0, count = 0;
    mr_str text;
    mr_bpe *m = &r->t->model;
    r->vocab = mr_jget(r->model, "vocab");
    if (mr_jtype(r->vocab) != MR_JARRAY)
        return mr_jfail(r->model, "must have a list \"vocab\"");
    for (mr_jval c = mr_jfirst(r->vocab); c.doc; c = mr_jnext(c)) {
        if (mr_jtype(c) != MR_JARRAY || mr_jcount(c) != 2)
            return mr_jfail(c, "must be a text and its score");
        MR_TRY(mr_jstr(mr_jfirst(c), &r->a, &text));
        bytes += text.len;
        count++;
    }
    r->vocab_n = count;
    max_id = (int64_t)count - 1;
    MR_TRY(mr_unigram_init(&r->t->unigram, bytes));
    MR_TRY(count_added(r, &max_id, &bytes, &count));
    MR_TRY(check_density(r, max_id, count));
    MR_TRY(mr_table_init(&m->table, (size_t)max_id + 1, count, bytes));
    MR_TRY(read_pieces(r, &low));
    r->t->unigram.unk = low - unk_penalty;
    MR_TRY(mr_read_flag(r->model, "byte_fallback", false, &m->byte_fallback));
    m->unk = MR_UNK_MISSING;
    if (!mr_jhas(mr_jget(r->model, "unk_id")))
        return MR_OK;
    MR_TRY(mr_jint(mr_jget(r->model, "unk_id"), 0, (int64_t)r->vocab_n - 1, &unk));
    m->unk = (int32_t)unk;
    return MR_OK;
}

static mr_err read_model(reader *r)
{
    r->model = mr_jget(r->root, "model");
    if (mr_jtype(r->model) != MR_JOBJECT)
        return mr_jhas(mr_jget(mr_jget(r->root, "config"), "num_vocab_tokens"))
                   ? mr_fail(
                         MR_EUNSUPPORTED,
                         "%s: is a Tekken file, whose form is not read; a tokenizer.json is needed",
                         r->file)
                   : mr_jfail(r->root, "must have an object \"model\"");
    mr_jval type = mr_jget(r->model, "type");
    if (mr_jis(type, "Unigram"))
        return read_unigram(r);
    if (mr_jhas(type) && !mr_jis(type, "BPE")) {
        char kind[MR_KIND_MAX];
        MR_TRY(mr_read_kind(r->model, kind));
        return mr_read_unknown(r->model, "model", kind);
    }
    r->vocab = mr_jget(r->model, "vocab");
    if (mr_jtype(r->vocab) != MR_JOBJECT)
        return mr_jfail(r->model, "must have an object \"vocab\"");
    MR_TRY(read_vocab(r));
    MR_TRY(read_merges(r));
    return read_options(r);
}

/* ---- added tokens ------------------------------------------------------------------------ */

/* The package gives a new token the next free number, whatever the file says; where the two differ
 * the file is refused, since one of them would be wrong. */
static mr_err check_added_id(reader *r, mr_jval v, int32_t id, mr_str text, int32_t *next)
{
    mr_table *table = &r->t->model.table;
    int32_t known = mr_table_find_any(table, text.data, text.len);
    if (known >= 0 && known != id)
        return mr_jfail(v, "the id is %d, but this text has the id %d", id, known);
    if (known >= 0 && (r->t->flags[id] & MR_TOKEN_ADDED))
        return mr_jfail(v, "this token is there twice");
    if (known >= 0)
        return MR_OK;
    if (mr_table_has(table, id))
        return mr_jfail(v, "two tokens have the id %d", id);
    if (id != *next)
        return mr_jfail(v, "the id is %d where the next free one is %d", id, *next);
    ++*next;
    mr_table_put(table, id, text.data, text.len);
    mr_table_index(table, id, false);
    mr_table_hide(table, id);
    return MR_OK;
}

static mr_err read_added_token(reader *r, mr_jval v, int32_t *next)
{
    mr_added_token token = {0};
    bool normalized;
    int64_t id;
    mr_str text;
    MR_TRY(read_id(mr_jget(v, "id"), &id));
    MR_TRY(mr_jstr(mr_jget(v, "content"), &r->a, &text));
    if (text.len == 0)
        return mr_jfail(v, "its \"content\" is empty");
    token.id = (int32_t)id;
    MR_TRY(mr_read_flag(v, "special", false, &token.special));
    MR_TRY(mr_read_flag(v, "single_word", false, &token.single_word));
    MR_TRY(mr_read_flag(v, "lstrip", false, &token.lstrip));
    MR_TRY(mr_read_flag(v, "rstrip", false, &token.rstrip));
    MR_TRY(mr_read_flag(v, "normalized", !token.special, &normalized));
    token.when = normalized ? MR_ADDED_NORMALIZED : MR_ADDED_RAW;
    MR_TRY(check_added_id(r, v, token.id, text, next));
    return mr_tokenizer_add(r->t, token, r->file);
}

static mr_err read_added(reader *r)
{
    int32_t next = (int32_t)r->vocab_n;
    for (mr_jval c = mr_jfirst(r->added); c.doc; c = mr_jnext(c))
        MR_TRY(read_added_token(r, c, &next));
    return MR_OK;
}

/* ---- post-processor ---------------------------------------------------------------------- */

static mr_err template_ids(reader *r, mr_jval special, mr_jval piece, mr_ids *out)
{
    mr_str name, key;
    mr_jval id = mr_jget(piece, "id");
    if (!mr_jhas(id))
        return mr_jfail(piece, "has no \"id\"");
    MR_TRY(mr_jstr(id, &r->a, &name));
    for (mr_jval c = mr_jfirst(special); c.doc; c = mr_jnext(c)) {
        MR_TRY(mr_jkey(c, &r->b, &key));
        if (key.len != name.len || memcmp(key.data, name.data, key.len) != 0)
            continue;
        mr_jval ids = mr_jget(c, "ids");
        if (mr_jtype(ids) != MR_JARRAY)
            return mr_jfail(c, "must have a list \"ids\"");
        for (mr_jval i = mr_jfirst(ids); i.doc; i = mr_jnext(i)) {
            int64_t n;
            MR_TRY(mr_jint(i, 0, r->t->model.table.n - 1, &n));
            MR_TRY(mr_ids_push(out, (int32_t)n));
        }
        return MR_OK;
    }
    return mr_jfail(id, "is not among special_tokens");
}

/* Puts `more` before (or behind) what is there: a later processor works on the result of an earlier
 * one. */
static mr_err add_around(mr_ids *ids, const mr_ids *more, bool before)
{
    size_t old = ids->n;
    for (size_t i = 0; i < more->n; i++)
        MR_TRY(mr_ids_push(ids, more->id[i]));
    if (before && more->n) {
        memmove(ids->id + more->n, ids->id, old * sizeof *ids->id);
        memcpy(ids->id, more->id, more->n * sizeof *ids->id);
    }
    return MR_OK;
}

static mr_err read_single(reader *r, mr_jval v, mr_ids around[2])
{
    mr_jval single = mr_jget(v, "single"), special = mr_jget(v, "special_tokens");
    int side = 0;
    if (mr_jtype(single) != MR_JARRAY || mr_jtype(special) != MR_JOBJECT)
        return mr_jfail(v, "must have a list \"single\" and an object \"special_tokens\"");
    for (mr_jval c = mr_jfirst(single); c.doc; c = mr_jnext(c)) {
        mr_jval token = mr_jget(c, "SpecialToken"), sequence = mr_jget(c, "Sequence");
        if (mr_jtype(token) == MR_JOBJECT) {
            MR_TRY(template_ids(r, special, token, &around[side]));
        } else if (mr_jtype(sequence) == MR_JOBJECT) {
            if (!mr_jis(mr_jget(sequence, "id"), "A") || side == 1)
                return mr_jfail(sequence, "must be sequence A, once");
            side = 1;
        } else {
            return mr_jfail(c, "must be a SpecialToken or a Sequence");
        }
    }
    return side ? MR_OK : mr_jfail(single, "has no Sequence");
}

static mr_err read_template(reader *r, mr_jval v)
{
    mr_ids around[2] = {{0}, {0}};
    mr_err err = read_single(r, v, around);
    if (err == MR_OK)
        err = add_around(&r->t->prefix, &around[0], true);
    if (err == MR_OK)
        err = add_around(&r->t->suffix, &around[1], false);
    mr_ids_free(&around[0]);
    mr_ids_free(&around[1]);
    return err;
}

static mr_err read_post(reader *r, mr_jval v)
{
    char kind[MR_KIND_MAX];
    MR_TRY(mr_read_kind(v, kind));
    if (strcmp(kind, "TemplateProcessing") == 0)
        return read_template(r, v);
    if (strcmp(kind, "ByteLevel") == 0)
        return MR_OK; /* it moves offsets only */
    if (strcmp(kind, "Sequence") != 0)
        return mr_read_unknown(v, "post_processor", kind);
    mr_jval list = mr_jget(v, "processors");
    if (mr_jtype(list) != MR_JARRAY)
        return mr_jfail(v, "must have a list \"processors\"");
    for (mr_jval c = mr_jfirst(list); c.doc; c = mr_jnext(c))
        MR_TRY(read_post(r, c));
    return MR_OK;
}

/* ---- the whole --------------------------------------------------------------------------- */

static mr_err check_frame(reader *r)
{
    static const char *off[] = {"truncation", "padding"};
    if (mr_jtype(r->root) != MR_JOBJECT)
        return mr_fail(MR_EFORMAT, "%s: must hold an object", r->file);
    mr_jval version = mr_jget(r->root, "version");
    if (mr_jhas(version) && !mr_jis(version, "1.0"))
        return mr_fail(MR_EUNSUPPORTED, "%s: \"version\" is not \"1.0\"", r->file);
    for (int i = 0; i < 2; i++)
        if (mr_jhas(mr_jget(r->root, off[i])))
            return mr_fail(MR_EUNSUPPORTED, "%s: \"%s\" is not supported (it must be null)",
                           r->file, off[i]);
    r->added = mr_jget(r->root, "added_tokens");
    if (mr_jhas(r->added) && mr_jtype(r->added) != MR_JARRAY)
        return mr_jfail(r->added, "must be a list");
    return MR_OK;
}

static const char *kind_of(const mr_tokenizer *t)
{
    if (t->unigram.nodes)
        return "Unigram";
    for (size_t i = 0; i < t->pre.n; i++)
        if (t->pre.v[i].kind == MR_PRE_BYTES)
            return "byte-level BPE";
    for (size_t i = 0; i < t->norm.n; i++)
        if (t->norm.v[i].kind == MR_NORM_BYTES)
            return "byte-level BPE";
    return t->model.byte_fallback ? "BPE with byte fallback" : "BPE";
}

static mr_err read_all(reader *r)
{
    r->root = mr_json_root(r->doc);
    MR_TRY(check_frame(r));
    MR_TRY(read_model(r));
    MR_TRY(mr_tokenizer_flags(r->t));
    MR_TRY(mr_norm_read(&r->t->norm, mr_jget(r->root, "normalizer")));
    MR_TRY(read_added(r));
    MR_TRY(mr_pretok_read(&r->t->pre, mr_jget(r->root, "pre_tokenizer")));
    MR_TRY(mr_decoder_read(&r->t->decoder, mr_jget(r->root, "decoder")));
    mr_jval post = mr_jget(r->root, "post_processor");
    if (mr_jhas(post))
        MR_TRY(read_post(r, post));
    r->t->kind = kind_of(r->t);
    return mr_tokenizer_seal(r->t, r->file);
}

mr_err mr_tokenizer_parse(mr_tokenizer **out, const mr_tokenizer_source *s)
{
    reader r = {.file = s->file};
    *out = NULL;
#ifdef MR_NO_TEXT
    return mr_fail(MR_EUNSUPPORTED, "%s: this program was built without PCRE2 and utf8proc",
                   s->file);
#endif
    mr_err err = mr_tokenizer_alloc(&r.t);
    if (err == MR_OK)
        err = mr_json_parse(&r.doc, s->file, s->text, s->len);
    if (err == MR_OK)
        err = read_all(&r);
    mr_json_free(r.doc);
    mr_buf_free(&r.a);
    mr_buf_free(&r.b);
    if (err == MR_OK)
        err = mr_tokenizer_config(r.t, s);
    if (err) {
        mr_tokenizer_close(r.t);
        return err;
    }
    *out = r.t;
    return MR_OK;
}
