/* SPDX-License-Identifier: MIT */
/*
 * IP addresses, both families as one: an IPv4 address is the IPv6 address it is mapped to. Pure.
 */
#ifndef OCSPRELOAD_ADDRESS_H
#define OCSPRELOAD_ADDRESS_H

#include <stdbool.h>
#include <sys/socket.h>

struct address {
	unsigned char bytes[16];
};

/* Where an address is good for something. */
enum address_kind {
	ADDRESS_PUBLIC,
	ADDRESS_PRIVATE,    /* RFC 1918, RFC 4193, RFC 6598 */
	ADDRESS_LINK_LOCAL, /* RFC 3927, RFC 4291, 2.5.6 */
	ADDRESS_LOOPBACK,   /* and the unspecified one, which Linux connects to itself */
};

/* For a set of kinds. */
#define ADDRESS_BIT(kind) (1U << (kind))

/* From text, without brackets or zone. False if it is no address. */
bool address_parse(const char *text, struct address *address);

struct address address_of(const struct sockaddr_storage *socket_address);

/* An IPv4 address inside an IPv6 one (mapped, or behind NAT64) is what counts. */
enum address_kind address_kind(const struct address *address);

/* The kind of place that a URL's host says it is; whoever looks the name up knows more. */
enum address_kind address_kind_of_host(const char *host);

/*
 * True if the address is in a network: text such as "192.0.2.0/24", "2001:db8::/32", or an address
 * alone.
 */
bool address_is_in(const struct address *address, const char *network);

#endif
