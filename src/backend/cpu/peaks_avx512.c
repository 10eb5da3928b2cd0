/* Peak loops with 512 bits and VNNI. */
#include <immintrin.h>

#include "backend/cpu/peaks.h"
#include "backend/cpu/peaks_lanes.h"

#define DOT(i) "vpdpbusd %%zmm13, %%zmm12, %%zmm" #i "\n\t"
#define FMA(i) "vfmadd231ps %%zmm13, %%zmm12, %%zmm" #i "\n\t"
PEAK_LOOP(int8, PEAK_EACH12(DOT))
PEAK_LOOP(f32, PEAK_EACH12(FMA))

static void read_all(const char *p, size_t bytes)
{
    __m512i s[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(),
                    _mm512_setzero_si512()};
    size_t part = bytes / PEAK_STREAMS;
    for (size_t i = 0; i + PEAK_UNIT <= part; i += PEAK_UNIT)
        for (size_t stream = 0; stream < PEAK_STREAMS; stream++) {
            const char *q = p + stream * part + i;
            for (int j = 0; j < PEAK_UNIT / 64; j++) {
                _mm_prefetch(q + PEAK_AHEAD + 64 * j, _MM_HINT_T0);
                s[j] = _mm512_add_epi64(s[j], _mm512_loadu_si512(q + 64 * j));
            }
        }
    __asm__ volatile("" : : "v"(s[0]), "v"(s[1]), "v"(s[2]), "v"(s[3]));
}

const mr_peak_loops mr_peak_avx512 = {read_all, int8, f32, 12 * 128, 12 * 32};
