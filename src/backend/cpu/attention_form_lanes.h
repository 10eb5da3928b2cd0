/* The form of KV tiles, as the template of attention_*.c reads and writes it.
 *
 * Panels of 32 columns whose lines lie one after the other: keys [2 panels][dk][32 positions], values
 * [dv/32 panels][64 positions][32].  Elements i and 16 + i of a line of bf16 are the low and the high
 * half of its word i, so a shift and a mask widen it.  With dots (`native`) products are of pairs of
 * bf16: keys along d, values along the positions.  Two stored lines, of d and d + 1 or of positions 2j
 * and 2j + 1, make one of 32 pairs; a panel holds it as words, as other panels hold floats. */
#include "backend/cpu/attention.h"

/* Half `part` of line i: floats, pairs made before, or stored bf16; with dots the latter make pairs
 * with line i + 1, or with zeros if that is not `there`. */
LANES_INLINE v16f load_half(const void *p, int64_t i, int part, bool bf16, bool dots, bool there)
{
    static const int32_t nothing[16];
    const v16i high = v16i_set1((int32_t)0xffff0000);
    if (!bf16)
        return v16f_load((const float *)p + 32 * i + 16 * part);
    const int32_t *line = (const int32_t *)p + 16 * i;
    v16i a = v16i_load(line);
    if (!dots)
        return v16f_bits(part ? v16i_and(a, high) : v16i_shl(a, 16));
    v16i b = v16i_load(there ? line + 16 : nothing);
    return v16f_bits(part ? v16i_or(v16i_shr(a, 16), v16i_and(b, high))
                          : v16i_or(v16i_and(a, v16i_set1(0xffff)), v16i_shl(b, 16)));
}

/* CALL(dots) with a constant. */
#define WITH_DOTS(dots, CALL)                                                                      \
    if (LANES_DOT && (dots))                                                                       \
        CALL(true);                                                                                \
    else                                                                                           \
        CALL(false)

LANES_INLINE void values_of_keys_as(float *y, const void *k, bool bf16, bool dots, int64_t dk,
                                    int64_t dv, int64_t d0)
{
    const float *words = k;
    const int parts = bf16 ? 1 : 2, step = 1 + dots;
    float t[16 * 16];
    for (int64_t d = d0; d < d0 + 32 && d < dv; d += 16) {
        int n = dv - d < 16 ? (int)(dv - d) : 16;
        if (n < 16)
            memset(t, 0, sizeof t);
        for (int half = 0; half < 2 * parts; half++) {
            int j0 = 32 / parts * half;
            const float *x = words + (half / parts * dk + d) * 16 * parts + half % parts * 16;
            v16f_transpose(t, 16, x, 16 * parts, n);
            for (int j = 0; j < 16; j += step) {
                float *to = y + (j0 + j) / step * 32 + d % 32;
                if (bf16) {
                    v16f_store(to, load_half(t, j, 0, true, dots, true));
                    v16f_store(to + 16 / step * 32, load_half(t, j, 1, true, dots, true));
                } else {
                    v16f_store(to, v16f_load(t + 16 * j));
                }
            }
        }
    }
}

/* Columns d0 .. d0+31 of the first dv of each key of a tile as values.  A word of bf16 is moved
 * whole and split at the end; two of them, of adjacent positions, make pairs. */
static void values_of_keys(float *y, const void *k, bool bf16, bool dots, int64_t dk, int64_t dv,
                           int64_t d0)
{
#define CALL(dots) values_of_keys_as(y, k, bf16, dots, dk, dv, d0)
    WITH_DOTS(dots, CALL);
#undef CALL
}

/* ---- writing ---- */

static inline v16i words_of(v16f low, v16f high)
{
    return v16i_or(v16i_to_bf16(low), v16i_shl(v16i_to_bf16(high), 16));
}

/* A whole panel: squares of 16 rows, turned. */
static void whole_panel(void *y, bool bf16, const float *k, int64_t ldk, int64_t dk)
{
    float low[16 * 16], high[16 * 16];
    for (int64_t d = 0; d + 16 <= dk; d += 16) {
        v16f_transpose(low, 16, k + d, ldk, 16);
        v16f_transpose(high, 16, k + 16 * ldk + d, ldk, 16);
        for (int64_t i = 0; i < 16; i++) {
            v16f a = v16f_load(low + 16 * i), b = v16f_load(high + 16 * i);
            if (bf16) {
                v16i_store((int32_t *)y + (d + i) * 16, words_of(a, b));
            } else {
                v16f_store((float *)y + (d + i) * 32, a);
                v16f_store((float *)y + (d + i) * 32 + 16, b);
            }
        }
    }
}

static void keys(void *y, bool bf16, int lane, int n, const float *k, int64_t ldk, int dk)
{
    int64_t from = 0;
    if (n == 32) {
        whole_panel(y, bf16, k, ldk, dk);
        from = dk / 16 * 16;
    }
    for (int r = 0; r < n; r++) {
        int at = mr_kv_place(bf16, lane + r);
        for (int64_t d = from; d < dk; d += 16) {
            int m = dk - d < 16 ? (int)(dk - d) : 16;
            v16f x = v16f_loadn(k + r * ldk + d, m);
            if (bf16) {
                uint16_t t[16], *to = (uint16_t *)y + d * 32 + at;
                v16f_store_bf16(t, x);
                for (int i = 0; i < m; i++)
                    to[32 * i] = t[i];
            } else {
                float *to = (float *)y + d * 32 + at;
                for (int i = 0; i < m; i++)
                    to[32 * i] = k[r * ldk + d + i];
            }
        }
    }
}

static void values(void *y, bool bf16, const float *v, int dv)
{
    for (int d = 0; d < dv; d += 32) {
        int64_t at = (int64_t)d * MR_TILE;
        v16f low = v16f_loadn(v + d, dv - d), high = v16f_loadn(v + d + 16, dv - d - 16);
        if (bf16) {
            v16i_store((int32_t *)y + at / 2, words_of(low, high));
        } else {
            v16f_store((float *)y + at, low);
            v16f_store((float *)y + at + 16, high);
        }
    }
}
