/* Product kernels for AVX-512 with VNNI: one vpdpbusd per line of 64 weights. */
#include "backend/cpu/lanes_avx512.h"

#include <stddef.h>

#define LANES_ISA MR_ISA_AVX512
#define TILE_NV 4
#define TILE_F32_ROWS 6
#define U8_OFFSET 0
#define TAKES_U4 1
#define U8_WIDE 0
#define ROW_STREAMS 2
#define FEW_CODES 4
#define DIRECT_F32 4
#define FEW_F32 32
#define DIRECT_I8 8
#define DIRECT_CODES EIGHT_MOST
#define QUANTISE_OWN "backend/cpu/quantise_avx512.h"

typedef v16i x8, x4, w8;

/* As assembly: a load does it, where gcc 12 would keep the quad in a general register for its second
 * use and then move it by way of the port that the dots need. */
static inline x8 x_u8(const uint8_t *p)
{
    __m512i quad;
    __asm__("vpbroadcastd %1, %0" : "=v"(quad) : "m"(*(const uint8_t(*)[4])p));
    return (x8){quad};
}

static inline x8 slot_u8(int32_t r)
{
    return v16i_set1(r);
}

#define x_u4 x_u8
#define slot_u4 slot_u8

static inline w8 w_u8(v16i line)
{
    return line;
}

/* As assembly: gcc 12 spills accumulators around the intrinsic. */
static inline v16i dot_u8(v16i acc, w8 w, x8 x)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc.v) : "v"(w.v), "v"(x.v));
    return acc;
}

#define dot_u4 dot_u8

/* With a quad of values at p. */
static inline v16i dot_at(v16i acc, v16i w, const uint8_t *p)
{
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc.v) : "v"(w.v), "m"(*(const uint8_t(*)[4])p));
    return acc;
}

/* One product of the low halves of lanes by 128. */
#define ADD_SLOT
static inline v16i add_slot(v16i sum, v16i slot)
{
    __asm__("vpdpwssd %2, %1, %0" : "+v"(sum.v) : "v"(slot.v), "v"(_mm512_set1_epi32(128)));
    return sum;
}

static inline v16i shift_up(v16i a, int32_t n)
{
    return (v16i){_mm512_sllv_epi32(a.v, _mm512_set1_epi32(n))};
}

#define FEW_ROWS_F32 few_rows_f32

/* Lanes that start at byte j; a lookup of 0..15 takes the low 4 bits alone, so nothing is masked. */
static const float small_numbers[32] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10,
                                        11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
                                        22, 23, 24, 25, 26, 27, 28, 29, 30, 31};

static inline v16f number_nibble(const uint8_t *line, int j, const float *floats)
{
    __m512i q = _mm512_loadu_si512(line + j % 4);
    q = j < 4 ? q : _mm512_srli_epi32(q, 4);
    return (v16f){_mm512_permutexvar_ps(q, _mm512_loadu_ps(floats ? floats : small_numbers))};
}

/* Loads under a mask are free: byte j of every lane, from where it is the lowest. */
static inline v16f number_u8(const uint8_t *line, int j)
{
    __m512i q = _mm512_maskz_loadu_epi8(0x1111111111111111, line + j);
    return (v16f){_mm512_cvtepi32_ps(q)};
}

/* The same of bytes below 2^bits: up to 5 by lookups. */
static inline v16f number_byte(int bits, const uint8_t *line, int j)
{
    __m512i q = _mm512_loadu_si512(line + j);
    __m512 low = _mm512_loadu_ps(small_numbers);
    if (bits > 5)
        return number_u8(line, j);
    if (bits < 5)
        return (v16f){_mm512_permutexvar_ps(q, low)};
    return (v16f){_mm512_permutex2var_ps(low, q, _mm512_loadu_ps(small_numbers + 16))};
}

/* 128 more than the number, of bytes below 128: it is the upper half of the float's mantissa.  Reads two
 * bytes before the line. */
static inline v16f number_near(const uint8_t *line, int j)
{
    __m512i q = _mm512_loadu_si512(line + j - 2), mask = _mm512_set1_epi32(0x007f0000);
    return (v16f){_mm512_castsi512_ps(
        _mm512_ternarylogic_epi32(q, mask, _mm512_set1_epi32(0x43000000), 0xea))};
}

#define NIBBLE_TABLES true
#define NUMBER_MORE 128.0f
#define NUMBER_NEAR number_near
#define NUMBER_NIBBLE number_nibble
#define NUMBER_BYTE number_byte

#include "backend/cpu/matmul_tile_avx512.h"
#include "backend/cpu/matmul_eight_avx512.h"
#include "backend/cpu/matmul_tile_subs_avx512.h"
#define I8_MANY_ROWS first_rows
#include "backend/cpu/matmul_tile_f32_avx512.h"

#include "backend/cpu/matmul_lanes.h"
#include "backend/cpu/matmul_few_avx512.h"
