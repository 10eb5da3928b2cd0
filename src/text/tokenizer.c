/* Encoding and decoding, and the small questions.
 *
 * Encoding: cut at added tokens in the raw text; normalise what is between; cut at added tokens in
 * the normalised text; pre-tokenise what is between; the model reads each piece.
 */
#include "text/tokenizer.h"

#include <assert.h>
#include <string.h>

#include "base/mem.h"
#include "text/tokenizer_parts.h"

/* Offsets into texts are 32-bit, and normalising or byte-mapping makes a text longer. */
enum { TEXT_MAX = 1 << 28 };

mr_err mr_ids_push(mr_ids *ids, int32_t id)
{
    MR_TRY(mr_grow((void **)&ids->id, &ids->cap, ids->n + 1, sizeof *ids->id));
    ids->id[ids->n++] = id;
    return MR_OK;
}

void mr_ids_free(mr_ids *ids)
{
    mr_free(ids->id);
    memset(ids, 0, sizeof *ids);
}

/* ---- making ------------------------------------------------------------------------------ */

mr_err mr_tokenizer_alloc(mr_tokenizer **out)
{
    mr_tokenizer *t = mr_zalloc(MR_MEM_TOKENIZER, sizeof *t);
    *out = t;
    if (!t)
        return MR_ENOMEM;
    t->bos = t->eos = -1;
    t->model.unk = MR_UNK_NONE;
    t->kind = "BPE";
    return MR_OK;
}

void mr_tokenizer_close(mr_tokenizer *t)
{
    if (!t)
        return;
    mr_bpe_free(&t->model);
    mr_unigram_free(&t->unigram);
    mr_added_free(&t->added);
    mr_norm_free(&t->norm);
    mr_pretok_free(&t->pre);
    mr_decoder_free(&t->decoder);
    mr_scan_free(&t->opening);
    mr_free(t->flags);
    mr_ids_free(&t->prefix);
    mr_ids_free(&t->suffix);
    mr_free(t->chat_template);
    mr_free(t);
}

mr_err mr_tokenizer_flags(mr_tokenizer *t)
{
    t->flags = mr_zalloc(MR_MEM_TOKENIZER, (size_t)t->model.table.n);
    return t->flags ? MR_OK : MR_ENOMEM;
}

mr_err mr_tokenizer_add(mr_tokenizer *t, mr_added_token token, const char *file)
{
    mr_str text = mr_table_text(&t->model.table, token.id);
    if (text.len > MR_ADDED_MAX)
        return mr_fail(MR_EUNSUPPORTED,
                       "%s: added_tokens: the text of id %d has %zu bytes (at most %d)", file,
                       token.id, text.len, MR_ADDED_MAX);
    mr_buf normal = {0};
    mr_err err = MR_OK;
    if (token.when == MR_ADDED_NORMALIZED) {
        bool cut;
        err = mr_norm_run(&t->norm, &t->opening, text.data, text.len, &normal, &cut);
        if (err == MR_OK && normal.len == 0)
            err = mr_fail(MR_EFORMAT, "%s: added_tokens: the normaliser leaves nothing of id %d",
                          file, token.id);
        if (err == MR_OK && normal.len > MR_ADDED_MAX)
            err = mr_fail(MR_EUNSUPPORTED, "%s: added_tokens: id %d is too long", file, token.id);
        if (err == MR_OK &&
            (normal.len != text.len || memcmp(normal.data, text.data, text.len) != 0)) {
            token.changed = true;
            text = (mr_str){normal.data, normal.len};
        }
    }
    if (err == MR_OK)
        err = mr_added_add(&t->added, token, text.data, text.len);
    if (err == MR_OK)
        t->flags[token.id] |= (uint8_t)(MR_TOKEN_ADDED | (token.special ? MR_TOKEN_SPECIAL : 0) |
                                        (token.changed ? MR_TOKEN_CHANGED : 0));
    mr_buf_free(&normal);
    return err;
}

mr_err mr_tokenizer_seal(mr_tokenizer *t, const char *file)
{
    mr_bpe_seal(&t->model);
    mr_scan_free(&t->opening);
    return mr_added_seal(&t->added, file);
}

