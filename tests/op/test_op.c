/* The op suite: every op, over its attributes, on every backend, against numbers that PyTorch gave
 * in float64 (tests/op/data); then with all passes, which may change no bit; then every weight
 * format. */
#include "op/backends.h"
#include "op/vectors.h"

#include <math.h>

static const char *const files[] = {"rows",    "views",     "rope", "attention",
                                    "experts", "recurrent", "fused"};
enum { FILES = sizeof files / sizeof *files };

/* ---- the stored cases ---- */

typedef struct results {
    unsigned char *bytes;
    size_t n;
} results;

static void check_want(const op_case *c, const backend_row *row, int run, const numbers *w,
                       const float *got, int64_t n)
{
    const int32_t *ints = (const int32_t *)got;
    assert_int_equal((n + w->stride - 1) / w->stride, w->count);
    for (int i = 0; i < w->count; i++) {
        double want = w->ints ? w->i[i] : (double)w->f[i];
        double have = w->ints ? ints[i * w->stride] : (double)got[i * w->stride];
        if (!(fabs(have - want) <= (w->ints ? 0 : c->tol[row->tolerance] * (1 + fabs(want)))))
            fail_msg("%s: case \"%s\" on %s, run %d: %s[%d] is %.9g, not %.9g", c->file, c->name,
                     row->name, run, w->name, i * w->stride, have, want);
    }
}

static const numbers *find_want(const op_run *r, const char *name)
{
    for (int i = 0; i < r->n_wants; i++)
        if (!strcmp(r->want[i].name, name))
            return &r->want[i];
    fail_msg("no numbers for output %s", name);
    return NULL;
}

/* All runs of a case; every output is checked, and its bytes added to `all`. */
static void run_case(op_case *c, const backend_row *row, mr_backend *b, const mr_graph *g,
                     results *all)
{
    machine m;
    source src = {case_lookup, case_read, c};
    int rows = 1, outs = 0;
    for (int i = 0; i < c->n_runs; i++) {
        rows = c->run[i].rows > rows ? c->run[i].rows : rows;
        outs = c->run[i].outs > outs ? c->run[i].outs : outs;
    }
    machine_open(&m, b, g, rows, outs, &src);
    for (int i = 0; i < c->n_runs; i++) {
        const op_run *r = &c->run[i];
        named in[MAX_INPUTS];
        for (int k = 0; k < r->n_inputs; k++)
            in[k] = (named){r->input[k].name, r->input[k].ints ? (const void *)r->input[k].i
                                                               : (const void *)r->input[k].f};
        if (machine_try(&m, r->rows, r->outs, r->pos, r->slot, in, r->n_inputs) != MR_OK)
            fail_msg("%s: case \"%s\" on %s: %s", c->file, c->name, row->name, mr_error());
        assert_int_equal(m.plan->n_outputs, r->n_wants);
        for (int k = 0; k < m.plan->n_outputs; k++) {
            int64_t n;
            const float *y = machine_output(&m, k, &n);
            check_want(c, row, i, find_want(r, m.plan->output_names[k]), y, n);
            all->bytes = realloc(all->bytes, all->n + (size_t)n * 4);
            memcpy(all->bytes + all->n, y, (size_t)n * 4);
            all->n += (size_t)n * 4;
        }
    }
    machine_close(&m);
}

static void same_results(const op_case *c, const char *name, const results *a, const results *b,
                         const char *what)
{
    if (a->n != b->n || memcmp(a->bytes, b->bytes, a->n))
        fail_msg("%s: case \"%s\" on %s: %s changes bits", c->file, c->name, name, what);
}

/* As it stands (ref: expanded), expanded, and with all passes: right each time, and the same bits.
 */
static void run_ways(op_case *c, const backend_row *row, mr_backend *b, const mr_graph *g,
                     results *all)
{
    results plain = {0}, passed = {0};
    mr_graph *expanded, *fused;
    OK(mr_graph_expand(g, &expanded));
    OK(mr_passes_run(g, b, NULL, &fused, NULL));
    run_case(c, row, b, expanded, &plain);
    run_case(c, row, b, fused, &passed);
    same_results(c, row->name, &plain, &passed, "fusing");
    if (strcmp(b->v->name, "ref")) { /* which has no fused ops */
        run_case(c, row, b, g, all);
        same_results(c, row->name, &plain, all, "expanding");
        free(plain.bytes);
    } else {
        *all = plain;
    }
    free(passed.bytes);
    mr_graph_free(expanded);
    mr_graph_free(fused);
}

