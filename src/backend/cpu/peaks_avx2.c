/* Peak loops with 256 bits. */
#include <immintrin.h>

#include "backend/cpu/peaks.h"
#include "backend/cpu/peaks_lanes.h"

/* AVX2 has no dot: multiply bytes in pairs, widen, add. */
#define DOT(i)                                                                                     \
    "vpmaddubsw %%ymm13, %%ymm12, %%ymm14\n\tvpmaddwd %%ymm13, %%ymm14, %%ymm15\n\t"               \
    "vpaddd %%ymm15, %%ymm" #i ", %%ymm" #i "\n\t"
#define FMA(i) "vfmadd231ps %%ymm13, %%ymm12, %%ymm" #i "\n\t"
PEAK_LOOP(int8, PEAK_EACH12(DOT))
PEAK_LOOP(f32, PEAK_EACH12(FMA))

PEAK_INLINE void read_streams(const char *p, size_t bytes, size_t streams, size_t near, size_t far)
{
    __m256i s[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                    _mm256_setzero_si256()};
    size_t part = bytes / streams;
    for (size_t i = 0; i + PEAK_UNIT <= part; i += PEAK_UNIT)
        for (size_t stream = 0; stream < streams; stream++) {
            const char *q = p + stream * part + i;
            for (int j = 0; j < PEAK_UNIT / 64; j++) {
                _mm_prefetch(q + near + 64 * j, _MM_HINT_T0);
                if (far)
                    _mm_prefetch(q + far + 64 * j, _MM_HINT_T1);
            }
            for (int j = 0; j < PEAK_UNIT / 32; j++)
                s[j % 4] = _mm256_add_epi64(
                    s[j % 4], _mm256_loadu_si256((const __m256i *)(const void *)(q + 32 * j)));
        }
    __asm__ volatile("" : : "x"(s[0]), "x"(s[1]), "x"(s[2]), "x"(s[3]));
}
PEAK_READS

const mr_peak_loops mr_peak_avx2 = {
    {read_one_ask, read_two_asks}, int8, f32, NULL, 12 * 64, 12 * 16, 0};
