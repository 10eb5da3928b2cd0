/* Row ops: every row (and head) is one call of a row kernel; long elementwise rows are cut into
 * pieces, so that a single row of logits is spread over the threads too. */
#include "backend/cpu/cpu_backend.h"

#include <string.h>

enum { PIECE = 4096 }; /* elements of an elementwise piece */

/* Elementwise y = f(a, b): pieces numbered row by row, head by head. */
typedef struct pieces {
    const mr_cpu *cpu;
    mr_op op;
    float p;
    mr_view y, a, b;
    int64_t per_head; /* pieces */
} pieces;

static void run_pieces(const void *ctx, int64_t first, int64_t last, int worker)
{
    (void)worker;
    const pieces *s = ctx;
    const mr_vec_kernels *vec = s->cpu->vec;
    for (int64_t i = first; i < last; i++) {
        int64_t at = i % s->per_head * PIECE, h = i / s->per_head % s->y.heads;
        int64_t r = i / s->per_head / s->y.heads;
        int64_t n = s->y.dim - at < PIECE ? s->y.dim - at : PIECE;
        float *y = s->y.p + r * s->y.row + h * s->y.head + at;
        const float *a = s->a.p + r * s->a.row + h * s->a.head + at;
        const float *b = s->b.p + r * s->b.row + h * s->b.head + at;
        if (s->op == MR_OP_ADD)
            vec->add(y, a, b, n);
        else if (s->op == MR_OP_MUL)
            vec->mul(y, a, b, n);
        else
            vec->map(s->op, s->p, y, a, n);
    }
}

/* Heads that lie end to end are one long row. */
static bool is_flat(const mr_view *v)
{
    return v->heads == 1 || v->head == v->dim;
}

static mr_err elementwise(const mr_cpu_call *c, mr_view y, mr_view a, mr_view b, int64_t cost)
{
    const float *w = c->prep->op == MR_OP_SCALE ? mr_cpu_vector(c, 1) : NULL;
    if (is_flat(&y) && is_flat(&a) && is_flat(&b)) {
        y.dim *= y.heads;
        y.heads = 1;
    }
    pieces s = {c->cpu, c->prep->op, w ? *w : c->prep->p, y, a, b, (y.dim + PIECE - 1) / PIECE};
    int64_t piece = y.dim < PIECE ? y.dim : PIECE;
    mr_cpu_split(c->cpu, y.rows * y.heads * s.per_head, piece * cost, run_pieces, &s);
    return MR_OK;
}

mr_err mr_run_pairwise(const mr_cpu_call *c)
{
    return elementwise(c, mr_cpu_out(c, 0), mr_cpu_in(c, 0), mr_cpu_in(c, 1), 1);
}

mr_err mr_run_map(const mr_cpu_call *c)
{
    mr_view x = mr_cpu_in(c, 0);
    return elementwise(c, mr_cpu_out(c, 0), x, x, c->prep->op == MR_OP_SCALE ? 1 : 8);
}

/* ---- norms ---- */

typedef struct norm {
    const mr_cpu_call *c;
    mr_view y, s, a, b; /* s, b: the sum's, for add_rmsnorm */
    const float *w;
} norm;

static void run_norm(const void *ctx, int64_t first, int64_t last, int worker)
{
    (void)worker;
    const norm *n = ctx;
    const mr_vec_kernels *vec = n->c->cpu->vec;
    for (int64_t i = first; i < last; i++) {
        int64_t r = i / n->y.heads, h = i % n->y.heads;
        const float *x = n->a.p + r * n->a.row + h * n->a.head;
        if (n->s.p) {
            float *sum = n->s.p + r * n->s.row + h * n->s.head;
            vec->add(sum, x, n->b.p + r * n->b.row + h * n->b.head, n->y.dim);
            x = sum;
        }
        float *y = n->y.p + r * n->y.row + h * n->y.head;
        const mr_cpu_step *p = n->c->prep;
        if (p->op == MR_OP_L2NORM)
            vec->l2norm(y, x, p->eps, p->p, n->y.dim);
        else
            vec->rmsnorm(y, x, n->w, p->eps, p->offset, n->y.dim);
    }
}

mr_err mr_run_rmsnorm(const mr_cpu_call *c)
{
    norm n = {.c = c, .y = mr_cpu_out(c, 0), .a = mr_cpu_in(c, 0)};
    if (c->step->n_in > 1) /* l2norm has none */
        n.w = mr_cpu_vector(c, 1);
    mr_cpu_split(c->cpu, n.y.rows * n.y.heads, n.y.dim * 2, run_norm, &n);
    return MR_OK;
}

