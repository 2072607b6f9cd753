/*
 * Stands between a process and the C library, with LD_PRELOAD: counts, records and breaks what it
 * does to the files below one folder, and shifts its wall clock.
 *
 * What to do lies in a file that the test maps as well (support/faults.py has the same struct), so
 * that it can change while the process runs. Children are left alone: the variables are taken
 * out of the environment first of all.
 *
 * Not followed: what is written through mmap. SQLite's -shm is, and is never durable.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum kind { WRITE = 1, SYNC = 2, NAME = 4, SIZE = 8 };
enum action { NONE, KILL, KILL_TORN, FAIL_ONCE, FAIL_FROM };
enum operation { OP_WRITE, OP_SYNC, OP_CREATE, OP_MKDIR, OP_RENAME, OP_UNLINK, OP_LINK, OP_SIZE,
                 OP_SYNC_ALL };

struct control {
    char root[1024];
    char record[1024];
    _Atomic uint64_t calls;
    _Atomic uint64_t at;
    _Atomic uint32_t kinds;
    _Atomic uint32_t action;
    _Atomic uint32_t error;
    _Atomic uint32_t sync_delay_us;
    _Atomic int64_t wall_offset_s;
};

struct header {
    uint32_t operation, path_bytes, other_bytes, data_bytes;
    int64_t offset;
};

static struct control *control;
static size_t root_bytes;
static int record_fd = -1;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAULTS_CONTROL");
    int fd = path ? REAL(open64)(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *at = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (at == MAP_FAILED) return;
    control = at;
    root_bytes = strlen(control->root);
    if (control->record[0])
        record_fd = REAL(open64)(control->record, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (!getenv("FAULTS_INHERIT")) {
        unsetenv("LD_PRELOAD");
        unsetenv("FAULTS_CONTROL");
    }
}

/* ---- which file */

static int is_below(const char *path) {
    return control && !strncmp(path, control->root, root_bytes) &&
           (path[root_bytes] == '/' || !path[root_bytes]);
}

/* The path of an open file below the root; 0 for any other. */
static int path_of(int fd, char *path) {
    char link[64];
    if (!control || fd < 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t count = readlink(link, path, PATH_MAX - 1);
    if (count <= 0) return 0;
    path[count] = 0;
    return is_below(path);
}

/* The whole path of a name in a folder; 0 where it lies elsewhere. */
static int path_at(int dir_fd, const char *name, char *path) {
    char folder[PATH_MAX] = "";
    if (!control || !name) return 0;
    if (name[0] != '/') {
        if (dir_fd == AT_FDCWD ? !getcwd(folder, sizeof folder) : !path_of(dir_fd, folder)) return 0;
        strcat(folder, "/");
    }
    if (strlen(folder) + strlen(name) >= PATH_MAX) return 0;
    strcpy(path, folder);
    strcat(path, !strncmp(name, "./", 2) ? name + 2 : name);
    return is_below(path);
}

/* ---- what happens at a call */

enum fate { GOES_ON, FAILS, TEARS };

static enum fate fate_of(enum kind kind) {
    if (!(atomic_load(&control->kinds) & kind)) return GOES_ON;
    uint64_t call = atomic_fetch_add(&control->calls, 1) + 1, at = atomic_load(&control->at);
    if (!at || call < at) return GOES_ON;
    switch (atomic_load(&control->action)) {
    case KILL_TORN:
        if (call == at && kind == WRITE) return TEARS;
        /* fall through */
    case KILL:
        kill(getpid(), SIGKILL);
        pause();
        return FAILS;
    case FAIL_ONCE:
        if (call > at) return GOES_ON;
        break;
    case FAIL_FROM:
        break;
    default:
        return GOES_ON;
    }
    errno = (int)atomic_load(&control->error);
    return FAILS;
}

static void take_turn(void) { if (record_fd >= 0) pthread_mutex_lock(&turn); }

static void give_turn(void) {
    int kept = errno;
    if (record_fd >= 0) pthread_mutex_unlock(&turn);
    errno = kept;
}

/* Notes what was done, in the order in which it was done. The caller has the turn. */
static void note(enum operation operation, const char *path, const char *other, int64_t offset,
                 const void *data, size_t size) {
    if (record_fd < 0) return;
    int kept = errno;
    struct header header = {operation, strlen(path), other ? strlen(other) : 0, size, offset};
    struct iovec parts[] = {{&header, sizeof header}, {(void *)path, header.path_bytes},
                            {(void *)other, header.other_bytes}, {(void *)data, size}};
    size_t whole = sizeof header + header.path_bytes + header.other_bytes + size;
    if (REAL(writev)(record_fd, parts, 4) != (ssize_t)whole) abort();
    errno = kept;
}

/* ---- bytes */

static ssize_t put(int fd, const void *data, size_t size, int64_t offset, int has_offset) {
    char path[PATH_MAX];
    enum fate fate = GOES_ON;
    int is_ours = path_of(fd, path);
    if (is_ours && (fate = fate_of(WRITE)) == FAILS) return -1;
    if (fate == TEARS) size /= 2;
    if (is_ours) take_turn();
    if (is_ours && !has_offset) {
        int is_append = fcntl(fd, F_GETFL) & O_APPEND;
        offset = lseek(fd, 0, is_append ? SEEK_END : SEEK_CUR);
    }
    ssize_t done = has_offset ? REAL(pwrite64)(fd, data, size, offset) : REAL(write)(fd, data, size);
    if (is_ours && done > 0) note(OP_WRITE, path, NULL, offset, data, (size_t)done);
    if (is_ours) give_turn();
    if (fate == TEARS) {
        kill(getpid(), SIGKILL);
        pause();
    }
    return done;
}

ssize_t write(int fd, const void *data, size_t size) { return put(fd, data, size, 0, 0); }

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    return put(fd, data, size, offset, 1);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    return put(fd, data, size, offset, 1);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    char path[PATH_MAX];
    if (!path_of(fd, path)) return REAL(writev)(fd, parts, count);
    ssize_t whole = 0;
    for (int i = 0; i < count; i++) {
        ssize_t done = put(fd, parts[i].iov_base, parts[i].iov_len, 0, 0);
        if (done < 0) return whole ? whole : done;
        whole += done;
        if ((size_t)done < parts[i].iov_len) break;
    }
    return whole;
}

