/* The parts of a tokenizer as the members of tokenizer.json, one after the other.
 *
 * Every token is in the model's vocabulary, also those that are found whole: the package then keeps
 * their ids.  Of several tokens of one text only the one that encoding gives is written.
 *
 * A SentencePiece vocabulary ranks pieces, a tokenizer.json ranks merges: the cuts of one piece stand
 * next to each other, in the order of the ids of their parts.  Only where two cuts of one piece
 * overlap in a text ("ab" "a" "ba") can the order between them matter.
 */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "text/tokenizer_parts.h"
#include "text/tokenizer_write.h"

static void put_str(mr_buf *b, mr_str s)
{
    mr_buf_json(b, s.data, s.len);
}

static void put_z(mr_buf *b, const char *s)
{
    mr_buf_json(b, s, strlen(s));
}

static const char *truth(bool v)
{
    return v ? "true" : "false";
}

static mr_err unwritable(const char *what)
{
    return mr_fail(MR_EUNSUPPORTED, "this tokenizer's %s cannot be written as a tokenizer.json",
                   what);
}

/* The token that encoding gives for this one's text. */
static bool is_written(const mr_table *table, int32_t id)
{
    mr_str s = mr_table_text(table, id);
    return s.len && mr_table_find_any(table, s.data, s.len) == id;
}

/* ---- steps ------------------------------------------------------------------------------- */

static void put_pattern(mr_buf *b, const mr_pattern *p)
{
    mr_buf_puts(b, p->regex ? "\"pattern\": {\"Regex\": " : "\"pattern\": {\"String\": ");
    put_str(b, p->regex ? mr_regex_pattern(p->regex) : (mr_str){p->literal, p->len});
    mr_buf_puts(b, "}");
}

static mr_err put_norm(mr_buf *b, const mr_norm_step *s)
{
    mr_str content = {s->content, s->content_len};
    switch (s->kind) {
    case MR_NORM_FORM:
        if (s->form != MR_NFC)
            return unwritable("normal form");
        mr_buf_puts(b, "{\"type\": \"NFC\"}");
        return MR_OK;
    case MR_NORM_PREPEND:
        mr_buf_puts(b, "{\"type\": \"Prepend\", \"prepend\": ");
        put_str(b, content);
        mr_buf_puts(b, "}");
        return MR_OK;
    case MR_NORM_REPLACE:
        mr_buf_puts(b, "{\"type\": \"Replace\", ");
        put_pattern(b, &s->pattern);
        mr_buf_puts(b, ", \"content\": ");
        put_str(b, content);
        mr_buf_puts(b, "}");
        return MR_OK;
    default:
        return unwritable("normaliser");
    }
}

static mr_err put_pre(mr_buf *b, const mr_pretok_step *s)
{
    if (s->kind == MR_PRE_BYTES) {
        mr_buf_puts(b, "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
                       "\"trim_offsets\": true, \"use_regex\": false}");
        return MR_OK;
    }
    if (s->kind != MR_PRE_SPLIT || s->behavior != MR_ISOLATED || s->invert)
        return unwritable("pre-tokeniser");
    mr_buf_puts(b, "{\"type\": \"Split\", ");
    put_pattern(b, &s->pattern);
    mr_buf_puts(b, ", \"behavior\": \"Isolated\", \"invert\": false}");
    return MR_OK;
}

static mr_err put_dec(mr_buf *b, const mr_dec_step *s)
{
    switch (s->kind) {
    case MR_DEC_BYTE_LEVEL:
        mr_buf_puts(b, "{\"type\": \"ByteLevel\", \"add_prefix_space\": true, "
                       "\"trim_offsets\": true, \"use_regex\": true}");
        return MR_OK;
    case MR_DEC_BYTE_FALLBACK:
        mr_buf_puts(b, "{\"type\": \"ByteFallback\"}");
        return MR_OK;
    case MR_DEC_FUSE:
        mr_buf_puts(b, "{\"type\": \"Fuse\"}");
        return MR_OK;
    case MR_DEC_REPLACE:
        mr_buf_puts(b, "{\"type\": \"Replace\", ");
        put_pattern(b, &s->pattern);
        mr_buf_puts(b, ", \"content\": ");
        put_str(b, (mr_str){s->content, s->content_len});
        mr_buf_puts(b, "}");
        return MR_OK;
    case MR_DEC_STRIP:
        mr_buf_puts(b, "{\"type\": \"Strip\", \"content\": ");
        put_str(b, (mr_str){s->pattern.literal, s->pattern.len});
        mr_buf_printf(b, ", \"start\": %zu, \"stop\": %zu}", s->start, s->stop);
        return MR_OK;
    default:
        return unwritable("decoder");
    }
}

