/* SPDX-License-Identifier: MIT */
/*
 * A socket or file in a process whose owner does not know of it. Hosts close every descriptor they
 * did not open and use the numbers again, so a number alone proves nothing: a descriptor knows the
 * identity of what it was opened for, and is forgotten, not closed, once the number stands for
 * something else.
 *
 * Between a check and the use that follows, the host's threads can still do it; nothing can be done
 * about that.
 */
#ifndef OCSPRELOAD_DESCRIPTOR_H
#define OCSPRELOAD_DESCRIPTOR_H

#include <stdbool.h>
#include <sys/types.h>

struct descriptor {
	int number; /* -1: none */
	dev_t device;
	ino_t inode;
	struct descriptor *next;  /* of those that are open, in no order */
	struct descriptor **link; /* NULL: not among them */
};

/*
 * A new non-blocking, close-on-exec socket. False, and errno, if there is none to be had; EMFILE
 * already where the host would be left with the last few numbers.
 */
bool descriptor_open(struct descriptor *descriptor, int family, int type, int protocol);

/*
 * The same for a host's thread, of which there are many: it is not among those that a fork closes,
 * and its owner keeps forks away until it is closed.
 */
bool descriptor_open_unlisted(struct descriptor *descriptor, int family, int type, int protocol);

/* Takes number over, or closes it and returns false. */
bool descriptor_adopt(struct descriptor *descriptor, int number);

/* Hands over what from stands for: to must stand for nothing, from does afterwards. */
void descriptor_move(struct descriptor *to, struct descriptor *from);

/* To be asked before each use. False, with errno EBADF: there is none, or no longer. */
bool descriptor_check(struct descriptor *descriptor);

/* Closes it if it is still ours; number is -1 then in any case. */
void descriptor_close(struct descriptor *descriptor);

/*
 * For the child of a fork, which inherits what the parent's thread has open and can do nothing with
 * it. The parent holds the gate meanwhile (gate.h), so that nothing changes.
 */
void descriptor_close_all(void);

#endif
