/* SPDX-License-Identifier: MIT */
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

const char *file_read(const char *path, size_t limit, struct buffer *out)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	const char *why = NULL;
	unsigned char piece[4096];
	size_t room = limit;

	if (fd < 0)
		return strerror(errno);
	while (!why) {
		ssize_t size = read(fd, piece, sizeof(piece));

		if (size == 0)
			break;
		if (size < 0 && errno == EINTR)
			continue;
		if (size < 0)
			why = strerror(errno);
		else if ((size_t)size > room)
			why = "it is too large";
		else if (!buffer_append(out, piece, (size_t)size))
			why = "memory ran out";
		else
			room -= (size_t)size;
	}
	close(fd);
	return why;
}
