/* What the two forms of synth share (synth.c: safetensors, synth_gguf.c: GGUF). */
#ifndef MR_RUN_SYNTH_H
#define MR_RUN_SYNTH_H

#include "run/engine.h"

/* Number `at` of tensor `index`: spread such that activations keep near 1. */
float mr_synth_number(uint64_t seed, int index, int64_t at, const char *name, int rank, int64_t k);
/* Bytes at..at+n of an endless random row; `at` a multiple of 16, out with 16 bytes to spare. */
void mr_synth_bytes(uint64_t seed, int index, uint64_t at, uint64_t n, uint8_t *out);
/* Name `i` of the dummy vocabulary: the 256 bytes in GPT-2's alphabet, then <256>, <257>..; *moved
 * counts the bytes that stand for others, from 0. */
void mr_synth_token(int64_t i, int *moved, char out[24]);
bool mr_synth_seen_before(const mr_model *m, int i); /* asked for by an earlier use */

mr_err mr_synth_gguf(const char *config, const char *path, const mr_synth_opts *o);

#endif
