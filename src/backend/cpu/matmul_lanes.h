/* Product kernels over 16 lanes, for every ISA: what they share, their parts and their table.
 *
 *   matmul_codes_lanes.h    codes in planes, by way of byte panels
 *   matmul_unpack_lanes.h   weights as f32, panels
 *   matmul_across_lanes.h   weights as f32 whose groups run along outputs
 *   matmul_f32_lanes.h      tiles on f32 activations
 *   matmul_bf16_lanes.h     tiles on bf16 activations
 *   matmul_i8_lanes.h       tiles on int8 activations
 *   matmul_row_lanes.h      one row, on either
 *   quantise_lanes.h        int8 activations
 *   matmul_finish_lanes.h   from sums to outputs
 *
 * Loops over rows and lane blocks have constant bounds after inlining and are unrolled by pragma:
 * gcc keeps an accumulator array in registers only then, and only if its size is a literal.
 *
 * The including file gives, besides lanes_ISA.h:
 *   TILE_NV, TILE_F32_ROWS            widest tile in lane blocks; rows of the f32 panel tile (1..6)
 *   I8_MANY_ROWS(c, units, f, x, rows, slots, out)   a faster tile_i8 for the first rows; how many it did
 *   F32_PANEL(w, k, x, out, ask, ask_by)           if defined: a faster f32 panel tile for columns of 64
 *   BF16_TILE(w, pairs, x, out, ask, ask_by)       if defined: a faster bf16 tile of 6 rows for columns of 64
 *   x8 x_u8(p), x4 x_u4(p)            a quad of values at p, as the ISA's dots want it
 *   x8 slot_u8(r), x4 slot_u4(r)      the same from four int8 in an int32
 *   w8 w_u8(line)                     a line of 16 outputs x 4 bytes
 *   dot_u8(acc, w8, x8)               acc + sum over the quad, exact
 *   dot_u4(acc, line, x4)             the same for bytes 0..63
 *   dots_u4(acc, line, x4, line, x4)  two quads at once, if DOTS_U4 is defined
 *   add_slot(sum, slot)               sum + 128*slot of 16 bits, if ADD_SLOT is defined
 *   shift_up(a, n)                    lanes << n, n not a constant
 *   ROW_STREAMS                       columns that one row reads in turn, 1 or 2; with 2:
 *   dot_at(acc, line, p)              dot_u8 or dot_u4 with the quad of values at p
 *   FEW_CODES                         rows of codes that are read without a buffer, 1 or 4
 *   v16f number_u8(line, j)           the numbers q[k+j], j < 4, of a line of U8, and j < 8 of U4
 *   v16f number_u4(line, j)           (needless with FEW_ROWS_F32)
 *   NIBBLE_TABLES, NUMBER_NIBBLE(line, j, floats)   number_u4, of floats unless NULL if NIBBLE_TABLES
 *   NUMBER_BYTE(bits, line, j)        number_u8 of bytes below 2^bits
 *   NUMBER_NEAR(line, j), NUMBER_MORE number_u8 of bytes below 128, plus NUMBER_MORE; the 64 bytes before
 *                                     the line can be read
 *   FEW_ROWS_F32(c, k, x, rows, out)  if defined: a faster tile_f32 for wide columns of U4 and U8
 *   v16f quad_max(v16f)               each lane the largest of its aligned four; not with
 *   QUANTISE_OWN                      the header of another `quantise` than quantise_lanes.h gives
 *   LANES_ISA, U8_OFFSET, U8_WIDE, TAKES_U4, DIRECT_F32, FEW_F32, DIRECT_I8, DIRECT_CODES: see mr_mm_kernels
 */
#include "backend/cpu/matmul_core.h"
#include "backend/cpu/matmul_numbers_lanes.h"

#include "backend/cpu/quantise_lanes.h"

#define INLINE static inline __attribute__((always_inline))
/* Named as clang-format knows it. */
#define foreach(i, n) LANES_UNROLL for (int i = 0; i < (n); i++)

/* With few rows weights come from memory: each line, of scales too, asks for the one far on (mr_column_far)
 * to come to the L2 cache, which can have many under way, and for the one ROW_NEAR bytes on to come to L1,
 * which can not.  (Past the end of a matrix that does nothing.)  Where a thread's columns end the far ones
 * are those that it reads next, be they of another expert or product. */
enum { MAX_ROWS = 8, MAX_NV = 4, ROW_NEAR = 2048 };

INLINE void row_ask(const uint8_t *p, size_t far)
{
#ifdef __x86_64__ /* In the order of the lines: gcc would mix those of the streams (4 % of Q4_K's speed). */
    __asm__ volatile("prefetcht1 (%0,%1)\n\tprefetcht0 %c2(%0)"
                     :
                     : "r"(p), "r"(far), "i"(ROW_NEAR));
#else
    __builtin_prefetch((const void *)((uintptr_t)p + far), 0, 2);
    __builtin_prefetch(p + ROW_NEAR);
#endif
}

INLINE v16i load_line(const uint8_t *p)
{
    return v16i_load((const int32_t *)(const void *)p);
}

INLINE size_t number_size(mr_dtype t)
{
    return t == MR_F32 ? 4 : 2;
}

#include "backend/cpu/matmul_codes_lanes.h"

#include "backend/cpu/matmul_unpack_lanes.h"

#include "backend/cpu/matmul_across_lanes.h"

#include "backend/cpu/matmul_f32_lanes.h"
#ifdef LANES_HAS_DOT
#include "backend/cpu/matmul_bf16_lanes.h"
#endif
#include "backend/cpu/matmul_i8_lanes.h"
#include "backend/cpu/matmul_row_lanes.h"
#include "backend/cpu/matmul_finish_lanes.h"

const mr_mm_kernels LANES_FN(mr_mm_kernels) = {
    .isa = LANES_ISA,
    .u8_offset = U8_OFFSET,
    .wide_u8 = U8_WIDE,
    .takes_u4 = TAKES_U4,
    .direct_f32 = DIRECT_F32,
    .few_f32 = FEW_F32,
    .direct_i8 = DIRECT_I8,
    .direct_codes = DIRECT_CODES,
    .quantise = quantise,
    .residue = residue,
    .tile_f32 = tile_f32,
#ifdef LANES_HAS_DOT
    .tile_bf16 = tile_bf16,
#endif
    .unpack_f32 = unpack_f32,
    .tile_i8 = tile_i8,
    .row_i8 = row_i8,
    .row_f32 = row_f32,
    .unpack_bytes = unpack_bytes,
    .finish = finish,
};
