/* Philox 4x32-10: ten rounds of two 32x32->64 multiplications, keyed by the seed.
 *
 * The counter is (position low, position high, draw low, draw high), the key (seed low, seed high).
 * This order is part of what a seed means: changing it changes every sample.
 */
#include "base/rng.h"

void mr_philox(uint64_t seed, uint64_t position, uint64_t draw, uint32_t out[4])
{
    uint32_t c0 = (uint32_t)position, c1 = (uint32_t)(position >> 32);
    uint32_t c2 = (uint32_t)draw, c3 = (uint32_t)(draw >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xd2511f53u * c0, b = (uint64_t)0xcd9e8d57u * c2;
        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)b;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)a;
        k0 += 0x9e3779b9u; /* golden ratio */
        k1 += 0xbb67ae85u; /* sqrt(3) - 1 */
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

double mr_uniform(uint64_t seed, uint64_t position, uint64_t draw)
{
    uint32_t r[4];
    mr_philox(seed, position, draw, r);
    uint64_t bits = ((uint64_t)r[1] << 32 | r[0]) >> 11;
    return (double)bits * 0x1p-53;
}
