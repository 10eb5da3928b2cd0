/* Matrix products: every ISA against C bit by bit, C against plain formulas and double sums.
 *
 * Runs from anywhere, needs no framework (it is also run under emulation).
 *   test_matmul            all checks
 *   test_matmul --small      fewer sizes, for emulation
 *   test_matmul --bench [format [rows]]   speeds of the same calls (bench_matmul.h)
 *   test_matmul --bench-experts [format]   grouped experts (bench_matmul.h)
 *   test_matmul --bench-rows [format [rows or first-last [isa]]]   few rows from memory (bench_rows.h)
 */
#include "backend/cpu/matmul_job.h"
#include "backend/cpu/vec.h"
#include "base/pool.h"
#include "bench_matmul.h"
#include "bench_rows.h"
#include "emulate_bf16.h"
#include "matmul_cases.h"

enum { MAX_ROWS_TESTED = 64 };

static bool small_run;
static mr_pool *pools[3]; /* 1, 2, 4 threads */

static mr_matrix *packed(const weights *w, int64_t e, int64_t n)
{
    mr_matrix *m;
    if (mr_matrix_new(&m, w->fmt, e, n, w->rows.k) != MR_OK) {
        fprintf(stderr, "%s\n", mr_error());
        exit(1);
    }
    for (int64_t row = 0; row < w->rows.n;) { /* in uneven pieces */
        mr_rows part = w->rows;
        size_t at = (size_t)row * mr_row_bytes(part.dtype, part.bits, part.k),
               side = (size_t)row *
                      mr_row_scale_bytes(part.dtype, part.group, part.scale_dtype, part.k);
        part.n = w->rows.n - row < 37 ? w->rows.n - row : 37;
        part.first = part.across ? row : 0;
        part.data = w->data + (part.across ? 0 : at);
        if (w->scales)
            part.scales = w->scales + (part.across ? 0 : side);
        if (w->biases)
            part.biases = w->biases + (part.across ? 0 : side);
        mr_matrix_fill(m, row, &part);
        row += part.n;
    }
    return m;
}

/* mr_linear with x, y and scratch that all end at a guard page; y rows are n + 3 apart. */
static void run_linear(const mr_mm *mm, const mr_matrix *m, const float *bias, const float *x,
                       int64_t rows, float *out)
{
    int64_t n = mr_matrix_n(m), k = mr_matrix_k(m), ldx = k + 1, ldy = n + 3;
    size_t x_bytes = 4 * (size_t)((rows - 1) * ldx + k),
           y_bytes = 4 * (size_t)((rows - 1) * ldy + n);
    size_t scratch_bytes = mr_matmul_scratch(mm, m->fmt, rows, k);
    float *gx = checker_guarded(x_bytes), *gy = checker_guarded(y_bytes);
    void *scratch = checker_guarded(scratch_bytes); /* multiples of 64 end on a line */
    CHECK(scratch_bytes % 64 == 0, "scratch %zu", scratch_bytes);
    for (int64_t r = 0; r < rows; r++)
        memcpy(gx + r * ldx, x + r * k, 4 * (size_t)k);
    for (size_t i = 0; i < y_bytes / 4; i++)
        gy[i] = 12345.0f;
    mr_linear(mm, m, bias, gx, ldx, rows, gy, ldy, scratch);
    for (int64_t r = 0; r < rows; r++) {
        memcpy(out + r * n, gy + r * ldy, 4 * (size_t)n);
        for (int i = 0; i < 3 && r + 1 < rows; i++)
            CHECK(gy[r * ldy + n + i] == 12345.0f, "row %d: wrote past n", (int)r);
    }
    checker_unguard(gx, x_bytes);
    checker_unguard(gy, y_bytes);
    checker_unguard(scratch, scratch_bytes);
}

/* `exact`: against one fmaf chain over mr_dequant_row's weights, and a double sum. */
static void check_exact(const weights *w, const float *x, int64_t rows, const float *y)
{
    int64_t n = w->rows.n, k = w->rows.k;
    float *row = malloc(4 * (size_t)k);
    for (int64_t o = 0; o < n; o++) {
        mr_dequant_row(&w->rows, o, row);
        for (int64_t r = 0; r < rows; r++) {
            float chain = 0.0f, got = y[r * n + o];
            double sum = 0.0, size = 0.0;
            for (int64_t i = 0; i < k; i++) {
                chain = fmaf(row[i], x[r * k + i], chain);
                sum += (double)row[i] * (double)x[r * k + i];
                size += fabs((double)row[i] * (double)x[r * k + i]);
            }
            uint32_t u;
            memcpy(&u, &got, 4);
            CHECK(chain != chain ? u == NAN_BITS : got == chain, "row %d output %d: %a, chain %a",
                  (int)r, (int)o, (double)got, (double)chain);
            if (isfinite(sum) && isfinite(chain))
                CHECK(fabs((double)got - sum) <= (double)k * 0x1p-24 * size + 0x1p-140,
                      "row %d output %d: %g, sum %g", (int)r, (int)o, (double)got, sum);
        }
    }
    free(row);
}

