/* SPDX-License-Identifier: MIT */
#include "resolve.h"

#include "bytes.h"
#include "clock.h"
#include "descriptor.h"
#include "file.h"

/* Newer versions deprecate calls whose successors older ones do not have. */
#define CARES_NO_DEPRECATED
#include <ares.h>
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/time.h>
#include <unistd.h>

#define RESOLV_CONF "/etc/resolv.conf"
#define HOSTS "/etc/hosts"

enum {
	QUERY_TIMEOUT = 2000, /* milliseconds; it grows with each try */
	QUERY_TRIES = 2,
	/*
	 * Milliseconds after which both families are also asked for by themselves. c-ares tells
	 * nothing before it knows all, and some name servers drop questions for IPv6 addresses: so
	 * long would the IPv4 ones be waited for (RFC 8305, 3).
	 */
	RIVALS_DELAY = 200,
	QUERY_SOCKETS =
		16, /* a datagram and a stream one for each name server, seldom more than 3 */
	HOSTS_MOST = 1024 * 1024, /* bytes of the file */
};

struct lookup {
	struct lookup *next;
	struct resolver *resolver;
	resolve_done *done; /* NULL: answered or cancelled, only waits for c-ares to let go */
	void *argument;
	unsigned queries; /* of c-ares', under way */
	bool has_rivals;
	int64_t rivals_due; /* steady clock */
	in_port_t port;     /* network byte order */
	char host[256];
};

struct resolver {
	ares_channel
		channel; /* NULL while nothing is looked up: each burst reads resolv.conf anew */
	struct lookup *lookups;
	unsigned depth; /* calls into c-ares that we are inside of */
	bool closing;
	struct {
		struct descriptor socket;
		short events;
	} sockets[QUERY_SOCKETS];
};

/*
 * c-ares' sockets. Its own way of making them leaves a moment without close-on-exec, its sends can
 * raise SIGPIPE, and it trusts descriptor numbers.
 */

static size_t find_socket(const struct resolver *resolver, int number)
{
	size_t i = 0;

	while (i < QUERY_SOCKETS && resolver->sockets[i].socket.number != number)
		i++;
	return i;
}

static bool is_own_socket(struct resolver *resolver, int number)
{
	size_t i = number < 0 ? QUERY_SOCKETS : find_socket(resolver, number);

	if (i < QUERY_SOCKETS)
		return descriptor_check(&resolver->sockets[i].socket);
	errno = EBADF;
	return false;
}

static ares_socket_t socket_open(int family, int type, int protocol, void *data)
{
	struct resolver *resolver = data;
	size_t i = find_socket(resolver, -1);

	if (i == QUERY_SOCKETS) {
		errno = EMFILE;
		return -1;
	}
	resolver->sockets[i].events = 0;
	descriptor_open(&resolver->sockets[i].socket, family, type, protocol);
	return resolver->sockets[i].socket.number;
}

static int socket_close(ares_socket_t number, void *data)
{
	struct resolver *resolver = data;
	size_t i = number < 0 ? QUERY_SOCKETS : find_socket(resolver, number);

	if (i < QUERY_SOCKETS)
		descriptor_close(&resolver->sockets[i].socket);
	return 0;
}

static int socket_connect(
	ares_socket_t number, const struct sockaddr *address, ares_socklen_t size, void *data)
{
	return is_own_socket(data, number) ? connect(number, address, size) : -1;
}

static ares_ssize_t socket_receive(ares_socket_t number, void *to, size_t size, int flags,
	struct sockaddr *from, ares_socklen_t *from_size, void *data)
{
	return is_own_socket(data, number) ? recvfrom(number, to, size, flags, from, from_size)
					   : -1;
}

static ares_ssize_t socket_send(
	ares_socket_t number, const struct iovec *parts, int count, void *data)
{
	struct msghdr message = {.msg_iov = (struct iovec *)parts, .msg_iovlen = (size_t)count};

	return is_own_socket(data, number) ? sendmsg(number, &message, MSG_NOSIGNAL) : -1;
}

