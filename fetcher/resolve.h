/* SPDX-License-Identifier: MIT */
/*
 * Names to addresses, asynchronously, through c-ares. Why not getaddrinfo: it holds locks that fork
 * does not reset, has no deadline, and loads NSS modules. One resolver per thread; it holds
 * descriptors only while look-ups are under way.
 */
#ifndef OCSPRELOAD_RESOLVE_H
#define OCSPRELOAD_RESOLVE_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

struct resolver;

enum { RESOLVE_ADDRESSES = 8 };

struct addresses {
	size_t count; /* 0: failed, see why */
	const char *why;
	struct endpoint {
		struct sockaddr_storage address; /* zero where it says nothing */
		socklen_t size;
	} list[RESOLVE_ADDRESSES];
};

/* NULL when memory ran out. */
struct resolver *resolver_new(void);
void resolver_free(struct resolver *resolver);

/*
 * Reads /etc/resolv.conf and /etc/hosts for later look-ups of this process, and of those that it
 * forks, that cannot: to be called before a chroot. What is readable at the time of a look-up comes
 * first. Keeps what it read first, where it is called again. Any thread; takes memory, some 3 KiB
 * and the size of /etc/hosts, once for all.
 */
void resolver_keep_configuration(void);

/*
 * Looks host up (a name, or a literal IPv4 or IPv6 address, which costs no look-up) and calls done
 * exactly once, at the latest when the resolver is freed: perhaps before resolver_start returns.
 * *addresses lives as long as the call.
 */
typedef void resolve_done(void *argument, const struct addresses *addresses);
void resolver_start(struct resolver *resolver, const char *host, const char *port,
	resolve_done *done, void *argument);

/*
 * Forgets a look-up whose argument is about to go away: done is not called for it any more.
 */
void resolver_cancel(struct resolver *resolver, void *argument);

/*
 * Fills in what to wait for, at most room entries, and lowers *timeout (milliseconds, -1: none) to
 * the resolver's own next timer. Returns the number of entries.
 */
size_t resolver_poll(struct resolver *resolver, struct pollfd *fds, size_t room, int *timeout);

/* To be called after each poll with the entries resolver_poll filled in. */
void resolver_step(struct resolver *resolver, const struct pollfd *fds, size_t count);

#endif