/* `fast`: against the formula, and loosely against a double sum; with several parts, closely. */
static void check_int8(const weights *w, const float *x, int64_t rows, int parts, const float *y)
{
    int64_t n = w->rows.n, k = w->rows.k;
    mr_code_form form;
    mr_code_form_of(&form, w->fmt.dtype, w->fmt.bits, w->fmt.group, w->fmt.scale_dtype);
    int group = form.run < 64 ? 32 : 64;
    plain_group *groups = malloc(sizeof *groups * (size_t)(k / group * parts));
    float *row = malloc(4 * (size_t)k), *rest = malloc(4 * (size_t)k), D[MR_ACT_PARTS] = {0};
    for (int64_t r = 0; r < rows; r++) {
        bool finite = row_finite(x + r * k, k);
        memcpy(rest, x + r * k, 4 * (size_t)k);
        for (int p = 0; finite && p < parts; p++) {
            plain_group *part = groups + p * (k / group);
            D[p] = plain_quantise(rest, k, group, p > 0, part);
            plain_rest(part, group, D[p], rest, k);
        }
        for (int64_t o = 0; o < n; o++) {
            float want = plain_int8(w, o, D, groups, k / group, parts, group, finite);
            float got = y[r * n + o];
            CHECK(memcmp(&want, &got, 4) == 0, "row %d output %d: %a, formula %a", (int)r, (int)o,
                  (double)got, (double)want);
            if (r || o % 16)
                continue;
            double sum = 0.0, size = 0.0;
            double bound = 0.0; /* half a step per value, steps as the group's largest needs */
            mr_dequant_row(&w->rows, o, row);
            for (int64_t i = 0; i < k; i++) {
                int64_t at = i / group;
                sum += (double)row[i] * (double)x[i];
                size += fabs((double)row[i] * (double)x[i]);
                bound += fabs((double)row[i]) * 0.51 * (double)D[0] * (double)(1 << groups[at].e);
            }
            bound = parts > 1 ? bound * 0x1p-14 + 0x1p-19 * size
                              : bound + (double)k * 0x1p-20 * fabs(sum);
            CHECK(fabs((double)got - sum) <= bound, "output %d: %g, sum %g, %g", (int)o,
                  (double)got, sum, bound);
        }
    }
    free(rest);
    free(row);
    free(groups);
}

/* One weight matrix, one precision: C row by row is judged, then everything must equal it. */
static void check_linear(const weights *w, const mr_matrix *m, mr_precision precision, bool act_f32,
                         checker_rng *rng)
{
    static const int row_counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 22, 33, 64};
    int64_t n = w->rows.n, k = w->rows.k, most = small_run ? 10 : MAX_ROWS_TESTED;
    float *x = malloc(4 * (size_t)(most * k)), *base = malloc(4 * (size_t)(most * n));
    float *y = malloc(4 * (size_t)(most * n)), *bias = checker_guarded(4 * (size_t)n);
    char name[32];
    for (int64_t r = 0; r < most; r++)
        fill_activations(x + r * k, k, r, rng);
    for (int64_t i = 0; i < n; i++)
        bias[i] = checker_float(rng);
    mr_mm mm = {pools[0], MR_ISA_C, precision, act_f32, false};
    for (int64_t r = 0; r < most; r++)
        run_linear(&mm, m, NULL, x + r * k, 1, base + r * n);
    int parts = mr_job_parts(&mm, &m->layout);
    if (parts)
        check_int8(w, x, 10, parts, base);
    else
        check_exact(w, x, 10, base);
    for (int isa = 0; isa < MR_ISA_COUNT; isa++) {
        if (!mr_isa_have((mr_isa)isa))
            continue;
        for (size_t i = 0; i < sizeof row_counts / sizeof row_counts[0] && row_counts[i] <= most;
             i++) {
            int rows = row_counts[i], threads = (int)(checker_next(rng) % 3);
            mm = (mr_mm){pools[threads], (mr_isa)isa, precision, act_f32, false};
            run_linear(&mm, m, NULL, x, rows, y);
            CHECK(!memcmp(y, base, 4 * (size_t)(rows * n)),
                  "%s n %d k %d rows %d %s on %s, %d threads", mr_fmt_name(w->fmt, name), (int)n,
                  (int)k, rows,
                  parts > 1 ? "3 int8"
                  : parts   ? "int8"
                            : "f32",
                  mr_isa_name((mr_isa)isa), 1 << threads);
        }
        mm.pool = pools[1];
        run_linear(&mm, m, bias, x, 5, y);
        for (int64_t i = 0; i < 5 * n; i++) {
            float want = base[i] + bias[i % n];
            CHECK(base[i] != base[i] ? y[i] != y[i] : y[i] == want, "%s bias on %s: %a, want %a",
                  mr_fmt_name(w->fmt, name), mr_isa_name((mr_isa)isa), (double)y[i], (double)want);
        }
    }
    free(x);
    free(base);
    free(y);
    checker_unguard(bias, 4 * (size_t)n);
}