mr_err mr_run_add_rmsnorm(const mr_cpu_call *c)
{
    norm n = {.c = c,
              .s = mr_cpu_out(c, 0),
              .y = mr_cpu_out(c, 1),
              .a = mr_cpu_in(c, 0),
              .b = mr_cpu_in(c, 1),
              .w = mr_cpu_vector(c, 2)};
    mr_cpu_split(c->cpu, n.y.rows * n.y.heads, n.y.dim * 3, run_norm, &n);
    return MR_OK;
}

/* ---- rows by number ---- */

typedef struct pick {
    const mr_cpu_call *c;
    mr_view y, x;
    const int32_t *rows;
    const mr_matrix *table;
} pick;

static mr_err check_rows(const char *op, const int32_t *rows, int64_t n, int64_t limit)
{
    for (int64_t i = 0; i < n; i++)
        if (rows[i] < 0 || rows[i] >= limit)
            return mr_fail(MR_EUSAGE, "%s: row %lld asks for %d of 0..%lld", op, (long long)i,
                           (int)rows[i], (long long)limit - 1);
    return MR_OK;
}

static void run_embed(const void *ctx, int64_t first, int64_t last, int worker)
{
    (void)worker;
    const pick *s = ctx;
    for (int64_t i = first; i < last; i++) {
        float *y = s->y.p + i * s->y.row;
        mr_matrix_row(s->table, 0, s->rows[i], y);
        if (s->c->prep->p != 1.0f)
            s->c->cpu->vec->map(MR_OP_SCALE, s->c->prep->p, y, y, s->y.dim);
    }
}

mr_err mr_run_alias(const mr_cpu_call *c)
{
    const int32_t *ids = mr_cpu_ints(c, 0);
    mr_view y = mr_cpu_out(c, 0);
    for (int64_t r = 0; r < y.rows; r++) {
        bool other = false;
        for (int i = 0; i < 3; i++)
            other |= ids[r] >= 0 && ids[r] == c->prep->alias.id[i];
        ((int32_t *)y.p)[r * y.row] = other ? c->prep->alias.to : ids[r];
    }
    return MR_OK;
}

static void run_given(const void *ctx, int64_t first, int64_t last, int worker)
{
    (void)worker;
    const pick *s = ctx;
    for (int64_t i = first; i < last; i++)
        memcpy(s->y.p + i * s->y.row, s->x.p + i * s->x.row, (size_t)s->y.dim * sizeof(float));
}

mr_err mr_run_embed(const mr_cpu_call *c)
{
    pick s = {
        .c = c, .y = mr_cpu_out(c, 0), .rows = mr_cpu_ints(c, 0), .table = mr_cpu_matrix(c, 1)};
    if (mr_cpu_given(c, 2)) {
        s.x = mr_cpu_in(c, 2);
        mr_cpu_split(c->cpu, s.y.rows, s.y.dim, run_given, &s);
        return MR_OK;
    }
    MR_TRY(check_rows("embed", s.rows, s.y.rows, mr_matrix_n(s.table)));
    mr_cpu_split(c->cpu, s.y.rows, s.y.dim * 8, run_embed, &s);
    return MR_OK;
}

static void run_gather(const void *ctx, int64_t first, int64_t last, int worker)
{
    (void)worker;
    const pick *s = ctx;
    for (int64_t i = first; i < last; i++)
        memcpy(s->y.p + i * s->y.row, s->x.p + s->rows[i] * s->x.row,
               (size_t)s->y.dim * sizeof(float));
}

mr_err mr_run_gather(const mr_cpu_call *c)
{
    pick s = {.c = c, .y = mr_cpu_out(c, 0), .x = mr_cpu_in(c, 0), .rows = mr_cpu_ints(c, 1)};
    MR_TRY(check_rows("gather", s.rows, s.y.rows, s.x.rows));
    mr_cpu_split(c->cpu, s.y.rows, s.y.dim, run_gather, &s);
    return MR_OK;
}

/* ---- concat ---- */

typedef struct joined {
    mr_view y, a, b;
} joined;

static void run_concat(const void *ctx, int64_t first, int64_t last, int worker)
{
    (void)worker;
    const joined *s = ctx;
    for (int64_t i = first; i < last; i++) {
        int64_t r = i / s->y.heads, h = i % s->y.heads;
        float *y = s->y.p + r * s->y.row + h * s->y.head;
        memcpy(y, s->a.p + r * s->a.row + h * s->a.head, (size_t)s->a.dim * sizeof *y);
        memcpy(y + s->a.dim, s->b.p + r * s->b.row + h * s->b.head, (size_t)s->b.dim * sizeof *y);
    }
}