/* A section of several steps; null without any. */
static void open_steps(mr_buf *b, const char *key, const char *list, size_t n)
{
    mr_buf_printf(b, "  \"%s\": ", key);
    if (n)
        mr_buf_printf(b, "{\"type\": \"Sequence\", \"%s\": [\n    ", list);
    else
        mr_buf_puts(b, "null");
}

static mr_err put_steps(const mr_tokenizer *t, mr_buf *b)
{
    open_steps(b, "normalizer", "normalizers", t->norm.n);
    for (size_t i = 0; i < t->norm.n; i++) {
        mr_buf_puts(b, i ? ",\n    " : "");
        MR_TRY(put_norm(b, &t->norm.v[i]));
    }
    mr_buf_puts(b, t->norm.n ? "]},\n" : ",\n");
    open_steps(b, "pre_tokenizer", "pretokenizers", t->pre.n);
    for (size_t i = 0; i < t->pre.n; i++) {
        mr_buf_puts(b, i ? ",\n    " : "");
        MR_TRY(put_pre(b, &t->pre.v[i]));
    }
    mr_buf_puts(b, t->pre.n ? "]},\n" : ",\n");
    open_steps(b, "decoder", "decoders", t->decoder.n);
    for (size_t i = 0; i < t->decoder.n; i++) {
        mr_buf_puts(b, i ? ",\n    " : "");
        MR_TRY(put_dec(b, &t->decoder.v[i]));
    }
    mr_buf_puts(b, t->decoder.n ? "]},\n" : ",\n");
    return MR_OK;
}

/* ---- what is added around a text --------------------------------------------------------- */

static void put_around(const mr_tokenizer *t, mr_buf *b, const mr_ids *ids, bool behind)
{
    for (size_t i = 0; i < ids->n; i++) {
        mr_buf_puts(b, behind ? ", " : "");
        mr_buf_puts(b, "{\"SpecialToken\": {\"id\": ");
        put_str(b, mr_table_text(&t->model.table, ids->id[i]));
        mr_buf_puts(b, ", \"type_id\": 0}}");
        mr_buf_puts(b, behind ? "" : ", ");
    }
}

static void put_special(const mr_tokenizer *t, mr_buf *b, const mr_ids *ids, bool *first)
{
    for (size_t i = 0; i < ids->n; i++) {
        mr_str s = mr_table_text(&t->model.table, ids->id[i]);
        mr_buf_puts(b, *first ? "" : ", ");
        *first = false;
        put_str(b, s);
        mr_buf_puts(b, ": {\"id\": ");
        put_str(b, s);
        mr_buf_printf(b, ", \"ids\": [%d], \"tokens\": [", ids->id[i]);
        put_str(b, s);
        mr_buf_puts(b, "]}");
    }
}

static bool same_ends(const mr_tokenizer *t)
{
    return t->prefix.n && t->suffix.n && t->prefix.id[0] == t->suffix.id[0];
}

static void put_post(const mr_tokenizer *t, mr_buf *b)
{
    bool first = true;
    mr_buf_puts(b, "  \"post_processor\": ");
    if (!t->prefix.n && !t->suffix.n) {
        mr_buf_puts(b, "null,\n");
        return;
    }
    mr_buf_puts(b, "{\"type\": \"TemplateProcessing\", \"single\": [");
    put_around(t, b, &t->prefix, false);
    mr_buf_puts(b, "{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}");
    put_around(t, b, &t->suffix, true);
    mr_buf_puts(b, "],\n    \"pair\": [");
    put_around(t, b, &t->prefix, false);
    mr_buf_puts(b, "{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}");
    put_around(t, b, &t->suffix, true);
    mr_buf_puts(b, ", ");
    put_around(t, b, &t->prefix, false);
    mr_buf_puts(b, "{\"Sequence\": {\"id\": \"B\", \"type_id\": 1}}");
    put_around(t, b, &t->suffix, true);
    mr_buf_puts(b, "],\n    \"special_tokens\": {");
    put_special(t, b, &t->prefix, &first);
    if (!same_ends(t))
        put_special(t, b, &t->suffix, &first);
    mr_buf_puts(b, "}},\n");
}

/* ---- tokens ------------------------------------------------------------------------------ */

/* The package wants them in the order of their ids, which is how a vocabulary adds them. */
static void put_added(const mr_tokenizer *t, mr_buf *b)
{
    mr_buf_puts(b, "  \"added_tokens\": [");
    for (size_t i = 0; i < t->added.n; i++) {
        const mr_added_token *a = &t->added.v[i];
        mr_buf_printf(b, "%s\n    {\"id\": %d, \"content\": ", i ? "," : "", a->id);
        put_str(b, mr_table_text(&t->model.table, a->id));
        mr_buf_printf(b,
                      ", \"single_word\": %s, \"lstrip\": %s, \"rstrip\": %s, "
                      "\"normalized\": %s, \"special\": %s}",
                      truth(a->single_word), truth(a->lstrip), truth(a->rstrip),
                      truth(a->when == MR_ADDED_NORMALIZED), truth(a->special));
    }
    mr_buf_puts(b, t->added.n ? "\n  ],\n" : "],\n");
}

