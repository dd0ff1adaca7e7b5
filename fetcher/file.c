/* SPDX-License-Identifier: MIT */
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

const char *file_read_open(int fd, size_t limit, struct buffer *out)
{
	unsigned char piece[4096];
	size_t room = limit;

	for (;;) {
		ssize_t size = read(fd, piece, sizeof(piece));

		if (size == 0)
			return NULL;
		if (size < 0 && errno == EINTR)
			continue;
		if (size < 0)
			return strerror(errno);
		if ((size_t)size > room)
			return "it is too large";
		if (!buffer_append(out, piece, (size_t)size))
			return "memory ran out";
		room -= (size_t)size;
	}
}

const char *file_read(const char *path, size_t limit, struct buffer *out)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	const char *why;

	if (fd < 0)
		return strerror(errno);
	why = file_read_open(fd, limit, out);
	close(fd);
	return why;
}

/* What is no regular file has no places to go on from: it is read as far as it goes. */
static const char *read_piece(
	int fd, size_t limit, struct file_reading *reading, struct buffer *out)
{
	static const char is_too_large[] = "it is too large";
	unsigned char piece[16 * 1024];
	struct stat is;
	ssize_t size;

	if (fstat(fd, &is) != 0)
		return strerror(errno);
	if (!S_ISREG(is.st_mode)) {
		reading->is_done = true;
		return file_read_open(fd, limit, out);
	}
	if (out->size == 0)
		*reading = (struct file_reading){
			.device = is.st_dev, .inode = is.st_ino, .modified = is.st_mtim};
	else if (is.st_dev != reading->device || is.st_ino != reading->inode ||
		 is.st_mtim.tv_sec != reading->modified.tv_sec ||
		 is.st_mtim.tv_nsec != reading->modified.tv_nsec)
		return "it was changed meanwhile";
	if (is.st_size > (off_t)limit)
		return is_too_large;
	size = pread(fd, piece, sizeof(piece), (off_t)out->size);
	if (size < 0)
		return strerror(errno);
	reading->is_done = size == 0;
	if ((size_t)size > limit - out->size)
		return is_too_large;
	return buffer_append(out, piece, (size_t)size) ? NULL : "memory ran out";
}

const char *file_read_piece(
	const char *path, size_t limit, struct file_reading *reading, struct buffer *out)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	const char *why;

	if (fd < 0)
		return strerror(errno);
	why = read_piece(fd, limit, reading, out);
	close(fd);
	return why;
}

/* What getdents64(2) gives; neither glibc nor musl has it for all. */
struct entry {
	uint64_t inode;
	int64_t next;
	uint16_t size; /* of all of this */
	uint8_t type;
	char name[];
};

int file_list_some(int fd, bool (*take)(const char *name, void *context), void *context)
{
	_Alignas(struct entry) char entries[2048];
	long size = syscall(SYS_getdents64, fd, entries, sizeof(entries));

	for (long at = 0; at < size;) {
		const struct entry *entry = (const struct entry *)(entries + at);

		if (!take(entry->name, context))
			return 0;
		at += entry->size;
	}
	return size > 0 ? 1 : (int)size;
}

/* Which signal comes with an error of write(2), 0 if none; both are for the thread that writes. */
static int signal_of(int error)
{
	if (error == EPIPE)
		return SIGPIPE;
	return error == EFBIG ? SIGXFSZ : 0;
}

ssize_t file_write(int fd, const void *data, size_t size)
{
	static const struct timespec at_once = {0, 0};
	sigset_t ours, before, pending;
	ssize_t written;
	int number, error;

	sigemptyset(&ours);
	sigaddset(&ours, SIGPIPE);
	sigaddset(&ours, SIGXFSZ);
	if (sigpending(&pending) != 0 || pthread_sigmask(SIG_BLOCK, &ours, &before) != 0)
		return -1;
	written = write(fd, data, size);
	error = errno;
	number = written < 0 ? signal_of(error) : 0;
	/* One that was pending before is the host's. */
	if (number && !sigismember(&pending, number)) {
		sigemptyset(&ours);
		sigaddset(&ours, number);
		while (sigtimedwait(&ours, NULL, &at_once) < 0 && errno == EINTR)
			;
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	errno = error;
	return written;
}

static const char suffix[] = ".tmp-XXXXXX";

static bool write_all(int fd, struct bytes bytes)
{
	while (bytes.size > 0) {
		ssize_t size = file_write(fd, bytes.data, bytes.size);

		if (size < 0 && errno == EINTR)
			continue;
		if (size < 0)
			return false;
		bytes.data += size;
		bytes.size -= (size_t)size;
	}
	return true;
}

bool file_replace(const char *path, struct bytes content, bool durable)
{
	char temporary[PATH_MAX];
	bool done;
	int fd, error;

	if (strlen(path) + sizeof(suffix) > sizeof(temporary)) {
		errno = ENAMETOOLONG;
		return false;
	}
	snprintf(temporary, sizeof(temporary), "%s%s", path, suffix);
	fd = mkostemp(temporary, O_CLOEXEC);
	if (fd < 0)
		return false;
	done = write_all(fd, content) && fchmod(fd, 0644) == 0 && (!durable || fsync(fd) == 0);
	error = errno;
	close(fd);
	if (done && rename(temporary, path) == 0)
		return true;
	if (done)
		error = errno;
	unlink(temporary);
	errno = error;
	return false;
}

bool file_is_temporary(const char *name)
{
	size_t size = strlen(name);

	return size >= sizeof(suffix) &&
	       strncmp(name + size - (sizeof(suffix) - 1), suffix, strlen(".tmp-")) == 0;
}
