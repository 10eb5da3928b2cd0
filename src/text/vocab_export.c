/* A tokenizer as the plain vocabulary that GGUF metadata holds.
 *
 * The metadata names the pre-tokeniser only, so the names we know are tried: the one whose cuts of a
 * hard text are the tokenizer's own is taken, which is how such files get their names elsewhere too.
 * Tokenizers over characters become SentencePiece vocabularies: a piece's score is minus the rank of
 * the first merge that makes it, so the best pair is the same one.  Whatever would not come back as
 * it is, is refused.
 */
#include <string.h>

#include "base/mem.h"
#include "text/gguf_pre.h"
#include "text/tokenizer_parts.h"
#include "text/vocab_export.h"

enum { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER, TYPE_UNUSED, TYPE_BYTE };

static const char space_mark[] = "\xE2\x96\x81"; /* U+2581 */

static const char probe[] =
    "Hello, World's  we'll THEY'VE 3 12 345 6789 0x1F\t\ttabs\n\n new\r\nline  \n  x\n"
    "na\xC3\xAFve caf\x65\xCC\x81 \xE4\xBD\xA0\xE5\xA5\xBD\xE3\x81\xB2\xE3\x82\xAB "
    "\xF0\x9F\x98\x80\xE2\x80\x8D\xF0\x9F\x91\xA9 camelCase HTTPServer //path/ \xE2\x82\xAC"
    "5 a=b+c<d>`e` "
    "\xD0\x9F\xD1\x80\xD0\xB8 \xD9\xA3\xD9\xA4 \xE0\xA4\x95\xE0\xA4\xBF ***!!!... $x^y|z~  end ";

/* ---- which pre-tokeniser ----------------------------------------------------------------- */

static mr_err cuts_of(const mr_pretok *p, mr_pieces *out)
{
    mr_scan scan = {0};
    mr_pieces_clear(out);
    mr_buf_add(&out->text, probe, sizeof probe - 1);
    mr_err err = mr_buf_check(&out->text);
    if (!err)
        err = mr_pieces_push(out, 0, sizeof probe - 1, true);
    if (!err)
        err = mr_pretok_run(p, &scan, out);
    mr_scan_free(&scan);
    return err;
}

static bool same_cuts(const mr_pieces *a, const mr_pieces *b)
{
    if (a->n != b->n || a->text.len != b->text.len ||
        memcmp(a->text.data, b->text.data, a->text.len) != 0)
        return false;
    for (size_t i = 0; i < a->n; i++)
        if (a->v[i].off != b->v[i].off || a->v[i].len != b->v[i].len)
            return false;
    return true;
}

static mr_err cuts_of_name(const mr_gguf_pre *pre, mr_pieces *out)
{
    mr_pretok p = {0};
    mr_err err = mr_gguf_pre_steps(pre, &p);
    if (!err)
        err = cuts_of(&p, out);
    mr_pretok_free(&p);
    return err;
}

static bool is_nfc(const mr_norm *n)
{
    return n->n == 1 && n->v[0].kind == MR_NORM_FORM && n->v[0].form == MR_NFC;
}

static mr_err find_pre(const mr_tokenizer *t, const char **name)
{
    mr_pieces own = {0}, other = {0};
    mr_err err = cuts_of(&t->pre, &own);
    const mr_gguf_pre *pre;
    *name = NULL;
    for (int i = 0; !err && !*name && (pre = mr_gguf_pre_at(i)); i++) {
        if (pre->nfc != is_nfc(&t->norm) || pre->ignore_merges != t->model.ignore_merges)
            continue;
        err = cuts_of_name(pre, &other);
        if (!err && same_cuts(&own, &other))
            *name = pre->name;
    }
    mr_pieces_free(&own);
    mr_pieces_free(&other);
    if (!err && !*name)
        err = mr_fail(MR_EUNSUPPORTED, "GGUF has no name for this tokenizer's pre-tokeniser");
    return err;
}

/* ---- tokens ------------------------------------------------------------------------------ */

static int32_t type_of(const mr_tokenizer *t, int32_t id)
{
    if (!mr_table_has(&t->model.table, id))
        return TYPE_UNUSED;
    mr_str s = mr_table_text(&t->model.table, id);
    if (t->model.byte_fallback && s.len == 6 && memcmp(s.data, "<0x", 3) == 0)
        for (int b = 0; b < 256; b++)
            if (t->model.byte_id[b] == id)
                return TYPE_BYTE;
    if (id == t->model.unk)
        return TYPE_UNKNOWN;
    if (t->flags[id] & MR_TOKEN_ADDED)
        return t->flags[id] & MR_TOKEN_SPECIAL ? TYPE_CONTROL : TYPE_USER;
    return TYPE_NORMAL;
}

