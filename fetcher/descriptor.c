/* SPDX-License-Identifier: MIT */
#include "descriptor.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { RESERVE = 8 };

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
	if (descriptor->link)
		*descriptor->link = descriptor->next;
	if (descriptor->next)
		descriptor->next->link = descriptor->link;
	descriptor->number = -1;
}

/*
 * The last numbers below the limit are the host's: what we open there could cost it a connection.
 * Of a very low limit it gets a quarter.
 */
static bool is_hosts_reserve(int number)
{
	struct rlimit limit;
	rlim_t reserve;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
		return false;
	reserve = limit.rlim_cur / 4 < RESERVE ? limit.rlim_cur / 4 : RESERVE;
	return (rlim_t)number >= limit.rlim_cur - reserve;
}

/* Takes number over, or closes it and returns false. */
static bool identify(struct descriptor *descriptor, int number)
{
	struct stat is;

	*descriptor = (struct descriptor){.number = -1};
	if (is_hosts_reserve(number)) {
		close(number);
		errno = EMFILE;
		return false;
	}
	if (fstat(number, &is) != 0) {
		/* EBADF: the host was quicker, and the number may be its own by now. */
		if (errno != EBADF)
			close(number);
		return false;
	}
	*descriptor =
		(struct descriptor){.number = number, .device = is.st_dev, .inode = is.st_ino};
	return true;
}

bool descriptor_adopt(struct descriptor *descriptor, int number)
{
	if (!identify(descriptor, number))
		return false;
	remember(descriptor);
	return true;
}

/* As socket(2) makes it: of that family, with no name but the empty one, and no peer. */
static bool is_new_socket(int number, int family)
{
	static const struct sockaddr_storage empty;
	struct sockaddr_storage name = empty, peer;
	socklen_t name_size = sizeof(name), peer_size = sizeof(peer);
	bool is = getsockname(number, (struct sockaddr *)&name, &name_size) == 0 &&
		  name.ss_family == family;

	name.ss_family = empty.ss_family;
	return is && memcmp(&name, &empty, sizeof(name)) == 0 &&
	       getpeername(number, (struct sockaddr *)&peer, &peer_size) != 0 && errno == ENOTCONN;
}

bool descriptor_open_unlisted(struct descriptor *descriptor, int family, int type, int protocol)
{
	int number = socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol);

	*descriptor = (struct descriptor){.number = -1};
	if (number < 0 || !identify(descriptor, number))
		return false;
	/* A host that closes all numbers may have been quicker, and what was identified its own. */
	if (!is_new_socket(number, family)) {
		descriptor->number = -1;
		errno = EBADF;
		return false;
	}
	return true;
}

bool descriptor_open(struct descriptor *descriptor, int family, int type, int protocol)
{
	if (!descriptor_open_unlisted(descriptor, family, type, protocol))
		return false;
	remember(descriptor);
	return true;
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