static void check_format(mr_fmt fmt, int index, checker_rng *rng)
{
    static const int ns[] = {1, 15, 16, 17, 63, 64, 65, 100, 323},
                     ks[] = {1, 31, 32, 33, 64, 72, 576, 1152};
    static const int groups_k[] = {1, 2, 3, 5, 9, 18, 36};
    int group = format_group(fmt);
    for (int i = 0; i < 9; i++) {
        if (small_run && (i + index) % 4)
            continue;
        int64_t k = group ? group * groups_k[(i * 3 + index) % (small_run ? 4 : 7)]
                          : ks[(i * 3 + index) % 8];
        if (k > 2304)
            k = 2304;
        weights w = weights_new(fmt, ns[i], k, rng);
        mr_matrix *m = packed(&w, 1, ns[i]);
        float *a = malloc(4 * (size_t)k), *b = malloc(4 * (size_t)k);
        for (int64_t o = 0; o < ns[i]; o++) {
            mr_dequant_row(&w.rows, o, a);
            mr_matrix_row(m, 0, o, b);
            CHECK(!memcmp(a, b, 4 * (size_t)k), "row %d of n %d k %d", (int)o, ns[i], (int)k);
        }
        check_linear(&w, m, MR_EXACT, false, rng);
        if (group)
            check_linear(&w, m, MR_FAST, false, rng);
        check_linear(&w, m, MR_FAST, true, rng);
        free(a);
        free(b);
        mr_matrix_free(m);
        weights_free(&w);
    }
}

/* Rows that are columns of what is stored: the numbers of stored rows, and products like any on f32. */
static void check_across(mr_fmt fmt, int index, checker_rng *rng)
{
    static const int ks[] = {1, 7, 8, 33, 129, 576};
    int unit = format_group(fmt) ? format_group(fmt) : fmt.group; /* E4M3 */
    for (int i = 0; i < (small_run ? 1 : 4); i++) {
        int64_t width = unit * (1 + (i + index) % 3), n = width * (1 + i % 2),
                k = ks[(2 * i + index) % 6];
        weights w = weights_across(fmt, n, k, width, rng);
        mr_matrix *m = packed(&w, 1, n);
        mr_rows stored = mr_rows_stored(&w.rows);
        float *a = malloc(4 * (size_t)k), *b = malloc(4 * (size_t)k),
              *c = malloc(4 * (size_t)(stored.n * width));
        for (int64_t r = 0; r < stored.n; r++)
            mr_dequant_row(&stored, r, c + r * width);
        for (int64_t o = 0; o < n; o++) {
            mr_dequant_row(&w.rows, o, a);
            mr_matrix_row(m, 0, o, b);
            CHECK(!memcmp(a, b, 4 * (size_t)k), "across: row %d of n %d k %d", (int)o, (int)n,
                  (int)k);
            for (int64_t j = 0; j < k; j++)
                CHECK(a[j] == c[(o / width * k + j) * width + o % width], "across: row %d of %d",
                      (int)o, (int)n);
        }
        check_linear(&w, m, MR_EXACT, false, rng);
        check_linear(&w, m, MR_FAST, i % 2, rng);
        free(a);
        free(b);
        free(c);
        mr_matrix_free(m);
        weights_free(&w);
    }
}

/* What packing takes is told beforehand and is the file's size. */
static void check_sizes(mr_fmt fmt)
{
    size_t bytes, before = mr_mem_held(MR_MEM_WEIGHTS);
    char name[32];
    mr_matrix *m;
    CHECK(mr_matrix_bytes(fmt, 2, 256, 1024, &bytes) == MR_OK, "%s", mr_error());
    CHECK(mr_matrix_new(&m, fmt, 2, 256, 1024) == MR_OK, "%s", mr_error());
    CHECK(mr_mem_held(MR_MEM_WEIGHTS) - before <= bytes + 128, "%s: held %zu, told %zu",
          mr_fmt_name(fmt, name), mr_mem_held(MR_MEM_WEIGHTS) - before, bytes);
    size_t file = 512 * mr_row_bytes(fmt.dtype, fmt.bits, 1024);
    if (mr_dtype_is_grouped(fmt.dtype))
        file += 512 * mr_row_side_bytes(fmt.dtype, fmt.group, fmt.scale_dtype, 1024);
    CHECK(bytes <= file + file / 50, "%s: packed %zu, file %zu", mr_fmt_name(fmt, name), bytes,
          file);
    mr_matrix_free(m);
}

static void check_refused(void)
{
    size_t bytes;
    mr_fmt odd = {MR_AFFINE, 7, 64, MR_F16, false}, group = {MR_AFFINE, 4, 48, MR_F16, false},
           type = {MR_I8, 0, 0, MR_F32, false};
    mr_fmt q8 = {MR_Q8_0, 0, 0, MR_F32, false};
    CHECK(mr_matrix_bytes(odd, 1, 64, 64, &bytes) == MR_EUNSUPPORTED, "7 bits");
    CHECK(mr_matrix_bytes(group, 1, 64, 96, &bytes) == MR_EUNSUPPORTED, "groups of 48");
    CHECK(mr_matrix_bytes(type, 1, 64, 64, &bytes) == MR_EUNSUPPORTED, "i8");
    CHECK(mr_matrix_bytes(q8, 1, 64, 40, &bytes) == MR_EFORMAT, "k 40");
    CHECK(mr_matrix_bytes(q8, 1, 0, 64, &bytes) == MR_ELIMIT, "n 0");
    CHECK(mr_matrix_bytes(q8, INT64_MAX / 2, 1 << 30, 1 << 20, &bytes) == MR_ELIMIT, "too large");
}

