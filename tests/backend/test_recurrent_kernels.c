/* Recurrent kernels: every instruction set against C bit by bit, rows one by one against all at once,
 * nothing touched beyond the buffers.
 *
 *     test_recurrent_kernels [--small] [--seed N] [--bench] */
#include "kernel_check.h"

#include "backend/cpu/recurrent.h"

enum { ROWS = 9 };

static int64_t up16(int64_t n)
{
    return (n + 15) / 16 * 16;
}

/* Floats that end at a guard page, filled. */
static float *filled(int64_t n, ck_kind kind)
{
    float *x = ck_floats(n);
    ck_fill(x, n, kind);
    return x;
}

static float *copy(const float *x, int64_t n)
{
    float *y = ck_floats(n);
    memcpy(y, x, (size_t)n * sizeof *y);
    return y;
}

/* ---- convolution ---- */

static mr_conv conv_case(int64_t channels, int64_t width, ck_kind kind)
{
    int64_t ld = up16(channels);
    float *w = ck_floats(width * ld), *from = ck_floats((width - 1) * ld);
    memset(w, 0, (size_t)(width * ld) * sizeof *w);
    memset(from, 0, (size_t)((width - 1) * ld) * sizeof *from);
    for (int64_t j = 0; j < width; j++)
        ck_fill(w + j * ld, channels, kind);
    for (int64_t j = 0; j + 1 < width; j++)
        ck_fill(from + j * ld, channels, kind);
    return (mr_conv){.width = width,
                     .channels = channels,
                     .ld = ld,
                     .w = w,
                     .rows = ROWS,
                     .x = filled(ROWS * channels, kind),
                     .x_row = channels,
                     .y = ck_floats(ROWS * channels),
                     .y_row = channels,
                     .from = from,
                     .to = ck_floats((width - 1) * ld)};
}

static void check_conv(mr_isa isa, int64_t channels, int64_t width, ck_kind kind)
{
    mr_conv all = conv_case(channels, width, kind);
    int64_t n = ROWS * channels, state = (width - 1) * all.ld;
    for (int start = 0; start < 3; start++) { /* zeros, another state, in place */
        if (start == 0)
            all.from = NULL;
        if (start == 1)
            all.from = filled(state, kind);
        float *to = start == 2 ? copy(all.from, state) : ck_floats(state);
        mr_conv c = all, one = all;
        c.y = ck_floats(n);
        c.to = ck_floats(state);
        all.to = to;
        if (start == 2)
            all.from = to;
        mr_recurrent(MR_ISA_C)->conv1d(&c, 0, all.ld);
        mr_recurrent(isa)->conv1d(&all, 0, all.ld);
        CK(ck_same(all.y, c.y, n) && ck_same(all.to, c.to, state), "conv1d %s %d x %d, start %d",
           mr_isa_name(isa), (int)channels, (int)width, start);
        one.rows = 1;
        one.y = ck_floats(n);
        one.to = ck_floats(state);
        float *y = one.y;
        for (int t = 0; t < ROWS; t++, one.x += channels, one.y += channels) {
            for (int64_t i = 0; i < all.ld; i += 16) /* in stretches of channels, too */
                mr_recurrent(isa)->conv1d(&one, i, i + 16);
            one.from = one.to;
        }
        CK(ck_same(y, c.y, n) && ck_same(one.to, c.to, state),
           "conv1d %s %d x %d row by row, start %d", mr_isa_name(isa), (int)channels, (int)width,
           start);
        all.from = all.from ? all.from : all.to;
    }
    ck_free_all();
}

/* ---- delta rule ---- */

static mr_delta delta_case(int64_t dk, int64_t n, ck_kind kind)
{
    int64_t width = up16(n);
    return (mr_delta){.dk = dk,
                      .width = width,
                      .n = n,
                      .rows = ROWS,
                      .q = filled(ROWS * dk, kind),
                      .k = filled(ROWS * dk, kind),
                      .v = filled(ROWS * n, kind),
                      .decay = filled(ROWS, kind),
                      .beta = filled(ROWS, kind),
                      .q_row = dk,
                      .k_row = dk,
                      .v_row = n,
                      .decay_row = 1,
                      .beta_row = 1,
                      .y = ck_floats(ROWS * n),
                      .y_row = n};
}

static void next_row(mr_delta *d)
{
    d->q += d->q_row;
    d->k += d->k_row;
    d->v += d->v_row;
    d->decay += d->decay_row;
    d->beta += d->beta_row;
    d->y += d->y_row;
}