static int by_rank(const void *x, const void *y)
{
    const mr_merge *a = x, *b = y;
    if (a->rank != b->rank)
        return a->rank < b->rank ? -1 : 1;
    if (a->left != b->left)
        return a->left < b->left ? -1 : 1;
    return (a->right > b->right) - (a->right < b->right);
}

static mr_err put_merges(const mr_bpe *m, mr_buf *b)
{
    mr_merge *order = mr_alloc(MR_MEM_TOKENIZER, ((size_t)m->n_merges + 1) * sizeof *order);
    if (!order)
        return MR_ENOMEM;
    if (m->n_merges)
        memcpy(order, m->merge, (size_t)m->n_merges * sizeof *order);
    qsort(order, m->n_merges, sizeof *order, by_rank);
    mr_buf_puts(b, "    \"merges\": [");
    for (uint32_t i = 0; i < m->n_merges; i++) {
        mr_buf_puts(b, i ? ",\n      [" : "\n      [");
        put_str(b, mr_table_text(&m->table, order[i].left));
        mr_buf_puts(b, ", ");
        put_str(b, mr_table_text(&m->table, order[i].right));
        mr_buf_puts(b, "]");
    }
    mr_buf_puts(b, "\n    ]\n");
    mr_free(order);
    return MR_OK;
}

static mr_err put_model(const mr_bpe *m, mr_buf *b)
{
    const mr_table *table = &m->table;
    bool first = true;
    mr_buf_puts(b, "  \"model\": {\n    \"type\": \"BPE\", \"dropout\": null, \"unk_token\": ");
    if (m->unk >= 0)
        put_str(b, mr_table_text(table, m->unk));
    else
        mr_buf_puts(b, "null");
    mr_buf_printf(b,
                  ",\n    \"continuing_subword_prefix\": null, \"end_of_word_suffix\": null,\n"
                  "    \"fuse_unk\": %s, \"byte_fallback\": %s, \"ignore_merges\": %s,\n"
                  "    \"vocab\": {",
                  truth(m->fuse_unk), truth(m->byte_fallback), truth(m->ignore_merges));
    for (int32_t id = 0; id < table->n; id++) {
        if (!is_written(table, id))
            continue;
        mr_buf_puts(b, first ? "\n      " : ",\n      ");
        put_str(b, mr_table_text(table, id));
        mr_buf_printf(b, ": %d", id);
        first = false;
    }
    mr_buf_puts(b, "\n    },\n");
    MR_TRY(put_merges(m, b));
    mr_buf_puts(b, "  }\n");
    return MR_OK;
}

mr_err mr_tokenizer_write(const mr_tokenizer *t, mr_buf *out)
{
    if (t->unigram.nodes)
        return unwritable("Unigram model");
    mr_buf_puts(out, "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n");
    put_added(t, out);
    MR_TRY(put_steps(t, out));
    put_post(t, out);
    MR_TRY(put_model(&t->model, out));
    mr_buf_puts(out, "}\n");
    return mr_buf_check(out);
}

/* ---- tokenizer_config.json --------------------------------------------------------------- */

static void put_token(const mr_tokenizer *t, mr_buf *b, const char *key, int32_t id)
{
    if (id < 0)
        return;
    mr_buf_printf(b, "  \"%s\": ", key);
    put_str(b, mr_table_text(&t->model.table, id));
    mr_buf_puts(b, ",\n");
}

mr_err mr_tokenizer_write_config(const mr_tokenizer *t, mr_buf *out)
{
    mr_buf_puts(out, "{\n");
    put_token(t, out, "bos_token", t->bos);
    put_token(t, out, "eos_token", t->eos);
    put_token(t, out, "unk_token", t->model.unk);
    mr_buf_printf(out, "  \"add_bos_token\": %s,\n  \"add_eos_token\": %s,\n",
                  truth(t->prefix.n > 0), truth(t->suffix.n > 0));
    if (t->chat_template) {
        mr_buf_puts(out, "  \"chat_template\": ");
        put_z(out, t->chat_template);
        mr_buf_puts(out, ",\n");
    }
    mr_buf_puts(out, "  \"clean_up_tokenization_spaces\": false,\n"
                     "  \"tokenizer_class\": \"PreTrainedTokenizerFast\"\n}\n");
    return mr_buf_check(out);
}