/* Prepared rows are the same bytes on every ISA; the wide form is for those that want it. */
static void check_quantise(checker_rng *rng)
{
    int64_t k = 576;
    for (int group = 32; group <= 64; group += 32)
        for (int shape = 0; shape < 8; shape++) {
            mr_qform f = {.k = k,
                          .group = group,
                          .start_by = shape % 4 == 3 ? 1 : -8,
                          .halves = shape % 2,
                          .wide = shape % 4 == 2,
                          .even = shape > 3};
            f.step = sizeof(mr_qgroup) + (size_t)group * (f.wide ? 2 : 1) + sizeof(int32_t);
            f.stride = MR_QROW_HEADER + f.step * (size_t)(k / group);
            uint8_t *base = calloc(1, f.stride), *other = calloc(1, f.stride);
            for (int r = 0; r < 16; r++) {
                float *x = checker_guarded(4 * (size_t)k);
                fill_activations(x, k, r, rng);
                mr_mm_kernels_for(MR_ISA_C)->quantise(x, &f, base);
                for (int isa = 1; isa < MR_ISA_COUNT; isa++) {
                    if (!mr_isa_have((mr_isa)isa) ||
                        (f.wide && !mr_mm_kernels_for((mr_isa)isa)->wide_u8))
                        continue;
                    mr_mm_kernels_for((mr_isa)isa)->quantise(x, &f, other);
                    CHECK(!memcmp(base, other, f.stride), "quantise group %d shape %d row %d on %s",
                          group, shape, r, mr_isa_name((mr_isa)isa));
                }
                checker_unguard(x, 4 * (size_t)k);
            }
            free(base);
            free(other);
        }
}

/* Equal bits, but any NaN for a NaN: which one an elementwise function gives is not promised. */
static bool same_numbers(const float *a, const float *b, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (memcmp(a + i, b + i, 4) && !(a[i] != a[i] && b[i] != b[i]))
            return false;
    return true;
}

/* ---- gated, heads, experts: each against mr_linear on single matrices ---- */

static void *scratch_of(size_t bytes)
{
    return mr_alloc(MR_MEM_OTHER, bytes);
}

static void linear_plain(const mr_mm *mm, const mr_matrix *m, const float *bias, const float *x,
                         int64_t rows, float *y)
{
    void *scratch = scratch_of(mr_matmul_scratch(mm, m->fmt, rows, m->k));
    mr_linear(mm, m, bias, x, m->k, rows, y, m->n, scratch);
    mr_free(scratch);
}

static void check_gated(const mr_mm *mm, mr_fmt fg, mr_fmt fu, int64_t rows, checker_rng *rng)
{
    static const mr_op fns[] = {MR_OP_SILU, MR_OP_GELU_TANH, MR_OP_GELU};
    int64_t n = 100, k = 512;
    weights wg = weights_new(fg, n, k, rng), wu = weights_new(fu, n, k, rng);
    mr_matrix *g = packed(&wg, 1, n), *u = packed(&wu, 1, n);
    float *x = malloc(4 * (size_t)(rows * k)), *a = malloc(4 * (size_t)(rows * n)),
          *b = malloc(4 * (size_t)(rows * n));
    float *y = malloc(4 * (size_t)(rows * n)), bias[100];
    for (int64_t r = 0; r < rows; r++)
        fill_activations(x + r * k, k, r, rng);
    for (int i = 0; i < n; i++)
        bias[i] = checker_float(rng);
    size_t bytes[2] = {mr_matmul_scratch(mm, fg, rows, k), mr_matmul_scratch(mm, fu, rows, k)};
    void *scratch = scratch_of(bytes[0] > bytes[1] ? bytes[0] : bytes[1]);
    for (int i = 0; i < 3; i++) {
        const mr_vec_kernels *vec = mr_vec(mm->isa);
        linear_plain(mm, g, bias, x, rows, a);
        linear_plain(mm, u, NULL, x, rows, b);
        vec->map(fns[i], 0.0f, a, a, rows * n);
        vec->mul(a, a, b, rows * n);
        mr_gated_linear(mm, g, u, bias, NULL, fns[i], x, k, rows, y, n, scratch);
        CHECK(same_numbers(a, y, rows * n), "gated %d rows on %s", (int)rows, mr_isa_name(mm->isa));
    }
    mr_free(scratch);
    free(x);
    free(a);
    free(b);
    free(y);
    mr_matrix_free(g);
    mr_matrix_free(u);
    weights_free(&wg);
    weights_free(&wu);
}

