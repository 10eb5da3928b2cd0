/* Tiles of AMX: eight registers of up to 16 rows of 64 bytes.
 *
 * Use:    tile_config c = {.palette = 1}; TILE_SHAPE(c, t, rows, bytes) for each register used;
 *         tile_configure(&c); TILE_...; tile_release()
 *         TILE_DOTS(kind, sum, x, w): sum[r][o] += the dots of row r of x with column o of w, whose rows
 *         hold quads (bssd, bsud: x int8, w int8 or not) or pairs (bf16ps) of the 16 columns.
 * Why:    as assembly, since gcc 12 takes ldtilecfg to read 8 bytes and drops the rest of what was written,
 *         and registers are named by constants all the same.
 * Threads: the registers are a thread's own; released, they cost no more when it is switched.
 */
#ifndef MR_BACKEND_CPU_TILES_AMX_H
#define MR_BACKEND_CPU_TILES_AMX_H

#include <stddef.h>
#include <stdint.h>

typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config;
_Static_assert(sizeof(tile_config) == 64, "as the CPU reads it");

#define TILE_SHAPE(config, t, n_rows, n_bytes)                                                     \
    ((config).rows[t] = (uint8_t)(n_rows), (config).row_bytes[t] = (uint16_t)(n_bytes))

static inline void tile_configure(const tile_config *c)
{
    __asm__ volatile("ldtilecfg %0" : : "m"(*c));
}

static inline void tile_release(void)
{
    __asm__ volatile("tilerelease");
}

#define TILE_ZERO(t) __asm__ volatile("tilezero %tmm" #t)
#define TILE_LOAD(t, from, stride)                                                                 \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t : : "r"(from), "r"(stride) : "memory")
#define TILE_STORE(t, to, stride)                                                                  \
    __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" : : "r"(to), "r"(stride) : "memory")
#define TILE_DOTS(kind, sum, x, w)                                                                 \
    __asm__ volatile("tdp" #kind " %tmm" #w ", %tmm" #x ", %tmm" #sum)

#endif