/* ---- questions --------------------------------------------------------------------------- */

int32_t mr_tokenizer_size(const mr_tokenizer *t)
{
    return t->model.table.n;
}

int32_t mr_tokenizer_id(const mr_tokenizer *t, const char *text, size_t len)
{
    return mr_table_find_any(&t->model.table, text, len);
}

bool mr_tokenizer_is_special(const mr_tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->model.table.n && (t->flags[id] & MR_TOKEN_SPECIAL);
}

int32_t mr_tokenizer_bos(const mr_tokenizer *t)
{
    return t->bos;
}

int32_t mr_tokenizer_eos(const mr_tokenizer *t)
{
    return t->eos;
}

const char *mr_tokenizer_template(const mr_tokenizer *t)
{
    return t->chat_template;
}

const char *mr_tokenizer_kind(const mr_tokenizer *t)
{
    return t->kind;
}

/* ---- encoding ---------------------------------------------------------------------------- */

typedef struct encoding {
    const mr_tokenizer *t;
    bool plain;
    mr_ids *ids;
    mr_spans raw, inner;
    mr_buf normal;
    mr_pieces pieces;
    mr_bpe_work work;
    mr_unigram_work path;
    mr_scan scan;
} encoding;

static void encoding_free(encoding *e)
{
    mr_spans_free(&e->raw);
    mr_spans_free(&e->inner);
    mr_buf_free(&e->normal);
    mr_pieces_free(&e->pieces);
    mr_bpe_work_free(&e->work);
    mr_unigram_work_free(&e->path);
    mr_scan_free(&e->scan);
}

static mr_err encode_words(encoding *e, const char *s, size_t len, bool first)
{
    mr_pieces_clear(&e->pieces);
    mr_buf_add(&e->pieces.text, s, len);
    MR_TRY(mr_buf_check(&e->pieces.text));
    MR_TRY(mr_pieces_push(&e->pieces, 0, len, first));
    MR_TRY(mr_pretok_run(&e->t->pre, &e->scan, &e->pieces));
    for (size_t i = 0; i < e->pieces.n; i++) {
        mr_piece p = e->pieces.v[i];
        const char *word = e->pieces.text.data + p.off;
        if (e->t->unigram.nodes)
            MR_TRY(mr_unigram_word(&e->t->unigram, &e->t->model, &e->path, word, p.len, e->ids));
        else
            MR_TRY(mr_bpe_word(&e->t->model, &e->work, word, p.len, e->ids));
    }
    return MR_OK;
}

static mr_err encode_between(encoding *e, const char *s, size_t len, bool first)
{
    bool cut;
    MR_TRY(mr_norm_run(&e->t->norm, &e->scan, s, len, &e->normal, &cut));
    if (e->normal.len > INT32_MAX)
        return mr_fail(MR_ELIMIT, "the text is too long after normalising");
    const char *n = e->normal.data;
    MR_TRY(mr_added_find(&e->t->added, MR_ADDED_NORMALIZED, e->plain, n, e->normal.len, &e->inner));
    for (size_t i = 0; i < e->inner.n; i++) {
        mr_span p = e->inner.v[i];
        if (p.id >= 0)
            MR_TRY(mr_ids_push(e->ids, p.id));
        else
            MR_TRY(encode_words(e, n + p.start, p.end - p.start, first && !cut && p.start == 0));
    }
    return MR_OK;
}

static mr_err encode_text(encoding *e, const char *text, size_t len)
{
    MR_TRY(mr_added_find(&e->t->added, MR_ADDED_RAW, e->plain, text, len, &e->raw));
    for (size_t i = 0; i < e->raw.n; i++) {
        mr_span p = e->raw.v[i];
        if (p.id >= 0)
            MR_TRY(mr_ids_push(e->ids, p.id));
        else
            MR_TRY(encode_between(e, text + p.start, p.end - p.start, p.start == 0));
    }
    return MR_OK;
}