static void watch_socket(void *data, ares_socket_t number, int readable, int writable)
{
	struct resolver *resolver = data;
	size_t i = number < 0 ? QUERY_SOCKETS : find_socket(resolver, number);

	if (i < QUERY_SOCKETS)
		resolver->sockets[i].events =
			(short)((readable ? POLLIN : 0) | (writable ? POLLOUT : 0));
}

/*
 * What was kept for a root in which nothing is to be read: data, and no channel, since a channel of
 * newer versions has a lock, which a child would inherit.
 */

struct configuration {
	struct ares_options options;
	int mask;
	struct ares_addr_port_node *servers; /* options can hold but some of them */
	char *hosts;                         /* the file's text; NULL: none */
};

/* Never freed, and never another: the thread may be reading it. */
static _Atomic(struct configuration *) kept;

static void set_options(struct ares_options *options, int *mask)
{
	/* HOSTALIASES names a file: not for a host that may run setuid. */
	options->flags = ARES_FLAG_NOALIASES;
	options->timeout = QUERY_TIMEOUT;
	options->tries = QUERY_TRIES;
	*mask |= ARES_OPT_FLAGS | ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES;
}

static void free_configuration(struct configuration *configuration)
{
	ares_destroy_options(&configuration->options);
	ares_free_data(configuration->servers);
	free(configuration->hosts);
	free(configuration);
}

static char *read_hosts(void)
{
	struct buffer text = {0};

	if (file_read(HOSTS, HOSTS_MOST, &text) || !buffer_append(&text, "", 1))
		buffer_free(&text);
	return (char *)text.data;
}

static bool fill_configuration(struct configuration *configuration)
{
	struct ares_options options = {0};
	ares_channel channel;
	bool filled;
	int mask = 0;

	set_options(&options, &mask);
	if (ares_init_options(&channel, &options, mask) != ARES_SUCCESS)
		return false;
	filled = ares_save_options(channel, &configuration->options, &configuration->mask) ==
			 ARES_SUCCESS &&
		 ares_get_servers_ports(channel, &configuration->servers) == ARES_SUCCESS;
	ares_destroy(channel);
	configuration->hosts = read_hosts();
	return filled;
}

void resolver_keep_configuration(void)
{
	struct configuration *configuration, *none = NULL;

	if (atomic_load(&kept) || (access(RESOLV_CONF, R_OK) != 0 && access(HOSTS, R_OK) != 0))
		return;
	configuration = calloc(1, sizeof(*configuration));
	if (!configuration)
		return;
	if (!fill_configuration(configuration) ||
		!atomic_compare_exchange_strong(&kept, &none, configuration))
		free_configuration(configuration);
}

/* What is to be used in the place of a file; NULL: the file. */
static const struct configuration *kept_instead_of(const char *path)
{
	const struct configuration *configuration = atomic_load(&kept);

	return configuration && access(path, R_OK) != 0 ? configuration : NULL;
}

/*
 * The channel
 */

static int init_channel(struct resolver *resolver)
{
	const struct configuration *instead = kept_instead_of(RESOLV_CONF);
	struct ares_options options = {0};
	int mask = ARES_OPT_SOCK_STATE_CB, status;

	if (instead) {
		options = instead->options;
		mask |= instead->mask;
	}
	set_options(&options, &mask);
	options.sock_state_cb = watch_socket;
	options.sock_state_cb_data = resolver;
	status = ares_init_options(&resolver->channel, &options, mask);
	if (status == ARES_SUCCESS && instead) {
		status = ares_set_servers_ports(resolver->channel, instead->servers);
		if (status != ARES_SUCCESS)
			ares_destroy(resolver->channel);
	}
	return status;
}

static const char *open_channel(struct resolver *resolver)
{
	static const struct ares_socket_functions functions = {
		socket_open, socket_close, socket_connect, socket_receive, socket_send};
	int status = init_channel(resolver);

	if (status != ARES_SUCCESS) {
		resolver->channel = NULL;
		return ares_strerror(status);
	}
	ares_set_socket_functions(resolver->channel, &functions, resolver);
	return NULL;
}

/* c-ares lets go of a look-up while it may be in a list that somebody goes through. */
static void free_lookups(struct resolver *resolver)
{
	struct lookup **link = &resolver->lookups;

	while (*link) {
		struct lookup *lookup = *link;

		if (lookup->queries > 0) {
			link = &lookup->next;
			continue;
		}
		*link = lookup->next;
		free(lookup);
	}
}