static void check_delta(mr_isa isa, int64_t dk, int64_t n, ck_kind kind)
{
    mr_delta all = delta_case(dk, n, kind);
    int64_t state = dk * all.width, outs = ROWS * n;
    float *begin = ck_floats(state);
    memset(begin, 0, (size_t)state * sizeof *begin);
    for (int64_t i = 0; i < dk; i++)
        ck_fill(begin + i * all.width, n, kind);
    for (int start = 0; start < 3; start++) {
        mr_delta c = all, one = all;
        c.from = one.from = all.from = start ? begin : NULL;
        c.to = ck_floats(state);
        c.y = ck_floats(outs);
        all.to = start == 2 ? copy(begin, state) : ck_floats(state);
        if (start == 2)
            all.from = all.to;
        mr_recurrent(MR_ISA_C)->delta_rule(&c);
        mr_recurrent(isa)->delta_rule(&all);
        CK(ck_same(all.y, c.y, outs) && ck_same(all.to, c.to, state),
           "delta_rule %s %d x %d, start %d", mr_isa_name(isa), (int)dk, (int)n, start);
        one.rows = 1;
        one.to = ck_floats(state);
        one.y = ck_floats(outs);
        float *y = one.y;
        for (int t = 0; t < ROWS; t++, next_row(&one)) {
            mr_recurrent(isa)->delta_rule(&one);
            one.from = one.to;
        }
        CK(ck_same(y, c.y, outs) && ck_same(one.to, c.to, state),
           "delta_rule %s %d x %d row by row, start %d", mr_isa_name(isa), (int)dk, (int)n, start);
    }
    ck_free_all();
}

/* ---- timings ---- */

/* Rows of a layer with 16 and 32 heads of 128, as its products give them. */
static void bench(mr_isa isa)
{
    enum { MANY = 512, LAYER = 8192, DK = 128 };
    float *x = filled((int64_t)MANY * LAYER, CK_PLAIN), *y = ck_floats((int64_t)MANY * LAYER);
    float *state = ck_floats(DK * MR_RECURRENT_TILE);
    memset(state, 0, DK * MR_RECURRENT_TILE * sizeof *state);
    mr_delta d = delta_case(DK, MR_RECURRENT_TILE, CK_PLAIN);
    d.q = x;
    d.k = x + 2048;
    d.v = x + 4096;
    d.y = y;
    d.q_row = d.k_row = d.v_row = d.y_row = LAYER;
    d.decay_row = d.beta_row = 0;
    d.rows = MANY;
    d.from = d.to = state;
    double best = INFINITY;
    for (int r = 0; r < 200; r++) {
        double t = ck_now();
        mr_recurrent(isa)->delta_rule(&d);
        t = ck_now() - t;
        best = t < best ? t : best;
    }
    printf("delta_rule %-7s %d rows of a tile: %.1f us, %.2f GFLOP/s\n", mr_isa_name(isa), MANY,
           1e6 * best, 8e-9 * MANY * DK * MR_RECURRENT_TILE / best);
    ck_free_all();
}

int main(int argc, char **argv)
{
    static const int64_t channels[] = {1, 15, 16, 17, 70}, widths[] = {2, 3, 4, 7, 12};
    static const int64_t keys[] = {1, 7, 16, 33}, columns[] = {1, 15, 16, 17, 40, 64};
    ck_begin(argc, argv);
    mr_isa isa[MR_ISA_COUNT];
    int isas = ck_isas(isa);
    for (int i = 0; i < isas && ck_bench; i++)
        bench(isa[i]);
    if (ck_bench)
        return 0;
    for (int i = 0; i < isas; i++)
        for (int round = 0; round < (ck_small ? 2 : 6); round++) {
            ck_kind kind = round ? CK_WILD : CK_PLAIN;
            for (size_t a = 0; a < sizeof channels / sizeof *channels; a++)
                for (size_t b = 0; b < sizeof widths / sizeof *widths; b++)
                    check_conv(isa[i], channels[a], widths[b], kind);
            for (size_t a = 0; a < sizeof keys / sizeof *keys; a++)
                for (size_t b = 0; b < sizeof columns / sizeof *columns; b++)
                    check_delta(isa[i], keys[a], columns[b], kind);
        }
    return ck_end("recurrent kernels");
}
