/* CRC-32 (of zip and PNG: reflected, polynomial 0xedb88320), piece by piece.
 *
 * Use:    mr_crc c; mr_crc_begin(&c); mr_crc_add(&c, p, n); uint32_t v = mr_crc_value(&c);
 */
#ifndef MR_BASE_CRC_H
#define MR_BASE_CRC_H

#include <stddef.h>
#include <stdint.h>

typedef struct mr_crc {
    uint32_t table[256], value;
} mr_crc;

static inline void mr_crc_begin(mr_crc *c)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t v = i;
        for (int bit = 0; bit < 8; bit++)
            v = v & 1 ? v >> 1 ^ 0xedb88320u : v >> 1;
        c->table[i] = v;
    }
    c->value = 0xffffffffu;
}

static inline void mr_crc_add(mr_crc *c, const void *bytes, size_t n)
{
    const uint8_t *p = bytes;
    uint32_t v = c->value;
    for (size_t i = 0; i < n; i++)
        v = v >> 8 ^ c->table[(v ^ p[i]) & 255];
    c->value = v;
}

static inline uint32_t mr_crc_value(const mr_crc *c)
{
    return ~c->value;
}

#endif
