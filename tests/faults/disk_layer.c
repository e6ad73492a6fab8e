/* Between a role and the disk (LD_PRELOAD): writes down what is done below one folder, and fails what a test asks it to.
 *
 * DISK_LAYER_ROOT   the folder, absolute, no symbolic link in it
 * DISK_LAYER_LOG    file that records are appended to (power_cut.py reads it); absent: nothing is written down
 * DISK_LAYER_FAULT  file that a test has mapped (failing_disk.py writes it); absent: nothing fails
 *
 * Record: struct head, path, second path, data. Changes are written down when they were done; a flush when it begins
 * (only what stands before that is covered by it) and when it has succeeded. What leaves by a socket is written down
 * before it leaves. Not seen: mmap. SQLite maps its -shm file alone, which holds nothing that must last.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { CREATED = 1, WRITTEN, TRUNCATED, SYNC_BEGINS, SYNC_ENDS, RENAMED, UNLINKED, MADE_FOLDER, REMOVED_FOLDER, SENT };
enum { OPENING = 1, WRITING = 2, FLUSHING = 4, NAMING = 8, CUTTING = 16 }; /* of faults */
enum { SHOWN_OF_A_MESSAGE = 1024, OWN_DESCRIPTORS = 900 };

struct head {
    uint32_t magic, op, thread, path_length, second_length, data_length;
    uint64_t inode, offset;
};
struct fault {
    volatile int32_t error, kinds, from, seen, failed;
    char pattern[236];
};

static char root[PATH_MAX];
static size_t root_length;
static int log_descriptor = -1;
static struct fault *fault;

