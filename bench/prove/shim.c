// LD_PRELOAD: numbers the file operations below some prefixes; at one of them it kills the process, or lets it fail.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

// The same numbers stand in shim.py.
enum { OFF, COUNT, KILL_BEFORE, KILL_AFTER, KILL_HALF, FAIL_ONCE, FAIL_ON, SHORT };
enum { WRITE = 1, SYNC = 2, RENAME = 4, MKDIR = 8, UNLINK = 16, CREATE = 32, RESIZE = 64, LOCK = 128, MODE = 256, OPEN = 512 };
enum { GO_ON, FAIL, DIE_AFTER, HALF };

#define PREFIXES 8
static int mode = OFF, failure, log_file = -1, prefixes;
static long target;
static volatile long counter;
static unsigned classes;
static char prefix[PREFIXES][PATH_MAX], copies[PATH_MAX];

void shim_clear(void) { mode = OFF; prefixes = 0; }
void shim_watch(const char *path) { if (prefixes < PREFIXES) snprintf(prefix[prefixes++], PATH_MAX, "%s", path); }
// Copies of what each sync put on the disk are kept in a folder, under the number of the sync.
void shim_keep(const char *folder) { snprintf(copies, PATH_MAX, "%s", folder); }
void shim_arm(int how, long at, int error, unsigned which, int log) {
  target = at; failure = error; classes = which; log_file = log; counter = 0; mode = how;
}

static void absolute(int directory, const char *path, char *out) {
  char base[PATH_MAX] = "";
  if (path[0] != '/') {
    char link[64];
    if (directory == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
    ssize_t n = syscall(SYS_readlink, link, base, PATH_MAX - 2);
    if (n < 0) n = 0;
    base[n] = '/'; base[n + 1] = 0;
  }
  snprintf(out, 2 * PATH_MAX, "%s%s", base, path);
}
static int of_descriptor(int fd, char *out) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = syscall(SYS_readlink, link, out, PATH_MAX - 1);
  if (n < 0) return 0;
  out[n] = 0;
  return 1;
}
static int below(const char *path) {
  for (int i = 0; i < prefixes; i++) if (!strncmp(path, prefix[i], strlen(prefix[i]))) return 1;
  return 0;
}
static int watched(int directory, const char *path, char *out) {
  if (mode == OFF || !path) return 0;
  absolute(directory, path, out);
  return below(out);
}
static int watched_descriptor(int fd, char *out) { return mode != OFF && fd > 2 && of_descriptor(fd, out) && below(out); }
static void die(void) { for (;;) syscall(SYS_kill, syscall(SYS_getpid), SIGKILL); }

// What is to happen to this operation, and its number.
static int meet(unsigned which, long *number) {
  *number = 0;
  if (!(classes & which)) return GO_ON;
  long now = *number = __sync_add_and_fetch(&counter, 1);
  if (mode == FAIL_ON && now >= target) return FAIL;
  if (mode == COUNT || now != target) return GO_ON;
  switch (mode) {
    case KILL_BEFORE: die();
    case KILL_AFTER: return DIE_AFTER;
    case KILL_HALF: return which == WRITE ? HALF : DIE_AFTER;
    case SHORT: return which == WRITE ? HALF : GO_ON;
    case FAIL_ONCE: return FAIL;
  }
  return GO_ON;
}
static void tell(long number, const char *name, const char *path, const char *source, long size, int done) {
  if (!number || log_file < 0) return;
  char line[4 * PATH_MAX + 100];
  int n = snprintf(line, sizeof line, "%ld\t%s\t%ld\t%s\t%s\t%d\n", number, name, size, path, source, done);
  syscall(SYS_write, log_file, line, n);
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define CARRY_OUT(which, name, path, source, size, call) do { \
  long number; int what = meet(which, &number); \
  if (what == FAIL) { tell(number, name, path, source, size, 0); errno = failure; return -1; } \
  __typeof__(call) result = (call); int error = errno; \
  tell(number, name, path, source, size, result != -1); \
  if (what == DIE_AFTER || what == HALF) die(); \
  errno = error; return result; } while (0)

ssize_t write(int fd, const void *data, size_t size) {
  REAL(write); char path[PATH_MAX];
  if (!watched_descriptor(fd, path)) return real(fd, data, size);
  long number; int what = meet(WRITE, &number);
  if (what == FAIL) { tell(number, "write", path, "", size, 0); errno = failure; return -1; }
  ssize_t result = real(fd, data, what == HALF && size > 1 ? size / 2 : size); int error = errno;
  tell(number, "write", path, "", size, result != -1);
  if (what == DIE_AFTER || (what == HALF && mode == KILL_HALF)) die();
  errno = error; return result;
}
#define WRITES(name, type) ssize_t name(int fd, const void *data, size_t size, type offset) { REAL(name); char path[PATH_MAX]; \
  if (!watched_descriptor(fd, path)) return real(fd, data, size, offset); \
  CARRY_OUT(WRITE, "write", path, "", size, real(fd, data, size, offset)); }
WRITES(pwrite, off_t)
WRITES(pwrite64, off64_t)
ssize_t writev(int fd, const struct iovec *parts, int count) { REAL(writev); char path[PATH_MAX];
  if (!watched_descriptor(fd, path)) return real(fd, parts, count);
  CARRY_OUT(WRITE, "write", path, "", count, real(fd, parts, count)); }

