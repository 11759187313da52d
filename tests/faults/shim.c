// Loaded into the server (LD_PRELOAD): lets what it writes to its database and WAL fail, as the first letter of
// the file named by FAULT_FILE says. f: disk full, e: I/O error, r: read-only, p: disk full in the middle of a
// write, s: what was written can't be put on disk, i: I/O error of reads, t: half a write, then the machine is gone,
// l: the machine is gone, and with it all that was not put on disk (only with POWER_LOSS set: it costs), h: a write to
// the copy that a backup is to be hangs, and the file says H, until it says something else, n: a directory that is
// finished does not get its name. Anything else: fine.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static char letter(void) {
    const char *control = getenv("FAULT_FILE");
    if (!control) return 0;
    int file = syscall(SYS_openat, AT_FDCWD, control, O_RDONLY, 0);
    if (file < 0) return 0;
    char what = 0;
    if (syscall(SYS_read, file, &what, 1) != 1) what = 0;
    syscall(SYS_close, file);
    return what;
}

static void say(const char *what) {
    int file = syscall(SYS_openat, AT_FDCWD, getenv("FAULT_FILE"), O_WRONLY, 0);
    syscall(SYS_write, file, what, 1);
    syscall(SYS_close, file);
}

// The path of a database or WAL, without what is mapped; 0 for other files.
static int is_kept(int fd, char *path, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, size - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    const char *name = strrchr(path, '/');
    return name && strncmp(name, "/latchkey.db", 12) == 0 && !strstr(name, "-shm");
}

static char fault(int fd) {
    char path[4096];
    if (!getenv("FAULT_FILE") || !is_kept(fd, path, sizeof path)) return 0;
    char what = letter();
    return what == 'h' && !strstr(path, ".unfinished-") ? 0 : what;
}

// What a file held where it was written since it was last put on disk: what a loss of power may bring back.
struct before {
    struct before *earlier;
    char path[512];
    off_t at, length;
    size_t count;
    char bytes[];
};
static struct before *unsynced;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

static int remembers(int fd, char *path, size_t size) {
    return getenv("POWER_LOSS") && is_kept(fd, path, size);
}

static void lose_power(void) {
    for (struct before *b = unsynced; b; b = b->earlier) {
        int file = syscall(SYS_openat, AT_FDCWD, b->path, O_WRONLY, 0);
        if (b->count) syscall(SYS_pwrite64, file, b->bytes, b->count, b->at);
        syscall(SYS_ftruncate, file, b->length);
        syscall(SYS_close, file);
    }
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

// With the turn taken: keeps what stands where something is to be written or cut off.
static void keep(int fd, const char *path, off_t at, size_t count) {
    struct stat now;
    fstat(fd, &now);
    if (at + (off_t)count > now.st_size) count = at < now.st_size ? now.st_size - at : 0;
    struct before *b = malloc(sizeof *b + count);
    snprintf(b->path, sizeof b->path, "%s", path);
    b->at = at;
    b->length = now.st_size;
    b->count = count;
    // The file may be open for writing alone.
    int file = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY, 0);
    syscall(SYS_pread64, file, b->bytes, count, at);
    syscall(SYS_close, file);
    b->earlier = unsynced;
    unsynced = b;
}

static void forget(const char *path) {
    for (struct before **next = &unsynced; *next;) {
        struct before *b = *next;
        if (strcmp(b->path, path) == 0) { *next = b->earlier; free(b); }
        else next = &b->earlier;
    }
}

static ssize_t put(int fd, const void *bytes, size_t count, off64_t at, int positioned) {
    switch (fault(fd)) {
        case 'f': errno = ENOSPC; return -1;
        case 'e': errno = EIO; return -1;
        case 'r': errno = EROFS; return -1;
        case 'p':
            // The first half fits, the rest does not: the caller tries again and is told.
            if (count < 512) { errno = ENOSPC; return -1; }
            count /= 2;
            break;
        case 'h':
            say("H");
            while (letter() == 'H') usleep(10000);
            break;
        case 't':
            if (positioned) syscall(SYS_pwrite64, fd, bytes, count / 2, at);
            else syscall(SYS_write, fd, bytes, count / 2);
            kill(getpid(), SIGKILL);
            for (;;) pause();
    }
    char path[512];
    if (remembers(fd, path, sizeof path)) {
        pthread_mutex_lock(&turn);
        if (fault(fd) == 'l') lose_power();
        if (!positioned) at = syscall(SYS_lseek, fd, 0, SEEK_CUR);
        keep(fd, path, at, count);
        ssize_t put = syscall(SYS_pwrite64, fd, bytes, count, at);
        if (!positioned && put > 0) syscall(SYS_lseek, fd, at + put, SEEK_SET);
        pthread_mutex_unlock(&turn);
        return put;
    }
    return positioned ? syscall(SYS_pwrite64, fd, bytes, count, at) : syscall(SYS_write, fd, bytes, count);
}

ssize_t write(int fd, const void *bytes, size_t count) { return put(fd, bytes, count, 0, 0); }
ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) { return put(fd, bytes, count, at, 1); }
ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) { return put(fd, bytes, count, at, 1); }

static int sync_or_fail(int fd, long call) {
    char what = fault(fd), path[512];
    if (what == 's' || what == 'e') { errno = EIO; return -1; }
    if (!remembers(fd, path, sizeof path)) return syscall(call, fd);
    pthread_mutex_lock(&turn);
    if (what == 'l') lose_power();
    int done = syscall(call, fd);
    if (done == 0) forget(path);
    pthread_mutex_unlock(&turn);
    return done;
}
int fsync(int fd) { return sync_or_fail(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_or_fail(fd, SYS_fdatasync); }

static int cut(int fd, off_t length) {
    char path[512];
    if (!remembers(fd, path, sizeof path)) return syscall(SYS_ftruncate, fd, length);
    pthread_mutex_lock(&turn);
    struct stat now;
    fstat(fd, &now);
    keep(fd, path, length, now.st_size > length ? now.st_size - length : 0);
    int done = syscall(SYS_ftruncate, fd, length);
    pthread_mutex_unlock(&turn);
    return done;
}
int ftruncate(int fd, off_t length) { return cut(fd, length); }
int ftruncate64(int fd, off64_t length) { return cut(fd, length); }

static ssize_t get(int fd, void *bytes, size_t count, off_t at, int positioned) {
    if (fault(fd) == 'i') { errno = EIO; return -1; }
    return positioned ? syscall(SYS_pread64, fd, bytes, count, at) : syscall(SYS_read, fd, bytes, count);
}
ssize_t read(int fd, void *bytes, size_t count) { return get(fd, bytes, count, 0, 0); }
ssize_t pread(int fd, void *bytes, size_t count, off_t at) { return get(fd, bytes, count, at, 1); }
ssize_t pread64(int fd, void *bytes, size_t count, off64_t at) { return get(fd, bytes, count, at, 1); }

int rename(const char *from, const char *to) {
    const char *name = strrchr(from, '/');
    if (letter() == 'n' && strstr(name ? name : from, ".unfinished-")) { errno = EBUSY; return -1; }
    return syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}
