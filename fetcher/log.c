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

static void write_stderr(const char *line, size_t size)
{
	struct pollfd out = {STDERR_FILENO, POLLOUT, 0};

	if (stderr_is_a_log() && poll(&out, 1, 0) == 1 && out.revents == POLLOUT)
		file_write(STDERR_FILENO, line, size);
}

static void write_file(const char *line, size_t size)
{
	/* O_NONBLOCK: a FIFO without a reader must not stop us. */
	int fd = open(log_target, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY,
		0640);

	if (fd < 0)
		return;
	file_write(fd, line, size);
	close(fd);
}

/* Not syslog(3): its lock is not reset by fork, and it keeps a descriptor that it shares with the
 * host. */
static void write_syslog(const char *line, size_t size)
{
	static const struct sockaddr_un address = {AF_UNIX, "/dev/log"};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return;
	sendto(fd, line, size, MSG_NOSIGNAL, (const struct sockaddr *)&address, sizeof(address));
	close(fd);
}

void log_write(enum log_level level, const char *format, ...)
{
	int saved = errno;
	bool to_syslog = strcmp(log_target, "syslog") == 0;
	bool to_stderr = strcmp(log_target, "stderr") == 0;
	char line[LINE_SIZE], time[CLOCK_TEXT_SIZE];
	int size, more;
	va_list arguments;

	if (level > log_most)
		return;
	if (to_syslog)
		size = snprintf(line, sizeof(line),
			"<%d>ocspreload[%d]: ", FACILITY_DAEMON | levels[level].severity,
			(int)getpid());
	else
		size = snprintf(line, sizeof(line), "%s%socspreload[%d] %s: ",
			to_stderr ? "" : clock_text(clock_wall() / 1000, time),
			to_stderr ? "" : " ", (int)getpid(), levels[level].name);
	va_start(arguments, format);
	more = vsnprintf(line + size, sizeof(line) - (size_t)size - 1, format, arguments);
	va_end(arguments);
	if (more < 0)
		goto out;
	size += more;
	if (size > LINE_SIZE - 2)
		size = LINE_SIZE - 2;
	if (!to_syslog)
		line[size++] = '\n';
	if (to_syslog)
		write_syslog(line, (size_t)size);
	else if (to_stderr)
		write_stderr(line, (size_t)size);
	else
		write_file(line, (size_t)size);
out:
	errno = saved;
}