/* Matrix i of e as one of its own. */
static mr_matrix *single(const weights *w, int64_t e, int64_t i)
{
    int64_t n = w->rows.n / e;
    size_t side = (size_t)(i * n) *
                  mr_row_scale_bytes(w->fmt.dtype, w->fmt.group, w->fmt.scale_dtype, w->rows.k);
    weights part = *w;
    part.rows.n = n;
    part.rows.data = part.data =
        w->data + (size_t)(i * n) * mr_row_bytes(w->fmt.dtype, w->fmt.bits, w->rows.k);
    if (w->scales)
        part.rows.scales = part.scales = w->scales + side;
    if (w->biases)
        part.rows.biases = part.biases = w->biases + side;
    return packed(&part, 1, n);
}

static void check_heads(const mr_mm *mm, mr_fmt fmt, int64_t rows, checker_rng *rng)
{
    int64_t h = 3, n = 40, k = 256;
    weights w = weights_new(fmt, h * n, k, rng);
    mr_matrix *m = packed(&w, h, n);
    float *x = malloc(4 * (size_t)(rows * h * k)), *y = malloc(4 * (size_t)(rows * h * n)),
          *one = malloc(4 * (size_t)n);
    for (int64_t r = 0; r < rows * h; r++)
        fill_activations(x + r * k, k, r, rng);
    void *scratch = scratch_of(mr_matmul_scratch(mm, fmt, rows * h, k));
    mr_linear_heads(mm, m, x, h * k, k, rows, y, h * n, n, scratch);
    for (int64_t i = 0; i < h; i++) {
        mr_matrix *s = single(&w, h, i);
        for (int64_t r = 0; r < rows; r++) {
            linear_plain(mm, s, NULL, x + (r * h + i) * k, 1, one);
            CHECK(!memcmp(one, y + (r * h + i) * n, 4 * (size_t)n), "head %d row %d", (int)i,
                  (int)r);
        }
        mr_matrix_free(s);
    }
    mr_free(scratch);
    free(x);
    free(y);
    free(one);
    mr_matrix_free(m);
    weights_free(&w);
}

enum { EXPERTS = 5, TOP = 2 };

static void check_experts(const mr_mm *mm, mr_fmt fmt, int64_t rows, bool each_j, checker_rng *rng)
{
    int64_t n = 72, k = 256, pairs = rows * TOP;
    weights w = weights_new(fmt, EXPERTS * n, k, rng);
    mr_matrix *m = packed(&w, EXPERTS, n), *s[EXPERTS];
    float *x = malloc(4 * (size_t)(pairs * k)), *y = malloc(4 * (size_t)(pairs * n)),
          *one = malloc(4 * (size_t)n);
    int32_t *ids = malloc(sizeof *ids * (size_t)pairs);
    for (int64_t i = 0; i < pairs; i++) {
        fill_activations(x + i * k, k, i, rng);
        ids[i] =
            (int32_t)(i % TOP ? (ids[i - 1] + 1 + (int32_t)(checker_next(rng) % (EXPERTS - 1))) %
                                    EXPERTS
                              : (int32_t)(checker_next(rng) % EXPERTS));
    }
    for (int i = 0; i < EXPERTS; i++)
        s[i] = single(&w, EXPERTS, i);
    void *scratch = scratch_of(mr_expert_scratch(mm, fmt, EXPERTS, n, k, rows, TOP, each_j));
    mr_expert_linear(mm, m, x, each_j ? TOP * k : k, k, each_j, ids, rows, TOP, y, scratch);
    for (int64_t i = 0; i < pairs; i++) {
        linear_plain(mm, s[ids[i]], NULL, x + (each_j ? i : i / TOP) * k, 1, one);
        CHECK(!memcmp(one, y + i * n, 4 * (size_t)n), "expert %d of pair %d", (int)ids[i], (int)i);
    }
    for (int i = 0; i < EXPERTS; i++)
        mr_matrix_free(s[i]);
    mr_free(scratch);
    free(x);
    free(y);
    free(one);
    free(ids);
    mr_matrix_free(m);
    weights_free(&w);
}