/* On every backend that is here; all cpu rows must agree to the bit. */
static void run_on_all(op_case *c, bool *seen)
{
    mr_graph *g = graph_of_text(c->name, c->graph.data);
    results cpu = {0};
    for (int i = 0; i < mr_graph_nodes(g); i++)
        seen[mr_graph_node(g, i)->op] = true;
    for (int i = 0; i < BACKENDS; i++) {
        const backend_row *row = &backend_rows[i];
        mr_backend *b = open_row(row);
        results all = {0};
        if (!b)
            continue;
        run_ways(c, row, b, g, &all);
        if (!strcmp(b->v->name, "cpu") && cpu.bytes)
            same_results(c, row->name, &cpu, &all, "this ISA or thread count");
        if (!strcmp(b->v->name, "cpu") && !cpu.bytes)
            cpu = all;
        else
            free(all.bytes);
        b->v->close(b);
    }
    free(cpu.bytes);
    mr_graph_free(g);
}

static void every_op_on_every_backend(void **state)
{
    (void)state;
    bool seen[MR_OP_COUNT] = {false};
    int cases = 0;
    for (int i = 0; i < FILES; i++) {
        char path[64];
        snprintf(path, sizeof path, "tests/op/data/%s.txt", files[i]);
        char *text = read_file(path), *at = text;
        op_case *c = malloc(sizeof *c);
        for (; next_case(c, path, &at); cases++) {
            run_on_all(c, seen);
            free_case(c);
        }
        free_case(c);
        free(c);
        mr_free(text);
    }
    assert_true(cases > 100);
    for (int op = 0; op < MR_OP_COUNT; op++)
        if (!seen[op])
            fail_msg("no case has op %s", mr_op_get((mr_op)op)->name);
}

/* ---- weight formats ---- */

static const char *const formats[] = {
    "f32",
    "bf16",
    "f16",
    "q4_0",
    "q4_1",
    "q8_0",
    "q6_k",
    "affine4/32/bf16",
    "affine4/64/f16",
    "affine8/64/f32",
    "affine8/128/bf16",
};

/* y = x w^T from rows as the file's format defines them. */
static void naive_linear(const char *name, const float *x, int rows, int n, int k, double *y,
                         double *size)
{
    tensors *t = calloc(1, sizeof *t);
    mr_stored s;
    mr_rows r;
    OK(made_up_lookup(t, name, &s));
    void *buf = malloc(mr_stored_bytes(&s, n));
    float *w = malloc((size_t)k * sizeof *w);
    OK(made_up_read(t, &s, 0, n, buf, &r));
    for (int j = 0; j < n; j++) {
        mr_dequant_row(&r, j, w);
        for (int i = 0; i < rows; i++) {
            y[i * n + j] = size[i * n + j] = 0;
            for (int e = 0; e < k; e++) {
                y[i * n + j] += (double)x[i * k + e] * w[e];
                size[i * n + j] += fabs((double)x[i * k + e] * w[e]);
            }
        }
    }
    free(w);
    free(buf);
    free(t);
}