/* A model may have more rows than its tokenizer has tokens; such ids get a name all the same. */
static mr_err name_missing(const mr_tokenizer *t, mr_vocab_copy *c, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        if (!mr_table_has(&t->model.table, i))
            mr_buf_printf(&c->text, "[PAD%d]", i);
    MR_TRY(mr_buf_check(&c->text));
    const char *name = c->text.data;
    for (int32_t i = 0; i < n; i++)
        if (!mr_table_has(&t->model.table, i)) {
            size_t len = (size_t)(strchr(name, ']') + 1 - name);
            c->tokens[i] = (mr_str){name, len};
            name += len;
        }
    return MR_OK;
}

static mr_err copy_tokens(const mr_tokenizer *t, mr_vocab_copy *c, int32_t n)
{
    c->tokens = mr_alloc(MR_MEM_TOKENIZER, (size_t)n * sizeof *c->tokens);
    c->types = mr_alloc(MR_MEM_TOKENIZER, (size_t)n * sizeof *c->types);
    if (!c->tokens || !c->types)
        return MR_ENOMEM;
    for (int32_t i = 0; i < n; i++) {
        c->types[i] = type_of(t, i);
        c->tokens[i] = mr_table_text(&t->model.table, i);
    }
    c->v.tokens = c->tokens;
    c->v.types = c->types;
    c->v.n_tokens = n;
    return name_missing(t, c, n);
}

/* ---- merges ------------------------------------------------------------------------------ */

/* Indices of merges in the order of rank: ranks are 0.., each once, in tokenizer.json. */
static mr_err by_rank(const mr_bpe *m, uint32_t **out)
{
    uint32_t top = 0;
    for (uint32_t i = 0; i < m->n_merges; i++)
        top = m->merge[i].rank > top ? m->merge[i].rank : top;
    *out = mr_alloc(MR_MEM_TOKENIZER, ((size_t)top + 1) * sizeof **out);
    if (!*out)
        return MR_ENOMEM;
    memset(*out, 0xFF, ((size_t)top + 1) * sizeof **out);
    for (uint32_t i = 0; i < m->n_merges; i++)
        (*out)[m->merge[i].rank] = i;
    return MR_OK;
}

static mr_err copy_merges(const mr_tokenizer *t, mr_vocab_copy *c)
{
    const mr_bpe *m = &t->model;
    uint32_t *order = NULL, top = 0;
    size_t *ends = mr_alloc(MR_MEM_TOKENIZER, ((size_t)m->n_merges + 1) * sizeof *ends), n = 0;
    c->merges = mr_alloc(MR_MEM_TOKENIZER, ((size_t)m->n_merges + 1) * sizeof *c->merges);
    mr_err err = ends && c->merges ? by_rank(m, &order) : MR_ENOMEM;
    for (uint32_t i = 0; i < m->n_merges; i++)
        top = m->merge[i].rank > top ? m->merge[i].rank : top;
    for (uint32_t r = 0; !err && m->n_merges && r <= top; r++) {
        if (order[r] == UINT32_MAX)
            continue;
        mr_str left = mr_table_text(&m->table, m->merge[order[r]].left),
               right = mr_table_text(&m->table, m->merge[order[r]].right);
        mr_buf_add(&c->merge_text, left.data, left.len);
        mr_buf_putc(&c->merge_text, ' ');
        mr_buf_add(&c->merge_text, right.data, right.len);
        ends[n++] = c->merge_text.len;
    }
    if (!err)
        err = mr_buf_check(&c->merge_text);
    for (size_t i = 0; !err && i < n; i++) {
        size_t start = i ? ends[i - 1] : 0;
        c->merges[i] = (mr_str){c->merge_text.data + start, ends[i] - start};
    }
    c->v.merges = c->merges;
    c->v.n_merges = (int32_t)n;
    mr_free(order);
    mr_free(ends);
    return err;
}

