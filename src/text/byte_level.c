/* 33-126, 161-172 and 174-255 stand for themselves; the other 68 bytes, in order, are 256, 257, ...
 */
#include "text/byte_level.h"

static uint32_t char_of(unsigned b)
{
    if ((b >= 33 && b <= 126) || (b >= 161 && b != 173))
        return b;
    if (b < 33)
        return 256 + b;
    return b == 173 ? 256 + 67 : 256 + 33 + (b - 127);
}

void mr_byte_level_encode(const char *s, size_t len, mr_buf *out)
{
    for (size_t i = 0; i < len; i++) {
        char b[4];
        mr_buf_add(out, b, (size_t)mr_utf8_encode(char_of((unsigned char)s[i]), b));
    }
}

int mr_byte_level_byte(uint32_t cp)
{
    if (cp < 256)
        return char_of(cp) == cp ? (int)cp : -1;
    if (cp < 256 + 33)
        return (int)(cp - 256);
    if (cp < 256 + 67)
        return (int)(cp - 256 - 33 + 127);
    return cp == 256 + 67 ? 173 : -1;
}
