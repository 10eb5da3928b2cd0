/* Directories of models: made, filled, and removed after an error. */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "run/model_dir.h"

const char *const mr_model_companions[] = {"tokenizer.json",
                                           "tokenizer_config.json",
                                           "tokenizer.model",
                                           "tiktoken.model",
                                           "special_tokens_map.json",
                                           "added_tokens.json",
                                           "vocab.json",
                                           "merges.txt",
                                           "chat_template.jinja",
                                           "generation_config.json",
                                           "preprocessor_config.json",
                                           "processor_config.json",
                                           NULL};

/* What a reader would take for part of the model in a directory. */
static bool is_model_file(const char *name)
{
    for (int i = 0; mr_model_companions[i]; i++)
        if (strcmp(name, mr_model_companions[i]) == 0)
            return true;
    return strcmp(name, "config.json") == 0 || mr_ends_with(name, ".safetensors") ||
           mr_ends_with(name, ".safetensors.index.json");
}

static mr_err join(const char *dir, const char *name, mr_buf *out)
{
    mr_buf_clear(out);
    mr_buf_printf(out, "%s/%s", dir, name);
    return mr_buf_check(out);
}

/* Names in a directory other than "." and "..": calls fn for each until it fails. */
static mr_err each_name(const char *path, mr_err (*fn)(const char *path, const char *name))
{
    mr_err err = MR_OK;
    DIR *d = opendir(path);
    if (!d)
        return mr_fail_errno("read", path);
    for (struct dirent *e; !err && (e = readdir(d));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            err = fn(path, e->d_name);
    closedir(d);
    return err;
}

static mr_err refuse_name(const char *path, const char *name)
{
    return mr_fail(MR_EUSAGE, "%s: is there already and holds %s (--force replaces its model)",
                   path, name);
}

static mr_err remove_name(const char *path, const char *name)
{
    mr_buf full = {0};
    if (!is_model_file(name))
        return MR_OK;
    mr_err err = join(path, name, &full);
    if (!err && unlink(full.data) != 0)
        err = mr_fail_errno("remove", full.data);
    mr_buf_free(&full);
    return err;
}

static bool is_same(const struct stat *dir, const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && st.st_dev == dir->st_dev && st.st_ino == dir->st_ino;
}

static bool is_in(const struct stat *dir, const char *file)
{
    mr_buf parent = {0};
    const char *slash = strrchr(file, '/');
    if (slash)
        mr_buf_add(&parent, file, (size_t)(slash + 1 - file));
    else
        mr_buf_puts(&parent, ".");
    bool yes = !parent.failed && is_same(dir, parent.data);
    mr_buf_free(&parent);
    return yes;
}

mr_err mr_dir_open(mr_model_dir *d, const char *path, const char *source, bool force)
{
    struct stat here;
    *d = (mr_model_dir){.path = path, .made = mkdir(path, 0777) == 0};
    if (d->made)
        return MR_OK;
    if (errno != EEXIST || stat(path, &here) != 0)
        return mr_fail_errno("make", path);
    if (!S_ISDIR(here.st_mode))
        return mr_fail(MR_EUSAGE, "%s: is there already and is no directory", path);
    if (is_same(&here, source) || is_in(&here, source))
        return mr_fail(MR_EUSAGE, "%s: is what is read", path);
    return each_name(path, force ? remove_name : refuse_name);
}

mr_err mr_dir_file(mr_model_dir *d, const char *name, mr_buf *path)
{
    assert(d->n < MR_DIR_FILES);
    d->written[d->n++] = name;
    return join(d->path, name, path);
}

mr_err mr_dir_write(mr_model_dir *d, const char *name, const void *bytes, size_t len)
{
    mr_buf path = {0};
    mr_out o;
    mr_err err = mr_dir_file(d, name, &path);
    if (!err)
        err = mr_out_open(&o, path.data);
    if (!err) {
        mr_out_write(&o, bytes, len);
        err = mr_out_commit(&o);
    }
    mr_buf_free(&path);
    return err;
}

void mr_dir_remove(mr_model_dir *d)
{
    mr_buf path = {0};
    while (d->n > 0)
        if (!join(d->path, d->written[--d->n], &path))
            unlink(path.data);
    mr_buf_free(&path);
    if (d->made)
        rmdir(d->path);
}

mr_err mr_file_unused(const char *path, bool force)
{
    struct stat st;
    if (force || stat(path, &st) != 0 || !S_ISREG(st.st_mode))
        return MR_OK;
    return mr_fail(MR_EUSAGE, "%s: is there already (--force replaces it)", path);
}
