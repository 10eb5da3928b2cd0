/* A tokenizer of a plain vocabulary as a tokenizer.json.
 *
 * Why:    a GGUF file holds its tokenizer in its metadata; `convert` writes it as other programs want
 *         it beside safetensors.
 * Use:    mr_buf text = {0}; MR_TRY(mr_tokenizer_write(t, &text)); ... mr_buf_free(&text);
 * Fails:  MR_EUNSUPPORTED for a step that no plain vocabulary has (a tokenizer.json is there already
 *         then).
 */
#ifndef MR_TEXT_TOKENIZER_WRITE_H
#define MR_TEXT_TOKENIZER_WRITE_H

#include "text/tokenizer.h"

/* Appends the content of tokenizer.json. */
mr_err mr_tokenizer_write(const mr_tokenizer *t, mr_buf *out);
/* Appends that of tokenizer_config.json: the special tokens and the chat template. */
mr_err mr_tokenizer_write_config(const mr_tokenizer *t, mr_buf *out);

#endif