static void check_moe(const mr_mm *mm, mr_fmt fmt, mr_fmt down, int64_t rows, checker_rng *rng)
{
    int64_t h = 256, f = 256, pairs = rows * TOP;
    const mr_vec_kernels *vec = mr_vec(mm->isa);
    weights wg = weights_new(fmt, EXPERTS * f, h, rng), wu = weights_new(fmt, EXPERTS * f, h, rng);
    weights wd = weights_new(down, EXPERTS * h, f, rng);
    mr_matrix *g = packed(&wg, EXPERTS, f), *u = packed(&wu, EXPERTS, f),
              *d = packed(&wd, EXPERTS, h);
    float *x = malloc(4 * (size_t)(rows * h)), *a = malloc(4 * (size_t)(pairs * f)),
          *b = malloc(4 * (size_t)(pairs * f));
    float *out = malloc(4 * (size_t)(pairs * h)), *want = malloc(4 * (size_t)h),
          *y = malloc(4 * (size_t)(rows * h));
    int32_t *ids = malloc(sizeof *ids * (size_t)pairs);
    float *weight = malloc(4 * (size_t)pairs);
    for (int64_t i = 0; i < pairs; i++) {
        ids[i] = (int32_t)((i * 3 + i / 4) % EXPERTS);
        weight[i] = checker_float(rng);
    }
    for (int64_t r = 0; r < rows; r++)
        fill_activations(x + r * h, h, r, rng);
    void *s1 = scratch_of(mr_expert_scratch(mm, fmt, EXPERTS, f, h, rows, TOP, false));
    void *s2 = scratch_of(mr_expert_scratch(mm, down, EXPERTS, h, f, rows, TOP, true));
    void *s3 = scratch_of(mr_moe_scratch(mm, fmt, down, EXPERTS, h, f, rows, TOP));
    mr_expert_linear(mm, g, x, h, 0, false, ids, rows, TOP, a, s1);
    mr_expert_linear(mm, u, x, h, 0, false, ids, rows, TOP, b, s1);
    vec->map(MR_OP_SILU, 0.0f, a, a, pairs * f);
    vec->mul(a, a, b, pairs * f);
    mr_expert_linear(mm, d, a, TOP * f, f, true, ids, rows, TOP, out, s2);
    mr_moe(mm, g, u, d, MR_OP_SILU, x, h, ids, weight, rows, TOP, y, h, s3, NULL, NULL);
    for (int64_t r = 0; r < rows; r++) {
        vec->combine(want, out + r * TOP * h, h, weight + r * TOP, TOP, h);
        CHECK(same_numbers(want, y + r * h, h), "moe row %d of %d on %s", (int)r, (int)rows,
              mr_isa_name(mm->isa));
    }
    void *held[] = {x, a, b, out, want, y, ids, weight};
    for (size_t i = 0; i < sizeof held / sizeof held[0]; i++)
        free(held[i]);
    mr_free(s1);
    mr_free(s2);
    mr_free(s3);
    mr_matrix_free(g);
    mr_matrix_free(u);
    mr_matrix_free(d);
    weights_free(&wg);
    weights_free(&wu);
    weights_free(&wd);
}

static void check_combined(checker_rng *rng)
{
    static const mr_fmt fmts[] = {
        {MR_BF16, 0, 0, MR_F32, false}, {MR_AFFINE, 4, 64, MR_BF16, false},
        {MR_Q8_0, 0, 0, MR_F32, false}, {MR_Q6_K, 0, 0, MR_F32, false},
        {MR_Q4_1, 0, 0, MR_F32, false}, {MR_Q5_1, 0, 0, MR_F32, false},
        {MR_Q4_K, 0, 0, MR_F32, false}, {MR_FP, 8, 128, MR_F32, false},
        {MR_NVFP4, 0, 0, MR_F32, false}};
    enum { N = sizeof fmts / sizeof fmts[0] };
    static const int row_counts[] = {1, 3, 9, 40};
    for (int isa = 0; isa < MR_ISA_COUNT; isa++)
        for (int p = MR_EXACT; p <= MR_FAST && mr_isa_have((mr_isa)isa); p++)
            for (int i = 0; i < 4 * N; i++) {
                mr_mm mm = {pools[i % 3], (mr_isa)isa, (mr_precision)p, false, false};
                mr_fmt fmt = fmts[i % N], other = fmts[(i + 1) % N];
                int rows = row_counts[i / N];
                if (small_run && rows > 3)
                    continue;
                check_gated(&mm, fmt, fmt, rows, rng);
                check_gated(&mm, fmt, other, rows, rng);
                check_heads(&mm, fmt, rows, rng);
                check_experts(&mm, fmt, rows, false, rng);
                check_experts(&mm, fmt, rows, true, rng);
                check_moe(&mm, fmt, other, rows, rng);
            }
}

/* bf16 of both sides by the CPU's dots, against double sums; its bits are its own, but the same for any
 * number of rows and threads. */
static void check_native_linear(mr_isa isa, int64_t n, int64_t k, checker_rng *rng)
{
    enum { ROWS = 37 };
    static const int row_counts[] = {1, 2, 3, 5, 6, 7, 13, 14, 16, 17, ROWS};
    const int most = isa == MR_ISA_AMX ? ROWS : 14; /* dots may be emulated, which takes long */
    weights w = weights_new((mr_fmt){MR_BF16, 0, 0, MR_F32, false}, n, k, rng);
    mr_matrix *m = packed(&w, 1, n);
    float *x = malloc(4 * (size_t)(ROWS * k)), *base = malloc(4 * (size_t)(ROWS * n)),
          *y = malloc(4 * (size_t)(ROWS * n)), *row = malloc(4 * (size_t)k);
    mr_mm mm = {pools[0], isa, MR_NATIVE, false, true};
    for (int64_t i = 0; i < ROWS * k; i++)
        x[i] = checker_float(rng);
    for (int64_t r = 0; r < most; r++)
        run_linear(&mm, m, NULL, x + r * k, 1, base + r * n);
    for (int64_t o = 0; o < n; o++) {
        mr_dequant_row(&w.rows, o, row);
        for (int64_t r = 0; r < most; r++) {
            double sum = 0.0, size = 0.0, got = (double)base[r * n + o];
            for (int64_t i = 0; i < k; i++) {
                double product =
                    (double)row[i] * (double)mr_bf16_to_f32(mr_f32_to_bf16(x[r * k + i]));
                sum += product;
                size += fabs(product);
            }
            CHECK(fabs(got - sum) <= (double)k * 0x1p-23 * size + 0x1p-120,
                  "native on %s: n %d k %d row %d output %d: %g, sum %g", mr_isa_name(isa), (int)n,
                  (int)k, (int)r, (int)o, got, sum);
        }
    }
    for (size_t i = 0; i < sizeof row_counts / sizeof row_counts[0] && row_counts[i] <= most; i++) {
        mm.pool = pools[i % 3];
        run_linear(&mm, m, NULL, x, row_counts[i], y);
        CHECK(!memcmp(y, base, 4 * (size_t)(row_counts[i] * n)), "native on %s: n %d k %d rows %d",
              mr_isa_name(isa), (int)n, (int)k, row_counts[i]);
    }
    free(x);
    free(base);
    free(y);
    free(row);
    mr_matrix_free(m);
    weights_free(&w);
}

