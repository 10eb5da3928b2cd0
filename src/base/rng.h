/* Random numbers as a pure function of (seed, position, draw): Philox 4x32-10.
 *
 * Why:    a sample must not depend on how many numbers were drawn before it (speculation, batching,
 *         restore), so there is no generator state.  Salmon et al., SC 2011.
 */
#ifndef MR_BASE_RNG_H
#define MR_BASE_RNG_H

#include <stdint.h>

void mr_philox(uint64_t seed, uint64_t position, uint64_t draw, uint32_t out[4]);
/* Uniform in [0, 1): the top 53 bits of out[1]:out[0]. */
double mr_uniform(uint64_t seed, uint64_t position, uint64_t draw);

#endif
