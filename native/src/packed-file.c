#include "packed-file.h"

#include "error.h"
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* The path of the model, of its first file when it is split, with an ending of ours. NULL when out of memory. */
static char * beside(const commandr_model * model, const char * ending) {
    const size_t size = strlen(model->gguf->path) + strlen(ending) + 1;
    char *       path = malloc(size);
    if (path) {
        snprintf(path, size, "%s%s", model->gguf->path, ending);
    }
    return path;
}

bool commandr_packed_file_open(commandr_packed_file * file, const commandr_model * model,
                               struct ggml_context * tensors) {
    file->path = beside(model, ".packed");
    if (!file->path) {
        return false;
    }
    const int fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe of this name must not hold us up */
    if (fd < 0) {
        commandr_log(2, "%s: cannot be used: %s", file->path, strerror(errno));
        return false;
    }
    const char * wrong = commandr_packed_header_read(fd, model, &file->header);
    for (struct ggml_tensor * t = ggml_get_first_tensor(tensors); t && !wrong; t = ggml_get_next_tensor(tensors, t)) {
        wrong = commandr_packed_header_find(file->header, t->name) ? NULL : "it lacks tensors that are packed now";
    }
    if (!wrong && commandr_mapping_of(fd, file->path, &file->mapping) != COMMANDR_OK) {
        wrong = "it cannot be mapped into memory";
    }
    close(fd);
    if (wrong) {
        commandr_log(2, "%s: not used: %s", file->path, wrong);
        free(file->header);
        file->header = NULL;
    }
    return !wrong;
}

/* ---- writing ---- */

/* Says in the log why there is no file. Always false. */
static bool give_up(const commandr_packed_file * file, const char * why) {
    commandr_log(3, "%s: the packed weights are not kept: %s", file->path, why);
    return false;
}

static void discard(commandr_packed_file * file) {
    unlink(file->temporary);
    close(file->fd);
    free(file->temporary);
    file->temporary = NULL;
}

/* Makes the open temporary file ours alone. One that a killed process has left is taken over; one that another process
 * writes is not. Returns what is wrong, or NULL. */
static const char * take_over(int fd, const char * path) {
    struct stat st, named;
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        return errno == EWOULDBLOCK ? "another process is writing them" : strerror(errno);
    }
    if (fstat(fd, &st) != 0 || lstat(path, &named) != 0 || st.st_ino != named.st_ino || st.st_dev != named.st_dev) {
        return "another process has just written them";
    }
    if (!S_ISREG(st.st_mode) || st.st_nlink != 1) {
        return "what is to be the temporary file is something else";
    }
    return ftruncate(fd, 0) == 0 ? NULL : strerror(errno);
}

static bool open_temporary(commandr_packed_file * file, const commandr_model * model) {
    char * path = beside(model, ".packed.tmp");
    if (!path) {
        return give_up(file, "out of memory");
    }
    const int    fd    = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
    const char * wrong = fd < 0 ? strerror(errno) : take_over(fd, path);
    if (wrong) {
        if (fd >= 0) {
            close(fd);
        }
        free(path);
        return give_up(file, wrong);
    }
    file->temporary = path;
    file->fd        = fd;
    return true;
}

/* Writes all or keeps the first error. */
static void write_at(commandr_packed_file * file, int64_t offset, const void * data, int64_t size) {
    const char * bytes = data;
    while (size > 0 && atomic_load(&file->error) == 0) {
        const ssize_t n = pwrite(file->fd, bytes, (size_t) size, (off_t) offset);
        if (n < 0 && errno != EINTR) {
            atomic_store(&file->error, errno);
        } else if (n > 0) {
            bytes += n;
            offset += n;
            size -= n;
        }
    }
}

bool commandr_packed_file_create(commandr_packed_file * file, const commandr_model * model,
                                 struct ggml_context * tensors) {
    struct stat st;
    if (!file->path) {
        return false;
    }
    if (lstat(file->path, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISLNK(st.st_mode)) {
        return give_up(file, "what has their name is not a file");
    }
    if (!open_temporary(file, model)) {
        return false;
    }
    int64_t        size = 0;
    struct statvfs disk;
    char           why[128] = "";
    file->header            = commandr_packed_header_make(model, tensors, &size);
    if (!file->header) {
        snprintf(why, sizeof(why), "out of memory");
    } else if (stat(model->gguf->path, &st) != 0 || fchmod(file->fd, st.st_mode & 0666) != 0) {
        snprintf(why, sizeof(why), "%s", strerror(errno)); /* who may not read the model may not read its copy */
    } else if (fstatvfs(file->fd, &disk) == 0 && (double) disk.f_bavail * (double) disk.f_frsize < (double) size) {
        snprintf(why, sizeof(why), "they take %.2f GiB, and %.2f are free", (double) size / (1 << 30),
                 (double) disk.f_bavail * (double) disk.f_frsize / (1 << 30));
    }
    if (why[0]) {
        discard(file);
        return give_up(file, why);
    }
    atomic_store(&file->error, 0);
    return true;
}

void commandr_packed_file_write(commandr_packed_file * file, const struct ggml_tensor * tensor, int64_t from,
                                const void * data, int64_t size) {
    write_at(file, commandr_packed_header_find(file->header, tensor->name)->offset + from, data, size);
}

bool commandr_packed_file_finish(commandr_packed_file * file) {
    /* The header comes last, and the name when all of it is on the disk: what is found by that name is complete. */
    if (atomic_load(&file->error) == 0) {
        errno = EIO;
        if (commandr_packed_header_seal(file->header, file->fd)) {
            write_at(file, 0, file->header, commandr_packed_header_size(file->header));
        } else {
            atomic_store(&file->error, errno);
        }
    }
    int error = atomic_load(&file->error);
    if (error == 0 && (fsync(file->fd) != 0 || rename(file->temporary, file->path) != 0)) {
        error = errno;
    }
    if (error != 0) {
        discard(file);
        return give_up(file, strerror(error));
    }
    const bool is_mapped = commandr_mapping_of(file->fd, file->path, &file->mapping) == COMMANDR_OK;
    close(file->fd);
    free(file->temporary);
    file->temporary = NULL;
    return is_mapped || give_up(file, "they cannot be mapped into memory");
}

/* ---- either ---- */

uint8_t * commandr_packed_file_data(const commandr_packed_file * file, const struct ggml_tensor * tensor) {
    return file->mapping.data + commandr_packed_header_find(file->header, tensor->name)->offset;
}

void commandr_packed_file_close(commandr_packed_file * file) {
    if (file->temporary) {
        discard(file);
    }
    commandr_mapping_close(&file->mapping);
    free(file->header);
    free(file->path);
    *file = (commandr_packed_file) { .path = NULL };
}
