/* Decoders: token texts back to text, as a stream.
 *
 * Why:    one implementation for all at once and for token by token, so that the two cannot
 *         differ: each step passes on what is certain and holds the rest until more tokens or the
 *         end decide.
 * Use:    mr_decoder d = {0}; MR_TRY(mr_decoder_read(&d, value)); mr_decoding run;
 *         MR_TRY(mr_decoding_init(&run, &d)); mr_decoding_push(&run, text, len, &out) ...;
 *         mr_decoding_end(&run, &out); mr_decoding_free(&run);
 * Owns:   a decoder owns its patterns; a decoding borrows its decoder.
 * Threads: a decoder is immutable once read; a decoding belongs to one thread at a time.
 * Fails:  MR_EUNSUPPORTED naming an unknown type.
 * Rules:  1. Only whole characters are appended to the output.
 *         2. After Fuse or ByteLevel all text is one token: later steps see fragments of it
 *            (`fused`).
 * Extend: a kind here, a reader, a case in take() and in finish() of decode.c.
 */
#ifndef MR_TEXT_DECODE_H
#define MR_TEXT_DECODE_H

#include "base/json.h"
#include "text/pieces.h"

typedef enum mr_dec_kind {
    MR_DEC_REPLACE,
    MR_DEC_BYTE_FALLBACK,
    MR_DEC_FUSE,
    MR_DEC_STRIP,
    MR_DEC_BYTE_LEVEL,
    MR_DEC_METASPACE,
    MR_DEC_PIECES, /* SentencePiece: marks become spaces */
    MR_DEC_JOIN    /* no decoder: a space between tokens */
} mr_dec_kind;

typedef struct mr_dec_step {
    mr_dec_kind kind;
    bool fused;         /* the input is fragments of one token */
    mr_pattern pattern; /* REPLACE; literal: the character of STRIP and METASPACE */
    char *content;      /* REPLACE */
    size_t content_len;
    size_t start, stop; /* STRIP: at most so many characters at each end */
    bool drop_first;    /* METASPACE, PIECES: a mark in the first token (at its start) vanishes */
    bool drop_all;      /* PIECES: as long as nothing is written */
    bool each;          /* BYTE_FALLBACK: a run that is not UTF-8 keeps the characters it holds */
} mr_dec_step;

typedef struct mr_decoder {
    mr_dec_step *v;
    size_t n, cap;
} mr_decoder;

/* Appends the steps of a section; absent or null means joining by spaces. */
mr_err mr_decoder_read(mr_decoder *d, mr_jval section);
/* Appends one step by hand (for vocabularies without tokenizer.json). */
mr_err mr_decoder_step(mr_decoder *d, mr_dec_kind kind, mr_dec_step **out);
mr_err mr_decoder_literal(mr_dec_step *s, const char *literal, const char *content);
void mr_decoder_free(mr_decoder *d);

typedef struct mr_dec_state {
    mr_buf hold, made;
    size_t tokens;  /* seen so far */
    size_t dropped; /* STRIP, fused: characters dropped at the start */
    bool inside;    /* STRIP, fused, and PIECES: past the start */
} mr_dec_state;

typedef struct mr_decoding {
    const mr_decoder *d;
    mr_dec_state *state;
    mr_scan scan;
    mr_runs runs;
} mr_decoding;

mr_err mr_decoding_init(mr_decoding *r, const mr_decoder *d);
void mr_decoding_free(mr_decoding *r);
mr_err mr_decoding_push(mr_decoding *r, const char *s, size_t len, mr_buf *out);
mr_err mr_decoding_end(mr_decoding *r, mr_buf *out); /* once, after the last push */

#endif