static int keep(int result, int fd, long number) {
  struct stat found;
  if (result || !number || !copies[0] || fstat(fd, &found) || !S_ISREG(found.st_mode)) return result;
  char own[64], copy[PATH_MAX + 32], part[65536];
  snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
  snprintf(copy, sizeof copy, "%s/%ld", copies, number);
  int from = syscall(SYS_openat, AT_FDCWD, own, O_RDONLY), to = syscall(SYS_openat, AT_FDCWD, copy, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  for (ssize_t size; (size = syscall(SYS_read, from, part, sizeof part)) > 0;) syscall(SYS_write, to, part, size);
  syscall(SYS_close, from); syscall(SYS_close, to);
  return result;
}
#define SYNCS(name) int name(int fd) { REAL(name); char path[PATH_MAX]; \
  if (!watched_descriptor(fd, path)) return real(fd); CARRY_OUT(SYNC, "sync", path, "", 0, keep(real(fd), fd, number)); }
SYNCS(fsync)
SYNCS(fdatasync)
#define RESIZES(name, type) int name(int fd, type size) { REAL(name); char path[PATH_MAX]; \
  if (!watched_descriptor(fd, path)) return real(fd, size); CARRY_OUT(RESIZE, "resize", path, "", size, real(fd, size)); }
RESIZES(ftruncate, off_t)
RESIZES(ftruncate64, off64_t)
int flock(int fd, int how) { REAL(flock); char path[PATH_MAX];
  if (!watched_descriptor(fd, path)) return real(fd, how); CARRY_OUT(LOCK, "lock", path, "", how, real(fd, how)); }

static int moved(int from, const char *old, int to, const char *new, char *source, char *path) {
  int first = watched(from, old, source), second = watched(to, new, path);
  return first || second;
}
int rename(const char *old, const char *new) { REAL(rename); char source[2 * PATH_MAX], path[2 * PATH_MAX];
  if (!moved(AT_FDCWD, old, AT_FDCWD, new, source, path)) return real(old, new);
  CARRY_OUT(RENAME, "rename", path, source, 0, real(old, new)); }
int renameat(int from, const char *old, int to, const char *new) { REAL(renameat); char source[2 * PATH_MAX], path[2 * PATH_MAX];
  if (!moved(from, old, to, new, source, path)) return real(from, old, to, new);
  CARRY_OUT(RENAME, "rename", path, source, 0, real(from, old, to, new)); }
int renameat2(int from, const char *old, int to, const char *new, unsigned how) { REAL(renameat2);
  char source[2 * PATH_MAX], path[2 * PATH_MAX];
  if (!moved(from, old, to, new, source, path)) return real(from, old, to, new, how);
  CARRY_OUT(RENAME, "rename", path, source, 0, real(from, old, to, new, how)); }

int mkdir(const char *name, mode_t bits) { REAL(mkdir); char path[2 * PATH_MAX];
  if (!watched(AT_FDCWD, name, path)) return real(name, bits); CARRY_OUT(MKDIR, "mkdir", path, "", 0, real(name, bits)); }
int mkdirat(int directory, const char *name, mode_t bits) { REAL(mkdirat); char path[2 * PATH_MAX];
  if (!watched(directory, name, path)) return real(directory, name, bits);
  CARRY_OUT(MKDIR, "mkdir", path, "", 0, real(directory, name, bits)); }
#define REMOVES(name) int name(const char *old) { REAL(name); char path[2 * PATH_MAX]; \
  if (!watched(AT_FDCWD, old, path)) return real(old); CARRY_OUT(UNLINK, "remove", path, "", 0, real(old)); }
REMOVES(unlink)
REMOVES(rmdir)
int unlinkat(int directory, const char *name, int how) { REAL(unlinkat); char path[2 * PATH_MAX];
  if (!watched(directory, name, path)) return real(directory, name, how);
  CARRY_OUT(UNLINK, "remove", path, "", 0, real(directory, name, how)); }
int chmod(const char *name, mode_t bits) { REAL(chmod); char path[2 * PATH_MAX];
  if (!watched(AT_FDCWD, name, path)) return real(name, bits); CARRY_OUT(MODE, "chmod", path, "", 0, real(name, bits)); }

#define BITS(how) mode_t bits = 0; if ((how) & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, how); bits = va_arg(rest, mode_t); va_end(rest); }
#define KIND(how) int makes = (how) & (O_CREAT | O_TRUNC); unsigned which = makes ? CREATE : OPEN; const char *kind = makes ? "create" : "open";
#define OPENS(name) int name(const char *file, int how, ...) { REAL(name); BITS(how) KIND(how) char path[2 * PATH_MAX]; \
  if (!watched(AT_FDCWD, file, path)) return real(file, how, bits); \
  CARRY_OUT(which, kind, path, "", !!(how & O_TRUNC), real(file, how, bits)); }
#define OPENS_AT(name) int name(int directory, const char *file, int how, ...) { REAL(name); BITS(how) KIND(how) char path[2 * PATH_MAX]; \
  if (!watched(directory, file, path)) return real(directory, file, how, bits); \
  CARRY_OUT(which, kind, path, "", !!(how & O_TRUNC), real(directory, file, how, bits)); }
OPENS(open)
OPENS(open64)
OPENS_AT(openat)
OPENS_AT(openat64)
