/* SPDX-License-Identifier: MIT */
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
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

static const char suffix[] = ".tmp-XXXXXX";

static bool write_all(int fd, struct bytes bytes)
{
	while (bytes.size > 0) {
		ssize_t size = write(fd, bytes.data, bytes.size);

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