/* Look-ups that still wait are called back from here. */
static void close_channel(struct resolver *resolver)
{
	ares_channel channel = resolver->channel;

	resolver->channel = NULL;
	resolver->depth++;
	ares_destroy(channel);
	resolver->depth--;
}

/* c-ares must not be destroyed from inside one of its callbacks, so each way out comes by here. */
static void leave_channel(struct resolver *resolver)
{
	struct lookup *lookup = resolver->lookups;

	if (--resolver->depth > 0)
		return;
	while (lookup && !lookup->done)
		lookup = lookup->next;
	if (!lookup && resolver->channel)
		close_channel(resolver);
	free_lookups(resolver);
}

/*
 * Look-ups
 */

static void describe_failure(char *why, size_t room, const char *host, int status)
{
	switch (status) {
	case ARES_ENOTFOUND:
		snprintf(why, room, "the name %s does not exist", host);
		break;
	case ARES_SUCCESS:
	case ARES_ENODATA:
		snprintf(why, room, "the name %s has no address", host);
		break;
	case ARES_EBADNAME:
		snprintf(why, room, "%s is not a possible name", host);
		break;
	case ARES_ETIMEOUT:
		snprintf(why, room, "no name server answers for %s", host);
		break;
	case ARES_EREFUSED:
	case ARES_ECONNREFUSED: /* 1.18 also says so of servers that answer REFUSED */
		snprintf(why, room, "all name servers refused to look up %s", host);
		break;
	case ARES_EDESTRUCTION:
	case ARES_ECANCELLED:
		snprintf(why, room, "the look-up of %s was given up", host);
		break;
	case ARES_ENOMEM:
		snprintf(why, room, "memory ran out");
		break;
	default:
		snprintf(why, room, "the look-up of %s failed (%s)", host, ares_strerror(status));
	}
}

/* c-ares then asks this machine, where as a rule nobody listens. */
static void explain_failure(char *why, size_t room, int status)
{
	size_t size = strlen(why);

	if ((status == ARES_ETIMEOUT || status == ARES_EREFUSED || status == ARES_ECONNREFUSED) &&
		access(RESOLV_CONF, R_OK) != 0 && !atomic_load(&kept))
		snprintf(why + size, room - size,
			": this process cannot read %s; it needs a copy (in its chroot), an agent "
			"(ocspctl agent), or a proxy with an address for a name",
			RESOLV_CONF);
}

static void add_address(struct addresses *addresses, const void *address, socklen_t size)
{
	memcpy(&addresses->list[addresses->count].address, address, size);
	addresses->list[addresses->count].size = size;
	addresses->count++;
}

/* The next one at or after node whose family is, or is not, family. */
static const struct ares_addrinfo_node *next_node(
	const struct ares_addrinfo_node *node, int family, bool same)
{
	while (node && (node->ai_family == family) != same)
		node = node->ai_next;
	return node;
}

/*
 * c-ares has sorted them (RFC 6724): what this machine has no route to is last. The families
 * alternate (RFC 8305, 4), so that one which leads nowhere cannot fill all the places.
 */
static void take_addresses(
	struct addresses *addresses, const struct ares_addrinfo_node *first, in_port_t port)
{
	int family = first ? first->ai_family : AF_UNSPEC;
	const struct ares_addrinfo_node *next[2] = {first, next_node(first, family, false)};

	for (int turn = 0; addresses->count < RESOLVE_ADDRESSES && (next[0] || next[1]);
		turn = !turn) {
		const struct ares_addrinfo_node *node = next[turn];
		struct sockaddr_storage address = {0};

		if (!node)
			continue;
		memcpy(&address, node->ai_addr, node->ai_addrlen);
		/* sin6_port is at the same place. */
		((struct sockaddr_in *)&address)->sin_port = port;
		add_address(addresses, &address, node->ai_addrlen);
		next[turn] = next_node(node->ai_next, family, turn == 0);
	}
}

