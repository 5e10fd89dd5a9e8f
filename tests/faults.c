/* A file layer that fails when it is told to: LD_PRELOAD it, and arm it through ctypes (tests/faults.py).
 *
 * Of the calls of one kind on files below a folder, number `at` fails with `error`. A disk that is full stays full: later
 * writes fail as well. With `part`, the failing write takes half of its bytes first.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum { OPEN, WRITE, FSYNC, RENAME, READ, KINDS };

static char below[PATH_MAX];
static int armed, kind, at, error, part, calls[KINDS];

void fault_arm(const char *folder, int of_kind, int number, int with_error, int takes_part) {
  snprintf(below, sizeof below, "%s/", folder);
  kind = of_kind, at = number, error = with_error, part = takes_part;
  memset(calls, 0, sizeof calls);
  armed = 1;
}

/* The calls of each kind since it was armed. */
int *fault_disarm(void) {
  armed = 0;
  return calls;
}

static int is_below(const char *path) { return strncmp(path, below, strlen(below)) == 0; }

static int is_below_fd(int fd) {
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return is_below(path);
}

/* Whether this call of a kind, which is one below the folder, fails. */
static int fails(int of_kind) {
  int number = __sync_add_and_fetch(&calls[of_kind], 1);
  if (kind != of_kind || !at || number < at || (number > at && kind != WRITE)) return 0;
  errno = error;
  return 1;
}

#define REAL(type, name, ...) ((type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name))

#define OPENS(name)                                                                  \
  int name(const char *path, int flags, ...) {                                       \
    va_list list;                                                                    \
    va_start(list, flags);                                                           \
    mode_t mode = va_arg(list, mode_t);                                              \
    va_end(list);                                                                    \
    if (armed && is_below(path) && fails(OPEN)) return -1;                        \
    return REAL(int, name, const char *, int, ...)(path, flags, mode);               \
  }
OPENS(open)
OPENS(open64)

#define FOPENS(name)                                                                 \
  FILE *name(const char *path, const char *mode) {                                   \
    if (armed && is_below(path) && fails(OPEN)) return NULL;                      \
    return REAL(FILE *, name, const char *, const char *)(path, mode);               \
  }
FOPENS(fopen)
FOPENS(fopen64)

ssize_t write(int fd, const void *data, size_t size) {
  ssize_t (*real)(int, const void *, size_t) = REAL(ssize_t, write, int, const void *, size_t);
  if (armed && is_below_fd(fd) && fails(WRITE)) return part && calls[WRITE] == at && size > 1 ? real(fd, data, size / 2) : -1;
  return real(fd, data, size);
}

size_t fwrite(const void *data, size_t size, size_t count, FILE *file) {
  if (armed && is_below_fd(fileno(file)) && fails(WRITE)) return 0;
  return REAL(size_t, fwrite, const void *, size_t, size_t, FILE *)(data, size, count, file);
}

/* The end of what was written may still be in memory: closing is a write, and its failure loses that end. */
int fclose(FILE *file) {
  int (*real)(FILE *) = REAL(int, fclose, FILE *), fd = fileno(file);
  if (!armed || !is_below_fd(fd) || !fails(WRITE)) return real(file);
  off_t size = (fflush(file), lseek(fd, 0, SEEK_END));
  if (ftruncate(fd, size > 7 ? size - 7 : 0)) abort();
  real(file);
  errno = error;
  return EOF;
}

int fsync(int fd) {
  if (armed && is_below_fd(fd) && fails(FSYNC)) return -1;
  return REAL(int, fsync, int)(fd);
}

int rename(const char *from, const char *to) {
  if (armed && is_below(to) && fails(RENAME)) return -1;
  return REAL(int, rename, const char *, const char *)(from, to);
}

ssize_t read(int fd, void *data, size_t size) {
  if (armed && is_below_fd(fd) && fails(READ)) return -1;
  return REAL(ssize_t, read, int, void *, size_t)(fd, data, size);
}

size_t fread(void *data, size_t size, size_t count, FILE *file) {
  if (armed && is_below_fd(fileno(file)) && fails(READ)) return 0;
  return REAL(size_t, fread, void *, size_t, size_t, FILE *)(data, size, count, file);
}