int ftruncate64(int fd, off64_t size) {
    char path[PATH_MAX];
    int is_ours = path_of(fd, path);
    if (is_ours && fate_of(SIZE) == FAILS) return -1;
    if (is_ours) take_turn();
    int done = REAL(ftruncate64)(fd, size);
    if (is_ours && !done) note(OP_SIZE, path, NULL, size, NULL, 0);
    if (is_ours) give_turn();
    return done;
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

/* ---- durability */

static int make_durable(int fd, const char *name, enum operation operation) {
    char path[PATH_MAX];
    int is_ours = path_of(fd, path);
    if (is_ours && fate_of(SYNC) == FAILS) return -1;
    uint32_t delay_us = is_ours ? atomic_load(&control->sync_delay_us) : 0;
    if (delay_us) usleep(delay_us);
    if (is_ours) take_turn();
    int done = ((int (*)(int))real(name))(fd);
    if (is_ours && !done) note(operation, path, NULL, 0, NULL, 0);
    if (is_ours) give_turn();
    return done;
}

int fsync(int fd) { return make_durable(fd, "fsync", OP_SYNC); }
int fdatasync(int fd) { return make_durable(fd, "fdatasync", OP_SYNC); }
int syncfs(int fd) { return make_durable(fd, "syncfs", OP_SYNC_ALL); }

/* ---- names */

static int open_file(int dir_fd, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    struct stat found;
    int may_create = flags & O_CREAT && path_at(dir_fd, name, path);
    int is_new = may_create && lstat(path, &found) && errno == ENOENT;
    int empties = flags & O_TRUNC && path_at(dir_fd, name, path);
    if (is_new && fate_of(NAME) == FAILS) return -1;
    if (is_new || empties) take_turn();
    int fd = REAL(openat64)(dir_fd, name, flags, mode);
    if (fd >= 0 && is_new) note(OP_CREATE, path, NULL, 0, NULL, 0);
    else if (fd >= 0 && empties) note(OP_SIZE, path, NULL, 0, NULL, 0);
    if (is_new || empties) give_turn();
    return fd;
}

static mode_t mode_of(int flags, va_list rest) {
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
}

#define OPEN_WITH(folder)                                                                          \
    va_list rest;                                                                                  \
    va_start(rest, flags);                                                                         \
    mode_t mode = mode_of(flags, rest);                                                            \
    va_end(rest);                                                                                  \
    return open_file(folder, name, flags, mode)

int open(const char *name, int flags, ...) { OPEN_WITH(AT_FDCWD); }
int open64(const char *name, int flags, ...) { OPEN_WITH(AT_FDCWD); }
int openat(int dir_fd, const char *name, int flags, ...) { OPEN_WITH(dir_fd); }
int openat64(int dir_fd, const char *name, int flags, ...) { OPEN_WITH(dir_fd); }

/* Calls that change one name: `call` is made between the decision and the note. */
#define ONE_NAME(folder, operation, call)                                                          \
    char path[PATH_MAX];                                                                           \
    int is_ours = path_at(folder, name, path);                                                     \
    if (is_ours && fate_of(NAME) == FAILS) return -1;                                              \
    if (is_ours) take_turn();                                                                      \
    int done = call;                                                                               \
    if (is_ours && !done) note(operation, path, NULL, 0, NULL, 0);                                 \
    if (is_ours) give_turn();                                                                      \
    return done

int mkdir(const char *name, mode_t mode) { ONE_NAME(AT_FDCWD, OP_MKDIR, REAL(mkdir)(name, mode)); }

int mkdirat(int dir_fd, const char *name, mode_t mode) {
    ONE_NAME(dir_fd, OP_MKDIR, REAL(mkdirat)(dir_fd, name, mode));
}

int unlink(const char *name) { ONE_NAME(AT_FDCWD, OP_UNLINK, REAL(unlink)(name)); }
int rmdir(const char *name) { ONE_NAME(AT_FDCWD, OP_UNLINK, REAL(rmdir)(name)); }

int unlinkat(int dir_fd, const char *name, int flags) {
    ONE_NAME(dir_fd, OP_UNLINK, REAL(unlinkat)(dir_fd, name, flags));
}

/* Calls that give a file a name by another one. */
#define TWO_NAMES(from_fd, to_fd, operation, call)                                                 \
    char path[PATH_MAX], other[PATH_MAX];                                                          \
    int is_ours = path_at(from_fd, from, path) & path_at(to_fd, to, other);                        \
    if (is_ours && fate_of(NAME) == FAILS) return -1;                                              \
    if (is_ours) take_turn();                                                                      \
    int done = call;                                                                               \
    if (is_ours && !done) note(operation, path, other, 0, NULL, 0);                                \
    if (is_ours) give_turn();                                                                      \
    return done

int rename(const char *from, const char *to) {
    TWO_NAMES(AT_FDCWD, AT_FDCWD, OP_RENAME, REAL(rename)(from, to));
}

int renameat(int from_fd, const char *from, int to_fd, const char *to) {
    TWO_NAMES(from_fd, to_fd, OP_RENAME, REAL(renameat)(from_fd, from, to_fd, to));
}

int link(const char *from, const char *to) {
    TWO_NAMES(AT_FDCWD, AT_FDCWD, OP_LINK, REAL(link)(from, to));
}

int linkat(int from_fd, const char *from, int to_fd, const char *to, int flags) {
    TWO_NAMES(from_fd, to_fd, OP_LINK, REAL(linkat)(from_fd, from, to_fd, to, flags));
}

/* ---- the wall clock, for Python alone: gRPC and libc hand absolute times back to the kernel */

static int64_t shift_s(const void *caller) {
    Dl_info place;
    int64_t offset_s = control ? atomic_load(&control->wall_offset_s) : 0;
    if (!offset_s || !dladdr(caller, &place) || !place.dli_fname) return 0;
    return strstr(place.dli_fname, "python") && !strstr(place.dli_fname, "site-packages") ? offset_s
                                                                                          : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int done = REAL(clock_gettime)(clock, now);
    if (!done && clock == CLOCK_REALTIME) now->tv_sec += shift_s(__builtin_return_address(0));
    return done;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int done = REAL(gettimeofday)(now, zone);
    if (!done) now->tv_sec += shift_s(__builtin_return_address(0));
    return done;
}
