/* Reading the parts of tokenizer.json: what several sections share.
 *
 * Fails:  MR_EFORMAT naming file and key for what is missing or of the wrong type.
 * Owns:   strings given out belong to the caller (mr_free).
 */
#ifndef MR_TEXT_READ_H
#define MR_TEXT_READ_H

#include "base/json.h"
#include "text/pieces.h"

enum { MR_KIND_MAX = 48 };

/* "type" of a section, at most MR_KIND_MAX - 1 bytes. */
mr_err mr_read_kind(mr_jval section, char kind[MR_KIND_MAX]);
/* MR_EUNSUPPORTED "FILE: PATH: WHAT of type "KIND" is not supported". */
mr_err mr_read_unknown(mr_jval section, const char *what, const char *kind);

/* A member that must be there. */
mr_err mr_read_text(mr_jval object, const char *key, char **out, size_t *len);
/* A member that may be absent or null, which gives the default. */
mr_err mr_read_flag(mr_jval object, const char *key, bool absent, bool *out);
/* "pattern": {"String": ...} or {"Regex": ...}. */
mr_err mr_read_pattern(mr_jval object, mr_pattern *out);
/* A member of one character. */
mr_err mr_read_char(mr_jval object, const char *key, char **out, size_t *len);

/* Bytes of s into out (3/4 of len at most); 0: is not base64. */
size_t mr_base64_decode(const char *s, size_t len, char *out);

#endif