/* Calls done, unless that is over. */
static void answer_lookup(struct lookup *lookup, int status, const struct ares_addrinfo_node *nodes)
{
	resolve_done *done = lookup->done;
	struct addresses addresses = {0};
	char why[640];

	lookup->done = NULL;
	if (!done)
		return;
	take_addresses(&addresses, nodes, lookup->port);
	if (addresses.count == 0) {
		describe_failure(why, sizeof(why), lookup->host, status);
		explain_failure(why, sizeof(why), status);
		addresses.why = why;
	}
	done(lookup->argument, &addresses);
}

static void addresses_arrived(
	void *argument, int status, int timeouts, struct ares_addrinfo *result)
{
	(void)timeouts;
	answer_lookup(argument, status, result && status == ARES_SUCCESS ? result->nodes : NULL);
	if (result)
		ares_freeaddrinfo(result);
	((struct lookup *)argument)->queries--;
}

/* That one family has none, or none in time, is said only of both together. */
static void rival_arrived(void *argument, int status, int timeouts, struct ares_addrinfo *result)
{
	(void)timeouts;
	if (result && status == ARES_SUCCESS && result->nodes)
		answer_lookup(argument, status, result->nodes);
	if (result)
		ares_freeaddrinfo(result);
	((struct lookup *)argument)->queries--;
}

struct resolver *resolver_new(void)
{
	struct resolver *resolver = calloc(1, sizeof(*resolver));

	if (!resolver)
		return NULL;
	for (size_t i = 0; i < QUERY_SOCKETS; i++)
		resolver->sockets[i].socket.number = -1;
	/* Only counts, except on Windows; the defaults need no cleaning up. */
	if (ares_library_init(ARES_LIB_INIT_ALL) != ARES_SUCCESS) {
		free(resolver);
		return NULL;
	}
	return resolver;
}

void resolver_free(struct resolver *resolver)
{
	if (!resolver)
		return;
	resolver->closing = true;
	if (resolver->channel)
		close_channel(resolver);
	free_lookups(resolver);
	ares_library_cleanup();
	free(resolver);
}

static in_port_t parse_port(const char *port)
{
	return htons((uint16_t)strtoul(port, NULL, 10));
}

/* A literal address needs nobody's help. */
static bool parse_literal(struct addresses *addresses, const char *host, const char *port)
{
	struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = parse_port(port)};
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = parse_port(port)};

	if (inet_pton(AF_INET, host, &v4.sin_addr) == 1)
		add_address(addresses, &v4, sizeof(v4));
	else if (inet_pton(AF_INET6, host, &v6.sin6_addr) == 1)
		add_address(addresses, &v6, sizeof(v6));
	return addresses->count > 0;
}

/* Of a line of hosts(5), from where *word is: moves on to the next word; 0 at the line's end. */
static size_t next_word(const char **word)
{
	*word += strspn(*word, " \t\r\f\v");
	return strcspn(*word, " \t\r\f\v\n#");
}

static void parse_hosts_line(
	struct addresses *addresses, const char *line, const char *host, const char *port)
{
	char address[INET6_ADDRSTRLEN];
	size_t size = next_word(&line);

	if (size >= sizeof(address))
		return;
	memcpy(address, line, size);
	address[size] = '\0';
	for (line += size; (size = next_word(&line)) > 0; line += size)
		if (strlen(host) == size && strncasecmp(line, host, size) == 0) {
			parse_literal(addresses, address, port);
			return;
		}
}

/* c-ares reads the file by itself, where there is one. */
static bool parse_kept_hosts(struct addresses *addresses, const char *host, const char *port)
{
	const struct configuration *instead = kept_instead_of(HOSTS);
	const char *line = instead ? instead->hosts : NULL;

	while (line && addresses->count < RESOLVE_ADDRESSES) {
		parse_hosts_line(addresses, line, host, port);
		line = strchr(line, '\n');
		line = line ? line + 1 : NULL;
	}
	return addresses->count > 0;
}

/* It may be over when this returns, and freed if this is not inside of another call. */
static void query(struct lookup *lookup, int family, ares_addrinfo_callback arrived)
{
	const struct ares_addrinfo_hints hints = {.ai_family = family, .ai_socktype = SOCK_STREAM};
	struct resolver *resolver = lookup->resolver;

	lookup->queries++;
	resolver->depth++;
	/* No service: to look one up would load NSS modules. */
	ares_getaddrinfo(resolver->channel, lookup->host, NULL, &hints, arrived, lookup);
	leave_channel(resolver);
}

