/* config.json's facts and a vocabulary as GGUF metadata, for the architectures that this build writes.
 *
 * Why:    synth and convert write GGUF files; what such a file must say is here once.
 * Use:    MR_TRY(mr_gguf_arch(m, &arch)); MR_TRY(mr_gguf_meta(w, m, arch)); mr_gguf_meta_vocab(w, &v)
 * Fails:  MR_EUNSUPPORTED naming the key that GGUF's readers would not honour: a file that says less
 *         than its model is would be another model.
 * Extend: the family's gguf_meta, or a row in the tables of gguf_meta.c; and one that names the
 *         architecture.
 */
#ifndef MR_RUN_GGUF_META_H
#define MR_RUN_GGUF_META_H

#include "run/engine.h"

/* The architecture a model is written as. */
mr_err mr_gguf_arch(const mr_model *m, const char **arch);
mr_err mr_gguf_meta(mr_gguf_writer *w, const mr_model *m, const char *arch);
/* tokenizer.ggml.model of a file without a tokenizer: other programs miss the key. */
#define MR_GGUF_NO_TOKENIZER "none"
bool mr_gguf_has_vocab(const mr_gguf *g);
void mr_gguf_meta_vocab(mr_gguf_writer *w, const mr_vocab *v);
/* Frequency divisors of rope type llama3, which GGUF keeps as the tensor rope_freqs.weight: *n of
 * them (0: none needed) into *out, which mr_free frees. */
mr_err mr_gguf_rope_factors(const mr_model *m, float **out, int64_t *n);
/* Gemma 3's: of global layers, and of local ones; MR_EUNSUPPORTED for scaling that GGUF has no key for. */
mr_err mr_gemma3_ropes(mr_jval text, const mr_model_info *info, mr_rope_spec *global,
                       mr_rope_spec *local);
/* Every how many layers the first global one comes again; *regular: all of them do. */
int64_t mr_pattern_period(const bool *global, int64_t layers, bool *regular);
#endif
