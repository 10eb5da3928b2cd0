/* The head of a saved session (state.h): bytes to numbers and back. */
#include "run/state.h"

#include <string.h>

static const char magic[8] = "MRSTATE";

static void put(uint8_t **at, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        *(*at)++ = (uint8_t)(v >> 8 * i);
}

static uint64_t take(const uint8_t **at, int bytes)
{
    uint64_t v = 0;
    for (int i = 0; i < bytes; i++)
        v |= (uint64_t) * (*at)++ << 8 * i;
    return v;
}

void mr_state_head_write(const mr_state_head *h, uint8_t out[MR_STATE_HEAD])
{
    memcpy(out, magic, sizeof magic);
    uint8_t *at = out + sizeof magic;
    put(&at, h->version, 4);
    put(&at, h->precision, 4);
    put(&at, h->element, 4);
    put(&at, h->caches, 4);
    const uint64_t wide[] = {h->graph,  h->weights, h->vocab, h->block,
                             h->length, h->floor,   h->plain, h->bytes};
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++)
        put(&at, wide[i], 8);
}

mr_err mr_state_head_read(mr_state_head *h, const char *file, const uint8_t *in, uint64_t size)
{
    if (size < sizeof magic || memcmp(in, magic, sizeof magic) != 0)
        return mr_fail(MR_EFORMAT, "%s: not a saved state", file);
    if (size < MR_STATE_HEAD + MR_STATE_CRC)
        return mr_fail(MR_EFORMAT, "%s: ends after %llu bytes", file, (unsigned long long)size);
    const uint8_t *at = in + sizeof magic;
    h->version = (uint32_t)take(&at, 4);
    if (h->version != MR_STATE_VERSION)
        return mr_fail(MR_EUNSUPPORTED, "%s: version %u; this build reads version %d", file,
                       h->version, MR_STATE_VERSION);
    h->precision = (uint32_t)take(&at, 4);
    h->element = (uint32_t)take(&at, 4);
    h->caches = (uint32_t)take(&at, 4);
    uint64_t *const wide[] = {&h->graph,  &h->weights, &h->vocab, &h->block,
                              &h->length, &h->floor,   &h->plain, &h->bytes};
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++)
        *wide[i] = take(&at, 8);
    if (h->bytes != size)
        return mr_fail(MR_EFORMAT, "%s: %llu bytes, %llu expected: it is cut short or damaged",
                       file, (unsigned long long)size, (unsigned long long)h->bytes);
    if (h->floor > h->length || h->length > INT32_MAX)
        return mr_fail(MR_EFORMAT, "%s: %llu positions from %llu are out of range", file,
                       (unsigned long long)h->length, (unsigned long long)h->floor);
    return MR_OK;
}