mr_err mr_run_concat(const mr_cpu_call *c)
{
    joined s = {mr_cpu_out(c, 0), mr_cpu_in(c, 0), mr_cpu_in(c, 1)};
    if (s.a.heads == 1)
        s.a.head = 0; /* repeated for all heads */
    if (s.b.heads == 1)
        s.b.head = 0;
    mr_cpu_split(c->cpu, s.y.rows * s.y.heads, s.y.dim, run_concat, &s);
    return MR_OK;
}

/* ---- sums over a table's rows ---- */

enum { MIX_ROWS = 64, MIX_WIDTH = 32 }; /* of the table at once */

typedef struct mixed {
    const mr_cpu_call *c;
    mr_view y, x;
    const mr_matrix *table;
    float *row;   /* [threads, y.dim] */
    float *probs; /* [y.rows, MIX_ROWS]: x's columns from `at` on */
    float *panel; /* [y.dim / MIX_WIDTH, MIX_ROWS, MIX_WIDTH]: the table's rows from `at` on */
    int64_t at, rows;
} mixed;

/* Floats of a panel.  What is read together lies together, here and in `probs`: rows a power of two
 * apart would all fall into a few sets of the caches. */
static size_t panel_floats(int64_t width)
{
    return ((size_t)width + MIX_WIDTH - 1) / MIX_WIDTH * MIX_WIDTH * MIX_ROWS;
}

size_t mr_mix_scratch(int threads, int64_t rows, int64_t width)
{
    size_t floats = panel_floats(width) + (size_t)rows * MIX_ROWS + (size_t)(threads * width);
    return floats * sizeof(float);
}

static int64_t mix_width(const mixed *s, int64_t at)
{
    return s->y.dim - at < MIX_WIDTH ? s->y.dim - at : MIX_WIDTH;
}

static void run_panel(const void *ctx, int64_t first, int64_t last, int worker)
{
    const mixed *s = ctx;
    float *row = s->row + worker * s->y.dim;
    for (int64_t i = first; i < last; i++) {
        mr_matrix_row(s->table, 0, s->at + i, row);
        for (int64_t k = 0; k < s->y.dim; k += MIX_WIDTH)
            memcpy(s->panel + k * MIX_ROWS + i * MIX_WIDTH, row + k,
                   (size_t)mix_width(s, k) * sizeof *row);
    }
}

static void run_mixed(const void *ctx, int64_t first, int64_t last, int worker)
{
    (void)worker;
    const mixed *s = ctx;
    for (int64_t r = first; r < last; r++)
        memcpy(s->probs + r * MIX_ROWS, s->x.p + r * s->x.row + s->at,
               (size_t)s->rows * sizeof(float));
    for (int64_t k = 0; k < s->y.dim; k += MIX_WIDTH)
        s->c->cpu->vec->accumulate(s->y.p + first * s->y.row + k, s->y.row,
                                   s->probs + first * MIX_ROWS, MIX_ROWS, last - first,
                                   s->panel + k * MIX_ROWS, MIX_WIDTH, s->rows, mix_width(s, k));
}

static void run_scaled(const void *ctx, int64_t first, int64_t last, int worker)
{
    (void)worker;
    const mixed *s = ctx;
    for (int64_t r = first; r < last; r++)
        s->c->cpu->vec->map(MR_OP_SCALE, s->c->prep->p, s->y.p + r * s->y.row,
                            s->y.p + r * s->y.row, s->y.dim);
}

/* The table's rows are unpacked once for all rows, a panel at a time; each sum goes on from panel to
 * panel, so that it is one chain whatever the panel's size. */
mr_err mr_run_mix(const mr_cpu_call *c)
{
    mixed s = {
        .c = c, .y = mr_cpu_out(c, 0), .table = mr_cpu_matrix(c, 1), .panel = (float *)c->scratch};
    s.probs = s.panel + panel_floats(s.y.dim);
    s.row = s.probs + s.y.rows * MIX_ROWS;
    int64_t all = c->step->in[1].dim[0].n;
    for (int64_t r = 0; r < s.y.rows; r++)
        memset(s.y.p + r * s.y.row, 0, (size_t)s.y.dim * sizeof(float));
    if (!mr_cpu_given(c, 0))
        return MR_OK;
    s.x = mr_cpu_in(c, 0);
    for (s.at = 0; s.at < all; s.at += MIX_ROWS) {
        s.rows = all - s.at < MIX_ROWS ? all - s.at : MIX_ROWS;
        mr_cpu_split(c->cpu, s.rows, s.y.dim * 8, run_panel, &s);
        mr_cpu_split(c->cpu, s.y.rows, s.y.dim * s.rows, run_mixed, &s);
    }
    mr_cpu_split(c->cpu, s.y.rows, s.y.dim, run_scaled, &s);
    return MR_OK;
}
