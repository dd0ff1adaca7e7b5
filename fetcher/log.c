/* SPDX-License-Identifier: MIT */
#include "log.h"

#include "clock.h"
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* POSIX: what a pipe takes in one piece, so that lines of several processes do not mix. */
enum { LINE_SIZE = 1024 };

static const char *log_target = "stderr";
static enum log_level log_most = LOG_LEVEL_WARNING;
static struct stat log_stderr;

static const struct {
	const char *name;
	int severity; /* RFC 5424, 6.2.1 */
} levels[] = {
	[LOG_LEVEL_ERROR] = {"error", 3},
	[LOG_LEVEL_WARNING] = {"warning", 4},
	[LOG_LEVEL_INFO] = {"info", 6},
	[LOG_LEVEL_DEBUG] = {"debug", 7},
};

enum { FACILITY_DAEMON = 3 << 3 };

void log_start(void)
{
	if (fstat(STDERR_FILENO, &log_stderr) != 0)
		memset(&log_stderr, 0, sizeof(log_stderr));
}

void log_open(const char *target, enum log_level most)
{
	log_target = target;
	log_most = most;
}

/*
 * Daemons point number 2 at their log file (opened to append), at /dev/null or at a pipe; but they
 * also close it, and then it may be anything, a database or a client's connection.
 */
static bool stderr_is_a_log(void)
{
	struct stat now;
	int flags = fcntl(STDERR_FILENO, F_GETFL);

	if (flags < 0 || fstat(STDERR_FILENO, &now) != 0)
		return false;
	if (now.st_dev == log_stderr.st_dev && now.st_ino == log_stderr.st_ino)
		return true;
	if (S_ISREG(now.st_mode))
		return flags & O_APPEND;
	return S_ISFIFO(now.st_mode) || S_ISCHR(now.st_mode);
}

static bool write_stderr(const char *line, size_t size)
{
	struct pollfd out = {STDERR_FILENO, POLLOUT, 0};

	return stderr_is_a_log() && poll(&out, 1, 0) == 1 && out.revents == POLLOUT &&
	       file_write(STDERR_FILENO, line, size) >= 0;
}

static bool write_file(const char *line, size_t size)
{
	/* O_NONBLOCK: a FIFO without a reader must not stop us. */
	int fd = open(log_target, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY,
		0640);
	bool written;

	if (fd < 0)
		return false;
	written = file_write(fd, line, size) >= 0;
	close(fd);
	return written;
}

/* Not syslog(3): its lock is not reset by fork, and it keeps a descriptor that it shares with the
 * host. */
static bool write_syslog(const char *line, size_t size)
{
	static const struct sockaddr_un address = {AF_UNIX, "/dev/log"};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool sent;

	if (fd < 0)
		return false;
	sent = sendto(fd, line, size, MSG_NOSIGNAL, (const struct sockaddr *)&address,
		       sizeof(address)) >= 0;
	close(fd);
	return sent;
}

static int format_syslog(char line[static LINE_SIZE], enum log_level level)
{
	return snprintf(line, LINE_SIZE,
		"<%d>ocspreload[%d]: ", FACILITY_DAEMON | levels[level].severity, (int)getpid());
}

static int format_stderr(char line[static LINE_SIZE], enum log_level level)
{
	return snprintf(line, LINE_SIZE, "ocspreload[%d] %s: ", (int)getpid(), levels[level].name);
}

static int format_file(char line[static LINE_SIZE], enum log_level level)
{
	char time[CLOCK_TEXT_SIZE];

	return snprintf(line, LINE_SIZE,
		"%s ocspreload[%d] %s: ", clock_text(clock_wall() / 1000, time), (int)getpid(),
		levels[level].name);
}

/* How a line begins and ends, and where it goes; write returns false if it cannot. */
struct place {
	int (*format)(char line[static LINE_SIZE], enum log_level level);
	const char *end;
	bool (*write)(const char *line, size_t size);
};
static const struct place to_syslog = {format_syslog, "", write_syslog};
static const struct place to_stderr = {format_stderr, "\n", write_stderr};
static const struct place to_file = {format_file, "\n", write_file};

static bool write_line(
	const struct place *place, enum log_level level, const char *format, va_list arguments)
{
	char line[LINE_SIZE];
	size_t size = (size_t)place->format(line, level), end = strlen(place->end);
	int more = vsnprintf(line + size, sizeof(line) - size - end, format, arguments);

	if (more < 0)
		return false;
	size += (size_t)more;
	if (size > sizeof(line) - end - 1)
		size = sizeof(line) - end - 1;
	memcpy(line + size, place->end, end);
	return place->write(line, size + end);
}

static const struct place *place_of(const char *target)
{
	if (strcmp(target, "syslog") == 0)
		return &to_syslog;
	return strcmp(target, "stderr") == 0 ? &to_stderr : &to_file;
}

void log_write(enum log_level level, const char *format, ...)
{
	const struct place *place = place_of(log_target);
	int saved = errno;
	va_list arguments, again;

	if (level > log_most)
		return;
	va_start(arguments, format);
	va_copy(again, arguments);
	/* A chroot may have neither /dev/log nor the file. */
	if (!write_line(place, level, format, arguments) && place != &to_stderr)
		write_line(&to_stderr, level, format, again);
	va_end(again);
	va_end(arguments);
	errno = saved;
}
