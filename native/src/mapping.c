#include "mapping.h"

#include "error.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

commandr_status commandr_mapping_open(const char * path, commandr_mapping * mapping) {
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return commandr_fail(COMMANDR_ERROR_IO, "%s: cannot be opened: %s", path, strerror(errno));
    }
    const commandr_status status = commandr_mapping_of(fd, path, mapping);
    close(fd);
    return status;
}

static int64_t mtime_ns(const struct stat * st) {
#ifdef __APPLE__
    const struct timespec time = st->st_mtimespec;
#else
    const struct timespec time = st->st_mtim;
#endif
    return (int64_t) time.tv_sec * 1000000000 + time.tv_nsec;
}

commandr_status commandr_mapping_of(int fd, const char * path, commandr_mapping * mapping) {
    struct stat st;
    void *      data = MAP_FAILED;
    if (fstat(fd, &st) == 0 && st.st_size > 0) {
        data = mmap(NULL, (size_t) st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    }
    if (data == MAP_FAILED) {
        return commandr_fail(COMMANDR_ERROR_IO, "%s: cannot be mapped into memory: %s", path, strerror(errno));
    }
    mapping->data     = data;
    mapping->size     = (int64_t) st.st_size;
    mapping->mtime_ns = mtime_ns(&st);
    return COMMANDR_OK;
}

void commandr_mapping_close(commandr_mapping * mapping) {
    if (mapping->data) {
        munmap(mapping->data, (size_t) mapping->size);
        mapping->data = NULL;
    }
}

/* Advises on a range. inner: only the pages that lie wholly inside it, else all that touch it. */
static void advise(const commandr_mapping * mapping, int64_t offset, int64_t size, int advice, bool inner) {
    const int64_t page  = (int64_t) sysconf(_SC_PAGESIZE);
    const int64_t start = inner ? (offset + page - 1) / page * page : offset / page * page;
    const int64_t end   = inner ? (offset + size) / page * page : offset + size;
    if (end > start) {
        madvise(mapping->data + start, (size_t) (end - start), advice); /* a hint: failure changes speed only */
    }
}

void commandr_mapping_prefetch(const commandr_mapping * mapping, int64_t offset, int64_t size) {
    advise(mapping, offset, size, MADV_WILLNEED, false);
}

void commandr_mapping_drop(const commandr_mapping * mapping, int64_t offset, int64_t size) {
    advise(mapping, offset, size, MADV_DONTNEED, true);
}

void commandr_memory_huge(void * data, size_t size) {
#ifdef MADV_HUGEPAGE
    const uintptr_t page  = (uintptr_t) sysconf(_SC_PAGESIZE);
    const uintptr_t start = ((uintptr_t) data + page - 1) / page * page;
    const uintptr_t end   = ((uintptr_t) data + size) / page * page;
    if (end > start) {
        madvise((void *) start, end - start, MADV_HUGEPAGE); /* a hint */
    }
#else
    (void) data;
    (void) size;
#endif
}
