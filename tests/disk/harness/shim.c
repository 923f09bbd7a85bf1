#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

/* Taken at the start: a child that is about to be another program has another environment. */
static const char *pause_before, *fail_at, *end, *dir;
static int after, error;

static const char *setting(const char *name) {
    const char *value = getenv(name);
    return value ? strdup(value) : NULL;
}

__attribute__((constructor)) static void start(void) {
    pause_before = setting("SHIM_PAUSE");
    fail_at = setting("SHIM_FAIL");
    end = setting("SHIM_PATH");
    dir = setting("SHIM_DIR");
    after = getenv("SHIM_AFTER") ? atoi(getenv("SHIM_AFTER")) : 0;
    error = getenv("SHIM_ERRNO") ? atoi(getenv("SHIM_ERRNO")) : EIO;
}

static int named(const char *value, const char *what) {
    return value && !strcmp(value, what);
}

/* Pauses or fails where the test wants it: -1 and errno. */
static int at(const char *what, const char *path) {
    static int seen;
    int pausing = named(pause_before, what), failing = named(fail_at, what);
    char name[4096];
    if (!(pausing || failing) || !end || !path) return 0;
    size_t a = strlen(path), b = strlen(end);
    if (a < b || strcmp(path + a - b, end)) return 0;
    if (__atomic_fetch_add(&seen, 1, __ATOMIC_SEQ_CST) != after) return 0;
    if (pausing && dir) {
        snprintf(name, sizeof name, "%s/paused", dir);
        close(open(name, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
        snprintf(name, sizeof name, "%s/go", dir);
        while (access(name, F_OK)) usleep(1000);
    }
    if (!failing) return 0;
    errno = error;
    return -1;
}

static int at_fd(const char *what, int fd) {
    char link[64], path[4096];
    if (!named(pause_before, what) && !named(fail_at, what)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return at(what, path);
}

int mount(const char *source, const char *target, const char *type, unsigned long flags,
          const void *data) {
    int (*next)(const char *, const char *, const char *, unsigned long, const void *) =
        dlsym(RTLD_NEXT, "mount");
    if (at(flags & MS_RDONLY ? "mount-ro" : "mount-rw", target)) return -1;
    return next(source, target, type, flags, data);
}

int umount2(const char *target, int flags) {
    int (*next)(const char *, int) = dlsym(RTLD_NEXT, "umount2");
    if (at("umount", target)) return -1;
    return next(target, flags);
}

static int open_at(const char *function, int dir, const char *path, int flags, va_list list) {
    int (*next)(int, const char *, int, ...) = dlsym(RTLD_NEXT, function);
    if (at(flags & O_CREAT ? "create" : "open", path)) return -1;
    return next(dir, path, flags, va_arg(list, int));
}

int openat(int dir, const char *path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    return open_at("openat", dir, path, flags, list);
}

int openat64(int dir, const char *path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    return open_at("openat64", dir, path, flags, list);
}

static int open_plain(const char *function, const char *path, int flags, va_list list) {
    int (*next)(const char *, int, ...) = dlsym(RTLD_NEXT, function);
    if (at(flags & O_CREAT ? "create" : "open", path)) return -1;
    return next(path, flags, va_arg(list, int));
}

int open(const char *path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    return open_plain("open", path, flags, list);
}

int open64(const char *path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    return open_plain("open64", path, flags, list);
}

int renameat(int from, const char *old, int to, const char *new) {
    int (*next)(int, const char *, int, const char *) = dlsym(RTLD_NEXT, "renameat");
    if (at("rename", new)) return -1;
    return next(from, old, to, new);
}

/* Somebody else writes to the file each time that it is read. */
static void disturb(int fd) {
    static unsigned char count;
    const char *how = getenv("SHIM_DISTURB"), *end = getenv("SHIM_PATH");
    char link[64], path[4096];
    if (!how || !end) return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < (ssize_t)strlen(end)) return;
    path[length] = 0;
    if (strcmp(path + length - strlen(end), end)) return;
    int writer = open(link, O_WRONLY | O_CLOEXEC | (strcmp(how, "grow") ? 0 : O_APPEND));
    ssize_t (*write)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
    count++;
    if (write(writer, &count, 1) != 1) abort();
    close(writer);
}

ssize_t read(int fd, void *buffer, size_t length) {
    ssize_t (*next)(int, void *, size_t) = dlsym(RTLD_NEXT, "read");
    disturb(fd);
    return at_fd("read", fd) ? -1 : next(fd, buffer, length);
}

ssize_t write(int fd, const void *buffer, size_t length) {
    ssize_t (*next)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
    return at_fd("write", fd) ? -1 : next(fd, buffer, length);
}

ssize_t pwrite64(int fd, const void *buffer, size_t length, off_t offset) {
    ssize_t (*next)(int, const void *, size_t, off_t) = dlsym(RTLD_NEXT, "pwrite64");
    return at_fd("pwrite", fd) ? -1 : next(fd, buffer, length, offset);
}

int fsync(int fd) {
    int (*next)(int) = dlsym(RTLD_NEXT, "fsync");
    return at_fd("fsync", fd) ? -1 : next(fd);
}

int syncfs(int fd) {
    int (*next)(int) = dlsym(RTLD_NEXT, "syncfs");
    return at_fd("syncfs", fd) ? -1 : next(fd);
}

int flock(int fd, int operation) {
    int (*next)(int, int) = dlsym(RTLD_NEXT, "flock");
    return at_fd("flock", fd) ? -1 : next(fd, operation);
}

static const char *last(char *const argv[]) {
    int n = 0;
    while (argv[n]) n++;
    return n ? argv[n - 1] : "";
}

int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
                 const posix_spawnattr_t *attributes, char *const argv[], char *const envp[]) {
    int (*next)(pid_t *, const char *, const posix_spawn_file_actions_t *,
                const posix_spawnattr_t *, char *const[], char *const[]) =
        dlsym(RTLD_NEXT, "posix_spawnp");
    return at("spawn", last(argv)) ? errno : next(pid, file, actions, attributes, argv, envp);
}

/* Where the product forks by itself: in the child. */
int execvp(const char *file, char *const argv[]) {
    int (*next)(const char *, char *const[]) = dlsym(RTLD_NEXT, "execvp");
    return at("spawn", last(argv)) ? -1 : next(file, argv);
}
