/* SPDX-License-Identifier: MIT */
#include "descriptor.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static struct descriptor *opened;

static void remember(struct descriptor *descriptor)
{
	descriptor->next = opened;
	descriptor->link = &opened;
	if (opened)
		opened->link = &descriptor->next;
	opened = descriptor;
}

static void forget(struct descriptor *descriptor)
{
	if (descriptor->number < 0)
		return;
	*descriptor->link = descriptor->next;
	if (descriptor->next)
		descriptor->next->link = descriptor->link;
	descriptor->number = -1;
}

bool descriptor_adopt(struct descriptor *descriptor, int number)
{
	struct stat is;

	*descriptor = (struct descriptor){.number = -1};
	if (fstat(number, &is) != 0) {
		/* EBADF: the host was quicker, and the number may be its own by now. */
		if (errno != EBADF)
			close(number);
		return false;
	}
	*descriptor =
		(struct descriptor){.number = number, .device = is.st_dev, .inode = is.st_ino};
	remember(descriptor);
	return true;
}

bool descriptor_open(struct descriptor *descriptor, int family, int type, int protocol)
{
	int number = socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol);

	*descriptor = (struct descriptor){.number = -1};
	return number >= 0 && descriptor_adopt(descriptor, number);
}

void descriptor_move(struct descriptor *to, struct descriptor *from)
{
	*to = *from;
	if (to->number < 0)
		return;
	forget(from);
	remember(to);
}

bool descriptor_check(struct descriptor *descriptor)
{
	struct stat is;

	if (descriptor->number >= 0 && fstat(descriptor->number, &is) == 0 &&
		is.st_dev == descriptor->device && is.st_ino == descriptor->inode)
		return true;
	forget(descriptor);
	errno = EBADF;
	return false;
}

void descriptor_close(struct descriptor *descriptor)
{
	/* EINTR or not, Linux has closed it: a second close could hit the host's. */
	if (descriptor_check(descriptor))
		close(descriptor->number);
	forget(descriptor);
}

void descriptor_close_all(void)
{
	while (opened)
		descriptor_close(opened);
}