mr_err mr_tokenize(const mr_tokenizer *t, const char *text, size_t len, unsigned flags, mr_ids *ids)
{
    if (len > TEXT_MAX)
        return mr_fail(MR_ELIMIT,
                       "a text of %zu bytes is too long to tokenize at once (%d at most)", len,
                       TEXT_MAX);
    size_t valid = len ? mr_utf8_check(text, len) : 0;
    if (valid != len)
        return mr_fail(MR_EFORMAT, "the text is not UTF-8 at byte %zu", valid);
    encoding e = {.t = t, .plain = flags & MR_TOK_PLAIN, .ids = ids, .scan.bytes = len};
    mr_err err = MR_OK;
    for (size_t i = 0; err == MR_OK && (flags & MR_TOK_SPECIAL) && i < t->prefix.n; i++)
        err = mr_ids_push(ids, t->prefix.id[i]);
    if (err == MR_OK && len)
        err = encode_text(&e, text, len);
    for (size_t i = 0; err == MR_OK && (flags & MR_TOK_SPECIAL) && i < t->suffix.n; i++)
        err = mr_ids_push(ids, t->suffix.id[i]);
    encoding_free(&e);
    return err;
}

/* ---- decoding ---------------------------------------------------------------------------- */

struct mr_detok {
    const mr_tokenizer *t;
    bool skip_special;
    mr_decoding run;
};

mr_err mr_detok_new(mr_detok **out, const mr_tokenizer *t, bool skip_special)
{
    mr_detok *d = mr_zalloc(MR_MEM_OTHER, sizeof *d);
    *out = NULL;
    if (!d)
        return MR_ENOMEM;
    d->t = t;
    d->skip_special = skip_special;
    mr_err err = mr_decoding_init(&d->run, &t->decoder);
    if (err) {
        mr_free(d);
        return err;
    }
    *out = d;
    return MR_OK;
}

void mr_detok_free(mr_detok *d)
{
    if (!d)
        return;
    mr_decoding_free(&d->run);
    mr_free(d);
}

/* The text a token decodes from: its own, or the normalised one it was found by. */
static mr_str decoded_text(const mr_tokenizer *t, int32_t id)
{
    if (t->show_unk && id == t->model.unk)
        return (mr_str){" \xE2\x81\x87 ", 5};
    if (t->flags[id] & MR_TOKEN_CHANGED)
        for (size_t i = 0; i < t->added.n; i++)
            if (t->added.v[i].id == id)
                return (mr_str){t->added.pool.data + t->added.v[i].off, t->added.v[i].len};
    return mr_table_text(&t->model.table, id);
}

mr_err mr_detok_push(mr_detok *d, int32_t id, mr_buf *out)
{
    const mr_tokenizer *t = d->t;
    if (id < 0 || id >= t->model.table.n)
        return mr_fail(MR_EFORMAT, "token id %d is outside the vocabulary of %d", id,
                       t->model.table.n);
    /* the package compares texts, and a changed text is not that of the special token */
    if (d->skip_special && (t->flags[id] & MR_TOKEN_SPECIAL) &&
        !(t->flags[id] & MR_TOKEN_CHANGED) && !(t->show_unk && id == t->model.unk))
        return MR_OK;
    if (!mr_table_has(&t->model.table, id)) /* an id between others that no token has: nothing */
        return MR_OK;
    mr_str s = decoded_text(t, id);
    return mr_decoding_push(&d->run, s.data, s.len, out);
}

mr_err mr_detok_flush(mr_detok *d, mr_buf *out)
{
    MR_TRY(mr_decoding_end(&d->run, out));
    mr_decoding_free(&d->run); /* ready for another text */
    return mr_decoding_init(&d->run, &d->t->decoder);
}

mr_err mr_detokenize(const mr_tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                     mr_buf *out)
{
    mr_detok *d;
    MR_TRY(mr_detok_new(&d, t, skip_special));
    mr_err err = MR_OK;
    for (size_t i = 0; err == MR_OK && i < n; i++)
        err = mr_detok_push(d, ids[i], out);
    if (err == MR_OK)
        err = mr_decoding_end(&d->run, out);
    mr_detok_free(d);
    return err;
}