static void check_format(mr_backend *b, const char *fmt, int rows, int n, int k)
{
    char text[512], name[64];
    static float x[40 * 512];
    static double want[40 * 100], size[40 * 100];
    static int32_t pos[40], ids[40];
    snprintf(name, sizeof name, "w@%dx%d@%s", n, k, fmt);
    snprintf(
        text, sizeof text,
        "graph \"g\" { %%x: f32[ROWS,%d] = input name=\"x\" %%ids: i32[ROWS] = input name=\"ids\"\n"
        "%%w: weight<%s>[%d,%d] = weight recipe=\"%s\" %%y = linear(%%x, %%w) %%e = embed(%%ids, "
        "%%w)\n"
        "%%z = linear(%%e, %%w) output %%y as \"y\" output %%e as \"e\" output %%z as \"z\" }",
        k, fmt, n, k, name);
    for (int i = 0; i < rows * k; i++)
        x[i] = made_up("x", 0, i);
    for (int i = 0; i < rows; i++) {
        pos[i] = i;
        ids[i] = i * 7 % n;
    }
    naive_linear(name, x, rows, n, k, want, size);
    mr_graph *g = graph_of_text("g", text);
    machine m;
    named in[] = {{"x", x}, {"ids", ids}};
    int64_t count;
    machine_open(&m, b, g, rows, 0, NULL);
    OK(machine_try(&m, rows, 0, pos, NULL, in, 2));
    for (int turn = 0; turn < 2; turn++) {
        const float *y = machine_output(&m, turn ? 2 : 0, &count);
        assert_int_equal(count, rows * n);
        for (int i = 0; i < rows * n; i++)
            if (!(fabs((double)y[i] - want[i]) <= 2e-6 * (size[i] + 1e-3)))
                fail_msg("%s, %d rows, %dx%d: element %d is %.9g, not %.9g", fmt, rows, n, k, i,
                         (double)y[i], want[i]);
        /* what embed gives is a row of the matrix: its products are known, too */
        naive_linear(name, machine_output(&m, 1, &count), rows, n, k, want, size);
    }
    machine_close(&m);
    mr_graph_free(g);
}

static void every_format_on_every_backend(void **state)
{
    (void)state;
    for (int i = 0; i < BACKENDS; i++) {
        mr_backend *b = open_row(&backend_rows[i]);
        for (size_t f = 0; b && f < sizeof formats / sizeof *formats; f++) {
            check_format(b, formats[f], 1, 40, 256);
            check_format(b, formats[f], 3, 17, 512);
            check_format(b, formats[f], 37, 33, 256);
        }
        if (b)
            b->v->close(b);
    }
}

/* ---- what a caller may get wrong ---- */

static void bad_ids_are_errors(void **state)
{
    (void)state;
    static const char graph[] =
        "graph \"g\" { %ids: i32[ROWS] = input name=\"ids\" %rows: i32[OUT] = input "
        "name=\"out_rows\"\n"
        "%e: i32[ROWS,1] = input name=\"e\" %t: weight<f32>[10,8] = weight recipe=\"t@10x8\"\n"
        "%w: weight<f32>[4,8,8] = weight recipe=\"w.{0..3}@8x8\" %x = embed(%ids, %t)\n"
        "%y = expert_linear(%x, %w, %e) %f = heads(%y) n=0 %z = gather(%f, %rows) output %z as "
        "\"z\" }";
    static const struct {
        int32_t ids[2], rows[1], e[2];
        const char *message;
    } bad[] = {
        {{0, 10}, {0}, {0, 0}, "embed"},
        {{-1, 0}, {0}, {0, 0}, "embed"},
        {{0, 0}, {2}, {0, 0}, "gather"},
        {{0, 0}, {-1}, {0, 0}, "gather"},
        {{0, 0}, {0}, {0, 4}, "expert_linear"},
        {{0, 0}, {0}, {INT32_MIN, 0}, "expert_linear"},
        {{9, 0}, {1}, {3, 0}, NULL},
    };
    static const int32_t pos[2] = {0, 1};
    for (int i = 0; i < 1; i++) { /* ref; other backends are given checked ids by run/ */
        mr_backend *b = open_row(&backend_rows[i]);
        mr_graph *g = graph_of_text("g", graph);
        machine m;
        machine_open(&m, b, g, 2, 1, NULL);
        for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
            named in[] = {{"ids", bad[k].ids}, {"out_rows", bad[k].rows}, {"e", bad[k].e}};
            mr_err err = machine_try(&m, 2, 1, pos, NULL, in, 3);
            assert_int_equal(err, bad[k].message ? MR_EUSAGE : MR_OK);
            if (bad[k].message)
                assert_non_null(strstr(mr_error(), bad[k].message));
        }
        machine_close(&m);
        mr_graph_free(g);
        b->v->close(b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_op_on_every_backend),
        cmocka_unit_test(every_format_on_every_backend),
        cmocka_unit_test(bad_ids_are_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