static void start_lookup(struct resolver *resolver, struct lookup *lookup)
{
	lookup->next = resolver->lookups;
	resolver->lookups = lookup;
	lookup->rivals_due = clock_steady() + RIVALS_DELAY;
	query(lookup, AF_UNSPEC, addresses_arrived);
}

static void start_rivals(struct resolver *resolver)
{
	int64_t now = clock_steady();

	for (struct lookup *lookup = resolver->lookups; lookup; lookup = lookup->next) {
		if (!lookup->done || lookup->has_rivals || lookup->rivals_due > now)
			continue;
		lookup->has_rivals = true;
		query(lookup, AF_INET, rival_arrived);
		if (lookup->done)
			query(lookup, AF_INET6, rival_arrived);
	}
}

void resolver_start(struct resolver *resolver, const char *host, const char *port,
	resolve_done *done, void *argument)
{
	struct addresses addresses = {0};
	struct lookup *lookup;

	if (parse_literal(&addresses, host, port) || parse_kept_hosts(&addresses, host, port)) {
		done(argument, &addresses);
		return;
	}
	lookup = calloc(1, sizeof(*lookup));
	if (!lookup)
		addresses.why = "memory ran out";
	else if (resolver->closing)
		addresses.why = "the resolver is closed";
	else if (!resolver->channel)
		addresses.why = open_channel(resolver);
	if (addresses.why) {
		free(lookup);
		done(argument, &addresses);
		return;
	}
	lookup->resolver = resolver;
	lookup->done = done;
	lookup->argument = argument;
	lookup->port = parse_port(port);
	snprintf(lookup->host, sizeof(lookup->host), "%s", host);
	start_lookup(resolver, lookup);
}

void resolver_cancel(struct resolver *resolver, void *argument)
{
	for (struct lookup *lookup = resolver->lookups; lookup; lookup = lookup->next)
		if (lookup->argument == argument)
			lookup->done = NULL;
	resolver->depth++;
	leave_channel(resolver);
}

static void lower(int *timeout, int64_t wait)
{
	if (wait < 0)
		wait = 0;
	if (*timeout < 0 || wait < *timeout)
		*timeout = (int)wait;
}

size_t resolver_poll(struct resolver *resolver, struct pollfd *fds, size_t room, int *timeout)
{
	struct timeval left;
	size_t count = 0;
	int64_t wait;

	if (!resolver->channel)
		return 0;
	for (const struct lookup *lookup = resolver->lookups; lookup; lookup = lookup->next)
		if (lookup->done && !lookup->has_rivals)
			lower(timeout, lookup->rivals_due - clock_steady());
	for (size_t i = 0; i < QUERY_SOCKETS && count < room; i++)
		if (resolver->sockets[i].socket.number >= 0 && resolver->sockets[i].events)
			fds[count++] = (struct pollfd){
				resolver->sockets[i].socket.number, resolver->sockets[i].events, 0};
	if (ares_timeout(resolver->channel, NULL, &left)) {
		/* Rounded up: to wake just before a timer is to spin. */
		wait = (int64_t)left.tv_sec * 1000 + (left.tv_usec + 999) / 1000;
		lower(timeout, wait);
	}
	return count;
}

void resolver_step(struct resolver *resolver, const struct pollfd *fds, size_t count)
{
	const short readable = POLLIN | POLLHUP | POLLERR | POLLNVAL;
	const short writable = POLLOUT | POLLHUP | POLLERR | POLLNVAL;

	if (!resolver->channel)
		return;
	resolver->depth++;
	for (size_t i = 0; i < count; i++)
		if (fds[i].revents)
			ares_process_fd(resolver->channel,
				fds[i].revents & readable ? fds[i].fd : ARES_SOCKET_BAD,
				fds[i].revents & writable ? fds[i].fd : ARES_SOCKET_BAD);
	/* And its timers, which a quiet network would never turn. */
	ares_process_fd(resolver->channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
	start_rivals(resolver);
	leave_channel(resolver);
}
