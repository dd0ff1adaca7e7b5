/* SPDX-License-Identifier: MIT */
#include "descriptor.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

bool descriptor_open(struct descriptor *descriptor, int family, int type, int protocol)
{
	int number = socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol);
	struct stat is;

	*descriptor = (struct descriptor){.number = -1};
	if (number < 0)
		return false;
	if (fstat(number, &is) != 0) {
		/* EBADF: the host was quicker, and the number may be its own by now. */
		if (errno != EBADF)
			close(number);
		return false;
	}
	*descriptor = (struct descriptor){number, is.st_dev, is.st_ino};
	return true;
}

bool descriptor_check(struct descriptor *descriptor)
{
	struct stat is;

	if (descriptor->number >= 0 && fstat(descriptor->number, &is) == 0 &&
		is.st_dev == descriptor->device && is.st_ino == descriptor->inode)
		return true;
	descriptor->number = -1;
	errno = EBADF;
	return false;
}

void descriptor_close(struct descriptor *descriptor)
{
	/* EINTR or not, Linux has closed it: a second close could hit the host's. */
	if (descriptor_check(descriptor))
		close(descriptor->number);
	descriptor->number = -1;
}