/* Rows that lie anywhere, over more k than are copied at a time: each as if it were alone. */
static void check_native_uneven(mr_isa isa, checker_rng *rng)
{
    enum { N = 64, K = 1300, ROWS = 9 };
    const mr_sixteen_kernels *kernels = mr_sixteen_for(isa);
    if (!kernels || !kernels->tile_bf16)
        return;
    weights w = weights_new((mr_fmt){MR_BF16, 0, 0, MR_F32, false}, N, K, rng);
    mr_matrix *m = packed(&w, 1, N);
    int64_t first;
    const mr_column c = mr_matrix_column(m, 0, 0, &first);
    static int32_t x[ROWS][K / 2];
    static float out[ROWS * MR_TILE_OUT], own[MR_TILE_OUT];
    const int32_t *at[ROWS];
    memset(out, 0, sizeof out);
    for (int r = 0; r < ROWS; r++) {
        at[r] = x[r * 4 % ROWS]; /* all of them, in another order */
        for (int i = 0; i < K / 2; i++)
            x[r][i] = (int32_t)((uint32_t)mr_f32_to_bf16(checker_float(rng)) << 16 |
                                mr_f32_to_bf16(checker_float(rng)));
    }
    kernels->tile_bf16(&c, K / 2, at, ROWS, out);
    for (int r = 0; r < ROWS; r++) {
        memset(own, 0, sizeof own);
        kernels->tile_bf16(&c, K / 2, &at[r], 1, own);
        CHECK(!memcmp(out + r * MR_TILE_OUT, own, sizeof own), "native on %s: uneven row %d",
              mr_isa_name(isa), r);
    }
    mr_matrix_free(m);
    weights_free(&w);
}

static void check_native(checker_rng *rng)
{
    static const mr_isa isas[] = {MR_ISA_AVX512, MR_ISA_AMX, MR_ISA_NEON};
    static const int ns[] = {15, 64, 80, 129}, ks[] = {1, 33, 256, 521};
    const mr_fmt bf16 = {MR_BF16, 0, 0, MR_F32, false}, q8 = {MR_Q8_0, 0, 0, MR_F32, false};
    emulate_bf16();
    for (size_t i = 0; i < sizeof isas / sizeof isas[0]; i++) {
        if (!mr_isa_has_bf16(isas[i]) && !(isas[i] == MR_ISA_AMX && mr_isa_have(isas[i])))
            continue;
        for (int j = 0; j < 16; j++)
            check_native_linear(isas[i], ns[j % 4], ks[j / 4], rng);
        check_native_uneven(isas[i], rng);
        static const int row_counts[] = {1, 5, 9, 70};
        for (int j = 0; j < (isas[i] == MR_ISA_AMX ? 4 : 3); j++) {
            const int rows = row_counts[j];
            mr_mm mm = {pools[j % 3], isas[i], MR_NATIVE, false, true};
            check_gated(&mm, bf16, bf16, rows, rng);
            check_gated(&mm, bf16, q8, rows, rng);
            check_heads(&mm, bf16, rows, rng);
            check_experts(&mm, bf16, rows, true, rng);
            check_moe(&mm, bf16, q8, rows, rng);
        }
    }
    mr_mm mm = {pools[0], MR_ISA_C, MR_NATIVE, false, true};
    CHECK(mr_matmul_arith(&mm, bf16) == MR_ARITH_F32, "C has no dots");
    mm = (mr_mm){pools[0], MR_ISA_AVX512, MR_NATIVE, true, true};
    CHECK(mr_matmul_arith(&mm, bf16) == MR_ARITH_F32, "act f32 has no dots");
}

