/* A model's directory as convert and synth write it.
 *
 * Why:    nothing of a user's is written over unasked, and an error leaves nothing.
 * Owns:   the names that were written; `path` is the caller's.
 * Fails:  MR_EUSAGE for what is there already, MR_EIO.
 */
#ifndef MR_RUN_MODEL_DIR_H
#define MR_RUN_MODEL_DIR_H

#include "base/file.h"

enum { MR_DIR_FILES = 16 };

typedef struct mr_model_dir {
    const char *path;
    bool made;
    const char *written[MR_DIR_FILES]; /* literals */
    int n;
} mr_model_dir;

/* Names beside the weights that belong to the tokenizer or the run; NULL-terminated. */
extern const char *const mr_model_companions[];

/* Makes the directory, or takes an empty one; with `force` removes the model from one that is none.
 * `source`, a file or directory that is read meanwhile, must not be it or in it. */
mr_err mr_dir_open(mr_model_dir *d, const char *path, const char *source, bool force);
/* The path of a file that is to be written into it. */
mr_err mr_dir_file(mr_model_dir *d, const char *name, mr_buf *path);
mr_err mr_dir_write(mr_model_dir *d, const char *name, const void *bytes, size_t len);
/* After an error: what was written goes, and the directory if it was not there before. */
void mr_dir_remove(mr_model_dir *d);

/* Refuses a file that is there already, unless `force`. */
mr_err mr_file_unused(const char *path, bool force);

#endif