static mr_err copy_scores(const mr_tokenizer *t, mr_vocab_copy *c)
{
    const mr_bpe *m = &t->model;
    c->scores = mr_alloc(MR_MEM_TOKENIZER, (size_t)c->v.n_tokens * sizeof *c->scores);
    if (!c->scores)
        return MR_ENOMEM;
    for (int32_t i = 0; i < c->v.n_tokens; i++)
        c->scores[i] = c->types[i] == TYPE_NORMAL ? -1e9f : 0;
    for (uint32_t i = 0; i < m->n_merges; i++) {
        float score = -(float)m->merge[i].rank;
        float *s = &c->scores[m->merge[i].id];
        *s = *s == 0 || *s < score ? score : *s;
    }
    c->v.scores = c->scores;
    c->v.n_merges = -1;
    return MR_OK;
}

/* ---- both kinds -------------------------------------------------------------------------- */

static bool is_literal(const mr_pattern *p, const char *text)
{
    return !p->regex && p->len == strlen(text) && memcmp(p->literal, text, p->len) == 0;
}

/* Spaces become marks, perhaps with one in front; nothing else is done to the text. */
static bool marks_spaces(const mr_tokenizer *t, bool *prefix)
{
    const mr_norm *n = &t->norm;
    size_t i = 0;
    *prefix =
        n->n > 0 && n->v[0].kind == MR_NORM_PREPEND && n->v[0].content_len == strlen(space_mark);
    i += *prefix;
    if (n->n != i + 1 || n->v[i].kind != MR_NORM_REPLACE || !is_literal(&n->v[i].pattern, " ") ||
        n->v[i].content_len != strlen(space_mark))
        return false;
    for (size_t k = 0; k < t->pre.n; k++) /* Gemma splits at spaces, of which there are none left */
        if (t->pre.v[k].kind != MR_PRE_SPLIT || !is_literal(&t->pre.v[k].pattern, " "))
            return false;
    return t->model.byte_fallback;
}

/* GGUF's tokens are found as they stand, whatever is beside them. */
static mr_err check_added(const mr_tokenizer *t)
{
    for (size_t i = 0; i < t->added.n; i++) {
        const mr_added_token *a = &t->added.v[i];
        mr_str s = mr_table_text(&t->model.table, a->id);
        if (a->lstrip || a->rstrip || a->single_word || a->changed)
            return mr_fail(MR_EUNSUPPORTED,
                           "GGUF cannot say that the added token \"%.*s\" minds its neighbours",
                           (int)(s.len < 60 ? s.len : 60), s.data);
    }
    return MR_OK;
}

static mr_err fill(const mr_tokenizer *t, int32_t n, mr_vocab_copy *c)
{
    bool prefix = false, bytes = false;
    for (size_t i = 0; i < t->pre.n; i++)
        bytes |= t->pre.v[i].kind == MR_PRE_BYTES;
    c->v = (mr_vocab){.model = "gpt2",
                      .bos = t->bos,
                      .eos = t->eos,
                      .unk = t->model.unk >= 0 ? t->model.unk : -1,
                      .add_bos = t->prefix.n > 0,
                      .add_eos = t->suffix.n > 0,
                      .add_space_prefix = -1,
                      .n_merges = -1,
                      .chat_template = t->chat_template};
    if (t->prefix.n > 1 || t->suffix.n > 1 || (t->prefix.n && t->prefix.id[0] != t->bos))
        return mr_fail(MR_EUNSUPPORTED, "GGUF cannot say what this tokenizer adds around a text");
    if (!bytes && !marks_spaces(t, &prefix))
        return mr_fail(MR_EUNSUPPORTED, "GGUF cannot say how this tokenizer reads a text");
    if (t->unigram.nodes)
        return mr_fail(MR_EUNSUPPORTED, "GGUF files of Unigram models are not written");
    MR_TRY(check_added(t));
    MR_TRY(copy_tokens(t, c, n > t->model.table.n ? n : t->model.table.n));
    if (bytes) {
        MR_TRY(find_pre(t, &c->v.pre));
        return copy_merges(t, c);
    }
    c->v.model = "llama";
    c->v.add_space_prefix = prefix;
    return copy_scores(t, c);
}

mr_err mr_vocab_of(const mr_tokenizer *t, int32_t n, mr_vocab_copy *out)
{
    memset(out, 0, sizeof *out);
    mr_err err = fill(t, n, out);
    if (err)
        mr_vocab_copy_free(out);
    return err;
}

void mr_vocab_copy_free(mr_vocab_copy *c)
{
    mr_free(c->tokens);
    mr_free(c->merges);
    mr_free(c->scores);
    mr_free(c->types);
    mr_buf_free(&c->text);
    mr_buf_free(&c->merge_text);
    memset(c, 0, sizeof *c);
}