__attribute__((constructor)) static void begin(void)
{
    const char *folder = getenv("DISK_LAYER_ROOT"), *log = getenv("DISK_LAYER_LOG"), *rule = getenv("DISK_LAYER_FAULT");
    if (!folder) return;
    snprintf(root, sizeof root, "%s/", folder);
    root_length = strlen(root);
    if (log) {
        int first = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        log_descriptor = fcntl(first, F_DUPFD_CLOEXEC, OWN_DESCRIPTORS);
        syscall(SYS_close, first);
    }
    if (rule) {
        int descriptor = syscall(SYS_openat, AT_FDCWD, rule, O_RDWR | O_CLOEXEC, 0);
        void *at = mmap(NULL, sizeof *fault, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
        fault = at == MAP_FAILED ? NULL : at;
        syscall(SYS_close, descriptor);
    }
}

/* Absolute path of a name, if it lies below root. */
static int below(int folder, const char *name, char *path)
{
    if (!root_length || !name) return 0;
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
    } else {
        char link[64];
        snprintf(link, sizeof link, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
        ssize_t length = readlink(link, path, PATH_MAX - 2);
        if (length < 0) return 0;
        snprintf(path + length, PATH_MAX - length, "/%s", name);
    }
    return strncmp(path, root, root_length) == 0 && !strstr(path, "-shm");
}

/* Path of an open file, if it lies below root and has a name. */
static int opened_below(int descriptor, char *path)
{
    char link[64];
    if (!root_length) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    if (strncmp(path, root, root_length) && (strncmp(path, root, root_length - 1) || path[root_length - 1])) return 0;
    return !strstr(path, " (deleted)") && !strstr(path, "-shm");
}

static void note(int op, int descriptor, const char *path, const char *second, uint64_t offset, const struct iovec *data,
                 int pieces, size_t length)
{
    if (log_descriptor < 0) return;
    int kept = errno;
    struct stat facts = {0};
    if (descriptor >= 0) fstat(descriptor, &facts);
    struct head head = {0x4b534944, op, syscall(SYS_gettid), strlen(path), strlen(second), length, facts.st_ino, offset};
    struct iovec record[IOV_MAX];
    int count = 0;
    record[count++] = (struct iovec){&head, sizeof head};
    record[count++] = (struct iovec){(void *)path, head.path_length};
    record[count++] = (struct iovec){(void *)second, head.second_length};
    for (int i = 0; i < pieces && length && count < IOV_MAX; i++) {
        size_t part = data[i].iov_len < length ? data[i].iov_len : length;
        record[count++] = (struct iovec){data[i].iov_base, part};
        length -= part;
    }
    if (syscall(SYS_writev, log_descriptor, record, count) < 0 || length) abort();
    errno = kept;
}

static int fails(int kind, const char *path)
{
    if (!fault || !fault->error || !(fault->kinds & kind) || !strstr(path, fault->pattern)) return 0;
    if (__sync_add_and_fetch(&fault->seen, 1) < fault->from) return 0;
    __sync_add_and_fetch(&fault->failed, 1);
    errno = fault->error;
    return 1;
}

static int open_at(int folder, const char *name, int flags, mode_t mode)
{
    char path[PATH_MAX];
    int is_ours = (flags & (O_CREAT | O_WRONLY | O_RDWR)) && below(folder, name, path);
    int is_new = is_ours && (flags & O_CREAT) && syscall(SYS_faccessat, AT_FDCWD, path, F_OK, 0) != 0;
    if (is_ours && fails(OPENING, path)) return -1;
    int descriptor = syscall(SYS_openat, folder, name, flags | O_LARGEFILE, mode);
    if (descriptor >= 0 && is_new) note(CREATED, descriptor, path, "", 0, NULL, 0, 0);
    if (descriptor >= 0 && is_ours && (flags & O_TRUNC)) note(TRUNCATED, descriptor, path, "", 0, NULL, 0, 0);
    return descriptor;
}

#define OPENER(name, parameters, folder, path)                                                                         \
    int name parameters                                                                                                \
    {                                                                                                                  \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;                                      \
        va_end(rest);                                                                                                  \
        return open_at(folder, path, flags, mode);                                                                     \
    }
OPENER(open, (const char *path, int flags, ...), AT_FDCWD, path)
OPENER(open64, (const char *path, int flags, ...), AT_FDCWD, path)
OPENER(openat, (int folder, const char *path, int flags, ...), folder, path)
OPENER(openat64, (int folder, const char *path, int flags, ...), folder, path)
int __open_2(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }

/* position < 0: where the file stands. */
static ssize_t write_at(int descriptor, const struct iovec *data, int pieces, off64_t position)
{
    char path[PATH_MAX];
    int is_ours = opened_below(descriptor, path);
    if (is_ours && fails(WRITING, path)) return -1;
    ssize_t done = position < 0 ? syscall(SYS_writev, descriptor, data, pieces)
                                : syscall(SYS_pwritev, descriptor, data, pieces, position, 0);
    if (done > 0 && is_ours) {
        off64_t at = position < 0 ? lseek64(descriptor, 0, SEEK_CUR) - done : position;
        note(WRITTEN, descriptor, path, "", at, data, pieces, done);
    }
    return done;
}

ssize_t write(int descriptor, const void *data, size_t length)
{
    struct iovec one = {(void *)data, length};
    return write_at(descriptor, &one, 1, -1);
}
ssize_t pwrite(int descriptor, const void *data, size_t length, off_t at)
{
    struct iovec one = {(void *)data, length};
    return write_at(descriptor, &one, 1, at);
}
ssize_t pwrite64(int descriptor, const void *data, size_t length, off64_t at)
{
    struct iovec one = {(void *)data, length};
    return write_at(descriptor, &one, 1, at);
}
ssize_t writev(int descriptor, const struct iovec *data, int pieces) { return write_at(descriptor, data, pieces, -1); }
ssize_t pwritev(int descriptor, const struct iovec *data, int pieces, off_t at)
{
    return write_at(descriptor, data, pieces, at);
}
ssize_t pwritev64(int descriptor, const struct iovec *data, int pieces, off64_t at)
{
    return write_at(descriptor, data, pieces, at);
}
ssize_t pwritev2(int descriptor, const struct iovec *data, int pieces, off_t at, int flags)
{
    (void)flags;
    return write_at(descriptor, data, pieces, at);
}
ssize_t pwritev64v2(int descriptor, const struct iovec *data, int pieces, off64_t at, int flags)
{
    (void)flags;
    return write_at(descriptor, data, pieces, at);
}

/* Refused, so that the caller reads and writes: what is copied inside the kernel would not be seen here. */
ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t length, unsigned flags)
{
    char path[PATH_MAX];
    if (opened_below(to, path)) {
        errno = EXDEV;
        return -1;
    }
    return syscall(SYS_copy_file_range, from, from_at, to, to_at, length, flags);
}