/* More rows than meet one panel: several blocks of rows and of k, every tile and rest. */
static void check_many_rows(checker_rng *rng)
{
    static const mr_fmt fmts[] = {
        {MR_BF16, 0, 0, MR_F32, false},     {MR_AFFINE, 4, 64, MR_BF16, false},
        {MR_AFFINE, 8, 128, MR_F16, false}, {MR_Q4_0, 0, 0, MR_F32, false},
        {MR_Q4_1, 0, 0, MR_F32, false},     {MR_Q8_0, 0, 0, MR_F32, false}};
    int64_t n = 83, k = 640, rows = 523;
    float *x = malloc(4 * (size_t)(rows * k)), *base = malloc(4 * (size_t)(rows * n));
    float *y = malloc(4 * (size_t)(rows * n));
    for (int64_t r = 0; r < rows; r++)
        fill_activations(x + r * k, k, r, rng);
    for (size_t i = 0; i < sizeof fmts / sizeof fmts[0]; i++) {
        weights w = weights_new(fmts[i], n, k, rng);
        mr_matrix *m = packed(&w, 1, n);
        char name[32];
        mr_mm mm = {pools[0], MR_ISA_C, MR_FAST, false, false};
        for (int64_t r = 0; r < rows; r++)
            run_linear(&mm, m, NULL, x + r * k, 1, base + r * n);
        for (int isa = 0; isa < MR_ISA_COUNT; isa++)
            for (int threads = 0; threads < 3 && mr_isa_have((mr_isa)isa); threads++) {
                mm = (mr_mm){pools[threads], (mr_isa)isa, MR_FAST, false, false};
                run_linear(&mm, m, NULL, x, rows, y);
                CHECK(!memcmp(y, base, 4 * (size_t)(rows * n)), "%s %d rows on %s, %d threads",
                      mr_fmt_name(fmts[i], name), (int)rows, mr_isa_name((mr_isa)isa),
                      1 << threads);
            }
        mr_matrix_free(m);
        weights_free(&w);
    }
    free(x);
    free(base);
    free(y);
}

/* Every column once, however they are cut into tasks: any number of them, on threads that get unlike
 * many. */
static void check_columns(checker_rng *rng)
{
    enum { MOST = 70, K = 64, ROWS = 5 };
    const mr_fmt fmt = {MR_AFFINE, 4, 64, MR_BF16, false};
    static const int rows[] = {1, 2, ROWS};
    float x[ROWS * K], *base = malloc(sizeof(float) * ROWS * 64 * MOST), *y;
    for (int r = 0; r < ROWS; r++)
        fill_activations(x + r * K, K, r, rng);
    for (int columns = 1; columns <= MOST; columns++) {
        int64_t n = 64 * columns;
        weights w = weights_new(fmt, n, K, rng);
        mr_matrix *m = packed(&w, 1, n);
        mr_mm mm = {pools[0], MR_ISA_C, MR_FAST, false, false};
        run_linear(&mm, m, NULL, x, ROWS, base);
        for (int threads = 0; threads < 3; threads++)
            for (int i = 0; i < 3; i++) {
                size_t bytes = sizeof(float) * (size_t)(rows[i] * n);
                mm.pool = pools[threads];
                y = checker_guarded(bytes);
                memset(y, 0xff, bytes);
                run_linear(&mm, m, NULL, x, rows[i], y);
                CHECK(!memcmp(y, base, bytes), "%d columns, %d rows, %d threads", columns, rows[i],
                      1 << threads);
                checker_unguard(y, bytes);
            }
        mr_matrix_free(m);
        weights_free(&w);
    }
    free(base);
}

int main(int argc, char **argv)
{
    checker_rng rng = {7};
    small_run = argc > 1 && !strcmp(argv[1], "--small");
    for (int i = 0; i < 3; i++)
        if (mr_pool_new(&pools[i], 1 << i) != MR_OK) {
            fprintf(stderr, "%s\n", mr_error());
            return 1;
        }
    if (argc > 1 && !strcmp(argv[1], "--bench-experts")) {
        bench_experts(pools[0], argc > 2 ? argv[2] : NULL);
        return 0;
    }
    if (argc > 1 && !strcmp(argv[1], "--bench-rows")) {
        bench_rows(pools, argc > 2 ? argv[2] : NULL, argc > 3 ? argv[3] : NULL,
                   argc > 4 ? argv[4] : NULL);
        return 0;
    }
    if (argc > 1 && !strcmp(argv[1], "--bench")) {
        bench_matmul(pools[0], argc > 2 ? argv[2] : NULL, argc > 3 ? argv[3] : NULL);
        return 0;
    }
    if (argc > 1 && !small_run) {
        fprintf(stderr, "%s: unknown argument '%s'\n", argv[0], argv[1]);
        return 2;
    }
    check_refused();
    check_columns(&rng);
    check_quantise(&rng);
    check_native(&rng);
    for (int i = 0; i < N_FORMATS; i++) {
        check_sizes(all_formats[i]);
        check_format(all_formats[i], i, &rng);
        if (mr_dtype_is_quantised(all_formats[i].dtype))
            check_across(all_formats[i], i, &rng);
    }
    check_combined(&rng);
    if (!small_run)
        check_many_rows(&rng);
    for (int i = 0; i < 3; i++)
        mr_pool_free(pools[i]);
    return checker_result("matmul");
}
