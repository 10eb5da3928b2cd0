/* Peak loops with 512 bits and VNNI, and with tiles. */
#include <immintrin.h>

#include "backend/cpu/peaks.h"
#include "backend/cpu/peaks_lanes.h"
#include "backend/cpu/tiles_amx.h"

#define DOT(i) "vpdpbusd %%zmm13, %%zmm12, %%zmm" #i "\n\t"
#define FMA(i) "vfmadd231ps %%zmm13, %%zmm12, %%zmm" #i "\n\t"
#define BF16(i) "vdpbf16ps %%zmm13, %%zmm12, %%zmm" #i "\n\t"
/* Twelve sums fall short of two dots a cycle by some per cent; 24 do not. */
#define MORE(X) X(16) X(17) X(18) X(19) X(20) X(21) X(22) X(23) X(24) X(25) X(26) X(27)
#define ZERO(i) "vpxord %%zmm" #i ", %%zmm" #i ", %%zmm" #i "\n\t"
#define WIDE_LOOP(name, X)                                                                         \
    static void name(long turns)                                                                   \
    {                                                                                              \
        __asm__ volatile(PEAK_ALL_ZERO MORE(ZERO) "1:\n\t" PEAK_EACH12(X)                          \
                             MORE(X) "dec %0\n\tjnz 1b"                                            \
                         : "+r"(turns)                                                             \
                         :                                                                         \
                         : PEAK_CLOBBERS, "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21",    \
                           "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27");                  \
    }
WIDE_LOOP(int8, DOT)
WIDE_LOOP(f32, FMA)
WIDE_LOOP(bf16, BF16)

PEAK_INLINE void read_streams(const char *p, size_t bytes, size_t streams, size_t near, size_t far)
{
    __m512i s[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(),
                    _mm512_setzero_si512()};
    size_t part = bytes / streams;
    for (size_t i = 0; i + PEAK_UNIT <= part; i += PEAK_UNIT)
        for (size_t stream = 0; stream < streams; stream++) {
            const char *q = p + stream * part + i;
            for (int j = 0; j < PEAK_UNIT / 64; j++) {
                _mm_prefetch(q + near + 64 * j, _MM_HINT_T0);
                if (far)
                    _mm_prefetch(q + far + 64 * j, _MM_HINT_T1);
                s[j] = _mm512_add_epi64(s[j], _mm512_loadu_si512(q + 64 * j));
            }
        }
    __asm__ volatile("" : : "v"(s[0]), "v"(s[1]), "v"(s[2]), "v"(s[3]));
}
PEAK_READS

#define TILE_LOOP(name, kind)                                                                      \
    static void name(long turns)                                                                   \
    {                                                                                              \
        tile_config c = {.palette = 1};                                                            \
        for (int t = 0; t < 8; t++)                                                                \
            TILE_SHAPE(c, t, 16, 64);                                                              \
        tile_configure(&c);                                                                        \
        for (; turns > 0; turns--) {                                                               \
            TILE_DOTS(kind, 0, 4, 6);                                                              \
            TILE_DOTS(kind, 1, 4, 7);                                                              \
            TILE_DOTS(kind, 2, 5, 6);                                                              \
            TILE_DOTS(kind, 3, 5, 7);                                                              \
        }                                                                                          \
        tile_release();                                                                            \
    }
TILE_LOOP(int8_tiles, bssd)
TILE_LOOP(bf16_tiles, bf16ps)
enum { TILE_OPS = 4 * 2 * 16 * 16 };

const mr_peak_loops mr_peak_amx = {{read_one_ask, read_two_asks},
                                   int8_tiles,
                                   f32,
                                   bf16_tiles,
                                   64 * TILE_OPS,
                                   24 * 32,
                                   32 * TILE_OPS};
const mr_peak_loops mr_peak_avx512 = {
    {read_one_ask, read_two_asks}, int8, f32, bf16, 24 * 128, 24 * 32, 24 * 64};
