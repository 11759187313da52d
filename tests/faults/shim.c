// Loaded into the server (LD_PRELOAD): lets what it writes to its database and WAL fail, as the first letter of
// the file named by FAULT_FILE says. f: disk full, e: I/O error, r: read-only, p: disk full in the middle of a
// write, s: what was written can't be put on disk, t: half a write, then the machine is gone, h: a write to the copy
// that a backup is to be hangs, and the file says H, until it says something else, n: a directory that is finished does
// not get its name. Anything else: fine.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

static char fault(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    const char *name = strrchr(path, '/');
    if (!name || strncmp(name, "/latchkey.db", 12) != 0 || strstr(name, "-shm")) return 0;
    char what = letter();
    return what == 'h' && !strstr(path, ".unfinished-") ? 0 : what;
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
    return positioned ? syscall(SYS_pwrite64, fd, bytes, count, at) : syscall(SYS_write, fd, bytes, count);
}

ssize_t write(int fd, const void *bytes, size_t count) { return put(fd, bytes, count, 0, 0); }
ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) { return put(fd, bytes, count, at, 1); }
ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) { return put(fd, bytes, count, at, 1); }

static int sync_or_fail(int fd, long call) {
    char what = fault(fd);
    if (what == 's' || what == 'e') { errno = EIO; return -1; }
    return syscall(call, fd);
}
int fsync(int fd) { return sync_or_fail(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_or_fail(fd, SYS_fdatasync); }

int rename(const char *from, const char *to) {
    const char *name = strrchr(from, '/');
    if (letter() == 'n' && strstr(name ? name : from, ".unfinished-")) { errno = EBUSY; return -1; }
    return syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}
