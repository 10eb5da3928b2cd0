/* Replays a corpus through a fuzz target, without a fuzzer.
 *
 * Use:  link with one fuzz_*.c and the library; PROGRAM DIRECTORY... runs every file of each
 *       directory and prints how many; a directory without files is a failure.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f) {
        perror(path);
        return -1;
    }
    size_t len = 0, cap = 4096, n;
    uint8_t *data = malloc(cap);
    while (data && (n = fread(data + len, 1, cap - len, f)) > 0) {
        len += n;
        if (len < cap)
            continue;
        cap *= 2;
        uint8_t *more = realloc(data, cap);
        if (!more)
            free(data);
        data = more;
    }
    int bad = !data || ferror(f);
    fclose(f);
    if (bad)
        fprintf(stderr, "%s: cannot be read\n", path);
    else
        LLVMFuzzerTestOneInput(data, len);
    free(data);
    return bad ? -1 : 0;
}

/* In order of names, so that a crash comes at the same place each time. */
static int replay_dir(const char *dir)
{
    struct dirent **names;
    int n = scandir(dir, &names, NULL, alphasort), files = 0, bad = 0;
    if (n < 0) {
        perror(dir);
        return -1;
    }
    for (int i = 0; i < n; i++) {
        char path[4096];
        struct stat st;
        snprintf(path, sizeof path, "%s/%s", dir, names[i]->d_name);
        if (stat(path, &st) == 0 && S_ISREG(st.st_mode)) {
            files++;
            bad |= replay_file(path);
        }
        free(names[i]);
    }
    free(names);
    printf("%s: %d files\n", dir, files);
    return bad || files == 0 ? -1 : 0;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s DIRECTORY...\n", argv[0]);
        return 2;
    }
    int bad = 0;
    for (int i = 1; i < argc; i++)
        bad |= replay_dir(argv[i]);
    return bad ? 1 : 0;
}
