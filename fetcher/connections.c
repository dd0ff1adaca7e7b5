/* SPDX-License-Identifier: MIT */
#include "connections.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

struct idle {
	struct connection connection; /* without a socket: this place is free */
	char host[sizeof(((struct url *)NULL)->host)];
	char port[sizeof(((struct url *)NULL)->port)];
	bool was_left; /* by those who could have taken it since the last sweep */
};

struct silence {
	struct sockaddr_storage address;
	int64_t at; /* 0: this place is free */
};

struct connections {
	struct idle list[CONNECTIONS];
	struct silence silent[CONNECTIONS_SILENT];
};

static bool is_free(const struct idle *idle)
{
	return idle->connection.socket.number < 0;
}

struct connections *connections_new(void)
{
	struct connections *connections = calloc(1, sizeof(*connections));

	for (size_t i = 0; connections && i < CONNECTIONS; i++)
		connections->list[i].connection.socket.number = -1;
	return connections;
}

void connections_close(struct connections *connections)
{
	for (size_t i = 0; connections && i < CONNECTIONS; i++)
		descriptor_close(&connections->list[i].connection.socket);
}

void connections_free(struct connections *connections)
{
	connections_close(connections);
	free(connections);
}

static bool is_young(const struct idle *idle, int64_t now)
{
	return now - idle->connection.opened < CONNECTION_LIFE;
}

/*
 * Ours, open, and nothing to read: what a server sends unasked answers no question. Some send a 408
 * before they close (RFC 9110, 15.5.9), and some a second response that somebody made them send.
 */
static bool is_silent(struct idle *idle)
{
	char byte;

	return descriptor_check(&idle->connection.socket) &&
	       recv(idle->connection.socket.number, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 &&
	       (errno == EAGAIN || errno == EWOULDBLOCK);
}

/* Names are compared, not addresses: a server may be many, and tell them apart by name. */
static bool leads_to(const struct idle *idle, const char *host, const char *port)
{
	return !is_free(idle) && strcasecmp(idle->host, host) == 0 && strcmp(idle->port, port) == 0;
}

void connections_keep(struct connections *connections, const struct url *peer,
	struct connection *connection, int64_t now)
{
	struct idle *place = NULL;

	for (size_t i = 0; i < CONNECTIONS && !place; i++)
		if (is_free(&connections->list[i]))
			place = &connections->list[i];
	if (!place || now - connection->opened >= CONNECTION_LIFE) {
		descriptor_close(&connection->socket);
		return;
	}
	place->connection = *connection;
	descriptor_move(&place->connection.socket, &connection->socket);
	memcpy(place->host, peer->host, sizeof(place->host));
	memcpy(place->port, peer->port, sizeof(place->port));
	place->was_left = false;
}

bool connections_take(struct connections *connections, const struct url *peer, unsigned kinds,
	int64_t now, struct connection *connection)
{
	for (size_t i = 0; i < CONNECTIONS; i++) {
		struct idle *idle = &connections->list[i];

		if (!leads_to(idle, peer->host, peer->port) ||
			!(kinds & ADDRESS_BIT(idle->connection.kind)))
			continue;
		if (is_young(idle, now) && is_silent(idle)) {
			*connection = idle->connection;
			descriptor_move(&connection->socket, &idle->connection.socket);
			return true;
		}
		descriptor_close(&idle->connection.socket);
	}
	return false;
}

/* That are left of the same peer, before this one. */
static size_t count_spare(const struct connections *connections, const struct idle *idle)
{
	size_t count = 0;

	for (const struct idle *other = connections->list; other < idle; other++)
		count += other->was_left && leads_to(other, idle->host, idle->port);
	return count;
}

void connections_sweep(struct connections *connections, bool more, int64_t now)
{
	for (size_t i = 0; connections && i < CONNECTIONS; i++) {
		struct idle *idle = &connections->list[i];
		bool is_spare = idle->was_left &&
				(!more || count_spare(connections, idle) >= CONNECTIONS_SPARE);

		if (is_free(idle))
			continue;
		if (is_spare || !is_young(idle, now) || !is_silent(idle))
			descriptor_close(&idle->connection.socket);
		idle->was_left = true;
	}
}

static bool is_of(const struct silence *silence, const struct sockaddr_storage *address)
{
	return silence->at != 0 && memcmp(&silence->address, address, sizeof(*address)) == 0;
}

void connections_note_silence(
	struct connections *connections, const struct sockaddr_storage *address, int64_t now)
{
	struct silence *place = connections->silent;

	for (size_t i = 0; i < CONNECTIONS_SILENT; i++) {
		struct silence *silence = &connections->silent[i];

		if (is_of(silence, address)) {
			place = silence;
			break;
		}
		if (silence->at < place->at)
			place = silence;
	}
	place->address = *address;
	place->at = now;
}

int64_t connections_last_silence(
	const struct connections *connections, const struct sockaddr_storage *address)
{
	for (size_t i = 0; i < CONNECTIONS_SILENT; i++)
		if (is_of(&connections->silent[i], address))
			return connections->silent[i].at;
	return 0;
}
