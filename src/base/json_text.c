/* Strings in JSON text: decoding, comparing, and the search for duplicate keys.
 *
 * Keys are compared decoded ("a" equals "\u0061") without being stored decoded.  Few members are
 * compared in pairs; many go to a hash table that lives for the search only.  The hash is
 * SipHash-1-3 (Aumasson and Bernstein, 2012) under a key that the kernel gives this process, so a
 * file cannot be made to collide; the outcome does not depend on it.
 */
#include "base/json_doc.h"

#include <string.h>
#include <sys/auxv.h>

#include "base/mem.h"

/* ---- decoding -------------------------------------------------------------------------------- */

uint32_t mr_json_string_end(const char *text, uint32_t at)
{
    const char *p = text + at + 1;
    while (*p != '"')
        p += *p == '\\' ? 2 : 1;
    return (uint32_t)(p + 1 - text);
}

static uint32_t hex4(const char *p)
{
    uint32_t n = 0;
    for (int i = 0; i < 4; i++) {
        unsigned char c = (unsigned char)p[i];
        n = n << 4 | (c <= '9' ? c - (uint32_t)'0' : (c | 0x20u) - 'a' + 10u);
    }
    return n;
}

int mr_json_unescape(const char **p, char out[4])
{
    const char *s = *p;
    if (*s == '"')
        return 0;
    if (*s != '\\') {
        out[0] = *s;
        *p = s + 1;
        return 1;
    }
    if (s[1] != 'u') {
        static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
        out[0] = to[strchr(from, s[1]) - from];
        *p = s + 2;
        return 1;
    }
    uint32_t cp = hex4(s + 2);
    *p = s + 6;
    if (cp >= 0xd800 && cp < 0xdc00) {
        cp = 0x10000 + ((cp - 0xd800) << 10) + (hex4(s + 8) - 0xdc00);
        *p = s + 12;
    }
    return mr_utf8_encode(cp, out);
}

static bool decoded_is(const char *p, const char *z, size_t len)
{
    char c[4];
    int n;
    while ((n = mr_json_unescape(&p, c)) != 0) {
        if ((size_t)n > len || memcmp(c, z, (size_t)n) != 0)
            return false;
        z += n;
        len -= (size_t)n;
    }
    return len == 0;
}

bool mr_json_string_is(const char *text, uint32_t at, const char *z, size_t len)
{
    const char *p = text + at + 1;
    for (size_t i = 0;; i++) {
        if (p[i] == '"')
            return i == len;
        if (p[i] == '\\')
            return decoded_is(p + i, z + i, len - i);
        if (i == len || p[i] != z[i])
            return false;
    }
}

/* The decoded bytes one at a time, for two strings that may both hold escapes. */
typedef struct reader {
    const char *p;
    char bytes[4];
    int n, i;
} reader;

static int read_byte(reader *r)
{
    if (r->i == r->n) {
        r->n = mr_json_unescape(&r->p, r->bytes);
        r->i = 0;
        if (r->n == 0)
            return -1;
    }
    return (unsigned char)r->bytes[r->i++];
}

bool mr_json_string_same(const char *text, uint32_t a, uint32_t b)
{
    reader ra = {.p = text + a + 1}, rb = {.p = text + b + 1};
    int ca, cb;
    do {
        ca = read_byte(&ra);
        cb = read_byte(&rb);
    } while (ca == cb && ca >= 0);
    return ca == cb;
}

/* ---- SipHash-1-3 ----------------------------------------------------------------------------- */

typedef struct sip {
    uint64_t v0, v1, v2, v3;
} sip;

static inline uint64_t rotate(uint64_t x, int n)
{
    return x << n | x >> (64 - n);
}

static inline void sip_round(sip *s)
{
    s->v0 += s->v1;
    s->v1 = rotate(s->v1, 13) ^ s->v0;
    s->v0 = rotate(s->v0, 32);
    s->v2 += s->v3;
    s->v3 = rotate(s->v3, 16) ^ s->v2;
    s->v0 += s->v3;
    s->v3 = rotate(s->v3, 21) ^ s->v0;
    s->v2 += s->v1;
    s->v1 = rotate(s->v1, 17) ^ s->v2;
    s->v2 = rotate(s->v2, 32);
}

static inline void sip_word(sip *s, uint64_t word)
{
    s->v3 ^= word;
    sip_round(s);
    s->v0 ^= word;
}

static uint64_t hash_string(const uint64_t key[2], const char *text, uint32_t at)
{
    sip s = {key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d, key[0] ^ 0x6c7967656e657261,
             key[1] ^ 0x7465646279746573};
    reader r = {.p = text + at + 1};
    uint64_t word = 0, len = 0;
    int c;
    while ((c = read_byte(&r)) >= 0) {
        word |= (uint64_t)c << (8 * (len & 7));
        if ((++len & 7) == 0) {
            sip_word(&s, word);
            word = 0;
        }
    }
    sip_word(&s, word | len << 56);
    s.v2 ^= 0xff;
    for (int i = 0; i < 3; i++)
        sip_round(&s);
    return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

/* ---- duplicate keys -------------------------------------------------------------------------- */

static uint32_t twice_in_pairs(const char *text, const mr_json_node *nodes, uint32_t object,
                               uint32_t count)
{
    uint32_t c = object + 1;
    for (uint32_t i = 0; i < count; i++, c = nodes[c].after) {
        uint32_t before = object + 1;
        for (; before != c; before = nodes[before].after)
            if (mr_json_string_same(text, nodes[before].key, nodes[c].key))
                return c;
    }
    return 0;
}

typedef struct slot {
    uint32_t node; /* 0: free; a member is never node 0 */
    uint32_t tag;  /* the hash's other half: a table has at most 2^32 slots */
} slot;

mr_err mr_json_find_twice(const char *text, const mr_json_node *nodes, uint32_t object,
                          uint32_t count, uint32_t *twice)
{
    enum { PAIRS_MAX = 8 };
    *twice = 0;
    if (count <= PAIRS_MAX) {
        *twice = twice_in_pairs(text, nodes, object, count);
        return MR_OK;
    }
    size_t slots = 16;
    while (slots < (size_t)count + count / 2)
        slots *= 2;
    slot *table = mr_zalloc(MR_MEM_COMPILE, slots * sizeof *table);
    if (!table)
        return MR_ENOMEM;
    uint64_t key[2] = {0, 0};
    const void *random = (const void *)getauxval(AT_RANDOM); /* 16 bytes */
    if (random)
        memcpy(key, random, sizeof key);
    uint32_t c = object + 1;
    for (uint32_t i = 0; i < count && !*twice; i++, c = nodes[c].after) {
        uint64_t hash = hash_string(key, text, nodes[c].key);
        uint32_t tag = (uint32_t)(hash >> 32);
        size_t at = (size_t)hash & (slots - 1);
        for (; table[at].node; at = (at + 1) & (slots - 1))
            if (table[at].tag == tag &&
                mr_json_string_same(text, nodes[table[at].node].key, nodes[c].key))
                *twice = c;
        table[at] = (slot){.node = c, .tag = tag};
    }
    mr_free(table);
    return MR_OK;
}
