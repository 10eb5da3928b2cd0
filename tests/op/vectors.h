/* Reading the files of tests/op/data, which tools/op_vectors.py writes and describes. */
#ifndef MR_TESTS_OP_VECTORS_H
#define MR_TESTS_OP_VECTORS_H

#include "compile/harness.h"

enum { MAX_TENSORS = 8, MAX_RUNS = 8, MAX_INPUTS = 8, MAX_WANTS = 4, MAX_ROWS = 160 };

typedef struct numbers {
    char name[32];
    bool ints;
    int count, stride;
    float *f;
    int32_t *i;
} numbers;

typedef struct stored {
    char name[32];
    mr_fmt fmt;
    int64_t rows, k;
    numbers data;
} stored;

typedef struct op_run {
    int rows, outs;
    int32_t pos[MAX_ROWS], slot[MAX_ROWS];
    numbers input[MAX_INPUTS], want[MAX_WANTS];
    int n_inputs, n_wants;
} op_run;

typedef struct op_case {
    const char *file;
    char name[128];
    double tol[2];
    mr_buf graph;
    stored tensor[MAX_TENSORS];
    op_run run[MAX_RUNS];
    int n_tensors, n_runs;
} op_case;

/* The rest of a line, word by word. */
typedef struct words {
    char *at;
} words;

static inline char *word(words *w)
{
    char *s = strtok_r(w->at, " ", &w->at);
    assert_non_null(s);
    return s;
}

static inline int word_int(words *w)
{
    return (int)strtol(word(w), NULL, 10);
}

static inline void keep(numbers *n, const char *text)
{
    n->f = realloc(n->f, (size_t)(n->count + 1) * sizeof *n->f);
    n->i = realloc(n->i, (size_t)(n->count + 1) * sizeof *n->i);
    n->f[n->count] = strtof(text, NULL);
    n->i[n->count] = n->ints ? (int32_t)strtol(text, NULL, 10) : 0;
    n->count++;
}

static inline void read_words(numbers *n, words *w)
{
    for (char *s; (s = strtok_r(w->at, " ", &w->at));)
        keep(n, s);
}

/* "gen SEED COUNT": multiples of 1/64 in [-2, 2), as the tool makes them; "is V..", NULL without numbers */
static inline void read_data(numbers *n, words *w)
{
    if (!strcmp(word(w), "is")) {
        read_words(n, w);
        return;
    }
    uint32_t x = (uint32_t)strtoul(word(w), NULL, 10) * 2654435761u + 12345;
    n->count = word_int(w);
    n->f = malloc((size_t)n->count * sizeof *n->f);
    for (int i = 0; i < n->count; i++) {
        x = x * 1664525u + 1013904223u;
        n->f[i] = (float)((int)(x >> 16 & 255) - 128) / 64;
    }
}

static inline void read_name(numbers *n, words *w)
{
    snprintf(n->name, sizeof n->name, "%s", word(w));
    n->ints = *word(w) == 'i';
}

static inline void read_tensor(op_case *c, words *w)
{
    assert_true(c->n_tensors < MAX_TENSORS);
    stored *t = &c->tensor[c->n_tensors++];
    snprintf(t->name, sizeof t->name, "%s", word(w));
    t->rows = word_int(w);
    t->k = word_int(w);
    assert_true(mr_fmt_parse(word(w), &t->fmt));
    read_data(&t->data, w);
    assert_int_equal(t->data.count, t->rows * t->k);
}

static inline void read_run_line(op_case *c, const char *key, words *w)
{
    if (!strcmp(key, "run")) {
        assert_true(c->n_runs < MAX_RUNS);
        op_run *r = &c->run[c->n_runs++];
        r->rows = word_int(w);
        r->outs = word_int(w);
        assert_in_range(r->rows, 1, MAX_ROWS);
        return;
    }
    assert_true(c->n_runs > 0);
    op_run *r = &c->run[c->n_runs - 1];
    if (!strcmp(key, "pos") || !strcmp(key, "slot")) {
        for (int i = 0; i < r->rows; i++)
            (*key == 'p' ? r->pos : r->slot)[i] = word_int(w);
    } else if (!strcmp(key, "input")) {
        assert_true(r->n_inputs < MAX_INPUTS);
        numbers *n = &r->input[r->n_inputs++];
        read_name(n, w);
        read_data(n, w);
    } else if (!strcmp(key, "want")) {
        assert_true(r->n_wants < MAX_WANTS);
        numbers *n = &r->want[r->n_wants++];
        read_name(n, w);
        n->stride = word_int(w);
        read_words(n, w);
    } else {
        fail_msg("%s: case %s: line \"%s\"", c->file, c->name, key);
    }
}

/* Reads the next case from *text on; false at the end. */
static inline bool next_case(op_case *c, const char *file, char **text)
{
    bool graph = false;
    *c = (op_case){.file = file};
    for (char *line; (line = strsep(text, "\n"));) {
        if (!strcmp(line, "end"))
            return true;
        if (graph || !*line) {
            mr_buf_puts(&c->graph, line);
            mr_buf_putc(&c->graph, '\n');
            graph = graph && strcmp(line, "}");
            continue;
        }
        words w = {line};
        const char *key = word(&w);
        if (!strcmp(key, "case")) {
            snprintf(c->name, sizeof c->name, "%s", w.at);
        } else if (!strcmp(key, "tol")) {
            c->tol[0] = strtod(word(&w), NULL);
            c->tol[1] = strtod(word(&w), NULL);
        } else if (!strcmp(key, "graph")) {
            graph = true;
        } else if (!strcmp(key, "weight")) {
            read_tensor(c, &w);
        } else {
            read_run_line(c, key, &w);
        }
    }
    return false;
}

static inline void free_numbers(numbers *n)
{
    free(n->f);
    free(n->i);
}

static inline void free_case(op_case *c)
{
    mr_buf_free(&c->graph);
    for (int i = 0; i < c->n_tensors; i++)
        free_numbers(&c->tensor[i].data);
    for (int i = 0; i < c->n_runs; i++) {
        for (int k = 0; k < c->run[i].n_inputs; k++)
            free_numbers(&c->run[i].input[k]);
        for (int k = 0; k < c->run[i].n_wants; k++)
            free_numbers(&c->run[i].want[k]);
    }
}

/* ---- a case's weights ---- */

static inline mr_err case_lookup(void *ctx, const char *name, mr_stored *out)
{
    op_case *c = ctx;
    for (int i = 0; i < c->n_tensors; i++)
        if (!strcmp(c->tensor[i].name, name)) {
            *out = (mr_stored){.handle = &c->tensor[i],
                               .fmt = c->tensor[i].fmt,
                               .rows = c->tensor[i].rows,
                               .k = c->tensor[i].k};
            return MR_OK;
        }
    return mr_fail(MR_EFORMAT, "case %s: tensor %s is missing", c->name, name);
}

static inline mr_err case_read(void *ctx, const mr_stored *t, int64_t row0, int64_t n, void *buf,
                               mr_rows *out)
{
    (void)ctx;
    const float *f = ((const stored *)t->handle)->data.f + row0 * t->k;
    for (int64_t i = 0; i < n * t->k; i++)
        if (t->fmt.dtype == MR_F32)
            ((float *)buf)[i] = f[i];
        else
            ((uint16_t *)buf)[i] =
                t->fmt.dtype == MR_BF16 ? mr_f32_to_bf16(f[i]) : mr_f32_to_f16(f[i]);
    *out = (mr_rows){.dtype = t->fmt.dtype, .n = n, .k = t->k, .data = buf};
    return MR_OK;
}

#endif