static int cut(int descriptor, off64_t length)
{
    char path[PATH_MAX];
    int is_ours = opened_below(descriptor, path);
    if (is_ours && fails(CUTTING, path)) return -1;
    int code = syscall(SYS_ftruncate, descriptor, length);
    if (!code && is_ours) note(TRUNCATED, descriptor, path, "", length, NULL, 0, 0);
    return code;
}
int ftruncate(int descriptor, off_t length) { return cut(descriptor, length); }
int ftruncate64(int descriptor, off64_t length) { return cut(descriptor, length); }

/* Room that is reserved or given back changes no byte that must last: let through, unless the disk is full. */
int fallocate64(int descriptor, int mode, off64_t at, off64_t length)
{
    char path[PATH_MAX];
    if (opened_below(descriptor, path) && fails(WRITING, path)) return -1;
    return syscall(SYS_fallocate, descriptor, mode, at, length);
}

static int flush(int descriptor, long number)
{
    char path[PATH_MAX];
    int is_ours = opened_below(descriptor, path);
    if (is_ours && fails(FLUSHING, path)) return -1;
    if (is_ours) note(SYNC_BEGINS, descriptor, path, "", 0, NULL, 0, 0);
    int code = syscall(number, descriptor);
    if (!code && is_ours) note(SYNC_ENDS, descriptor, path, "", 0, NULL, 0, 0);
    return code;
}
int fsync(int descriptor) { return flush(descriptor, SYS_fsync); }
int fdatasync(int descriptor) { return flush(descriptor, SYS_fdatasync); }

static int named(int op, long code, const char *path, const char *second)
{
    if (!code) note(op, -1, path, second, 0, NULL, 0, 0);
    return code;
}
int rename(const char *from, const char *to)
{
    char path[PATH_MAX], second[PATH_MAX];
    if (!below(AT_FDCWD, from, path) || !below(AT_FDCWD, to, second)) return syscall(SYS_rename, from, to);
    if (fails(NAMING, second)) return -1;
    return named(RENAMED, syscall(SYS_rename, from, to), path, second);
}
int unlink(const char *name)
{
    char path[PATH_MAX];
    if (!below(AT_FDCWD, name, path)) return syscall(SYS_unlink, name);
    return fails(NAMING, path) ? -1 : named(UNLINKED, syscall(SYS_unlink, name), path, "");
}
int rmdir(const char *name)
{
    char path[PATH_MAX];
    if (!below(AT_FDCWD, name, path)) return syscall(SYS_rmdir, name);
    return fails(NAMING, path) ? -1 : named(REMOVED_FOLDER, syscall(SYS_rmdir, name), path, "");
}
int mkdir(const char *name, mode_t mode)
{
    char path[PATH_MAX];
    if (!below(AT_FDCWD, name, path)) return syscall(SYS_mkdir, name, mode);
    return fails(NAMING, path) ? -1 : named(MADE_FOLDER, syscall(SYS_mkdir, name, mode), path, "");
}

ssize_t send(int descriptor, const void *data, size_t length, int flags)
{
    struct iovec one = {(void *)data, length < SHOWN_OF_A_MESSAGE ? length : SHOWN_OF_A_MESSAGE};
    if (root_length) note(SENT, -1, "", "", 0, &one, 1, one.iov_len);
    return syscall(SYS_sendto, descriptor, data, length, flags, NULL, 0);
}
