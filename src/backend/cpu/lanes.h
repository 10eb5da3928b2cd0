/* The virtual 16 lanes that every CPU kernel is written over.
 *
 * Why:    a kernel is written once, as a template header NAME_lanes.h, and compiled per ISA; equal
 *         expressions in equal order then give equal bits on C, AVX2, AVX-512 and NEON.
 * Use:    NAME_avx2.c holds only
 *             #include "backend/cpu/lanes_avx2.h"
 *             #include "backend/cpu/NAME_lanes.h"
 *         and NAME_lanes.h names its external symbols by LANES_FN(name), e.g. name_avx2.
 *         This file is included by lanes_*.h at their end, never directly by a kernel.
 * Types:  v16f 16 floats, v16i 16 int32, v16m 16 booleans (a mask; its form differs per ISA).
 * Each ISA header gives, as static inline functions:
 *   memory   v16f_load v16f_loadn(p, n) (the other lanes are 0, nothing past n is touched)
 *            v16f_store v16f_storen; v16i_load v16i_loadn v16i_store v16i_storen
 *            v16f_load_bf16 v16f_load_f16 (exact), v16i_load_u8 v16i_load_i8 (16 bytes, widened)
 *            v16i_load_u16 (16 values, widened) v16i_store_u16 (low halves, values < 65536)
 *            v16i_store_i8 (values within -128..127)
 *   float    set1 add sub mul div sqrt fma(a,b,c) = a*b+c rounded once, fnma(a,b,c) = c-a*b
 *            max min rint (nearest even)
 *            ldexp(a, n) = a * 2^n rounded once, n whole, -150..128, a NaN if n is; |a| in 1/2..2
 *   int      set1 add sub mul (low 32 bits) and or xor shl shr (logical) sar max min,
 *            v16i_lookup(p, q): p[byte] for each byte 0..15 of q
 *            v16i_field(a, from, bits, to): of every byte `bits` bits, moved from bit `from` to `to`
 *   change   v16i_from_f (nearest even; |x| < 2^31, else undefined), v16f_from_i,
 *            v16f_bits (int lanes as float bits), v16i_bits (the reverse)
 *   masks    v16f_lt le eq gt ge (false on NaN), v16i_eq gt, v16m_and or not, v16m_first(n),
 *            v16m_any, v16f_select(m, a, b) = m ? a : b per lane, v16i_select
 *   shape    LANES_TILE_ROWS x LANES_TILE_COLS: how many v16f accumulators of a product fit the
 *            registers beside one row of LANES_TILE_COLS operands
 *   dots     v16f_dot(acc, a, b): each lane plus the products of its two pairs of bf16, as this CPU
 *            rounds them; an instruction where LANES_HAS_DOT is defined, which not every CPU of the
 *            ISA has, else not to be reached
 *   halves   v16f_reduce_add, v16f_reduce_max: the fixed tree l + (l+8), +4, +2, +1
 *   blocks   v16f_transpose(y, ldy, x, ldx, n): y[j ldy + i] = x[i ldx + j] for j < 16, i < n <= 16
 * Rules:  1. Static inline only: an external inline function could be merged across ISAs by the
 *            linker and run on a CPU that lacks it.
 *         2. max(a, b) is a > b ? a : b and min(a, b) is a < b ? a : b: if either is NaN, or both
 *            are zeros, the result is b.
 *         3. FMA only where fma is written (-ffp-contract=off); no approximate instructions; no
 *            flushing of denormals; no hardware conversion to bf16.
 *         4. NaN stays NaN, but which NaN (sign, payload) may differ between ISAs.
 */
#ifndef MR_BACKEND_CPU_LANES_H
#define MR_BACKEND_CPU_LANES_H

static inline v16f v16f_zero(void)
{
    return v16f_set1(0.0f);
}

static inline v16i v16i_zero(void)
{
    return v16i_set1(0);
}

static inline v16f v16f_abs(v16f a)
{
    return v16f_bits(v16i_and(v16i_bits(a), v16i_set1(0x7fffffff)));
}

static inline v16f v16f_neg(v16f a)
{
    return v16f_bits(v16i_xor(v16i_bits(a), v16i_set1((int32_t)0x80000000)));
}

/* For loops over a register tile: fully unrolled, or the tile would live in memory.  (In plain C it lives
 * there anyway, and unrolling makes the files four times as long to compile.) */
#ifdef LANES_ROLLED
#define LANES_UNROLL _Pragma("GCC unroll 1")
#else
#define LANES_UNROLL _Pragma("GCC unroll 16")
#endif
#define LANES_INLINE static inline __attribute__((always_inline))

/* Lanes 0..n-1 of a, the others b. */
static inline v16f v16f_keep(v16f a, int n, v16f b)
{
    return v16f_select(v16m_first(n), a, b);
}

#ifdef LANES_HAS_DOT
enum { LANES_DOT = 1 };
#else
enum { LANES_DOT = 0 };
static inline v16f v16f_dot(v16f acc, v16i a, v16i b)
{
    (void)a;
    (void)b;
    return acc;
}
#endif

#ifndef LANES_HAS_FIELD
static inline v16i v16i_field(v16i a, int from, int bits, int to)
{
    v16i mask = v16i_set1(((1 << bits) - 1) * 0x01010101 << to);
    return v16i_and(from >= to ? v16i_shr(a, from - to) : v16i_shl(a, to - from), mask);
}
#endif

#ifndef LANES_HAS_LDEXP
/* In two factors, of which the first is exact. */
static inline v16f v16f_ldexp(v16f a, v16f n)
{
    /* max takes its second argument when n is NaN, so the conversion is always defined */
    v16i e = v16i_from_f(v16f_max(n, v16f_set1(-160.0f)));
    v16i e1 = v16i_sar(e, 1), e2 = v16i_sub(e, e1), bias = v16i_set1(127);
    a = v16f_mul(a, v16f_bits(v16i_shl(v16i_add(e1, bias), 23)));
    return v16f_mul(a, v16f_bits(v16i_shl(v16i_add(e2, bias), 23)));
}
#endif

/* f32 to bf16 in the low halves, nearest even, by integer arithmetic; NaN stays a (quiet) NaN. */
static inline v16i v16i_to_bf16(v16f a)
{
    v16i u = v16i_bits(a);
    v16i odd = v16i_and(v16i_shr(u, 16), v16i_set1(1));
    v16i r = v16i_shr(v16i_add(u, v16i_add(v16i_set1(0x7fff), odd)), 16);
    v16i quiet = v16i_or(v16i_shr(u, 16), v16i_set1(0x40));
    v16m nan = v16i_gt(v16i_and(u, v16i_set1(0x7fffffff)), v16i_set1(0x7f800000));
    return v16i_select(nan, quiet, r);
}

static inline void v16f_store_bf16(uint16_t *p, v16f a)
{
    v16i_store_u16(p, v16i_to_bf16(a));
}

#endif
