/* SPDX-License-Identifier: MIT */
#include "address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <strings.h>

static const unsigned char mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
static const unsigned char nat64[12] = {0, 0x64, 0xff, 0x9b}; /* RFC 6052 */

static bool is_v4(const struct address *address)
{
	return memcmp(address->bytes, mapped, sizeof(mapped)) == 0;
}

static struct address from_v4(const void *v4)
{
	struct address address;

	memcpy(address.bytes, mapped, sizeof(mapped));
	memcpy(address.bytes + sizeof(mapped), v4, 4);
	return address;
}

bool address_parse(const char *text, struct address *address)
{
	unsigned char v4[4];

	if (inet_pton(AF_INET6, text, address->bytes) == 1)
		return true;
	if (inet_pton(AF_INET, text, v4) != 1)
		return false;
	*address = from_v4(v4);
	return true;
}

struct address address_of(const struct sockaddr_storage *socket_address)
{
	struct address address;

	if (socket_address->ss_family == AF_INET)
		return from_v4(&((const struct sockaddr_in *)socket_address)->sin_addr);
	memcpy(address.bytes, &((const struct sockaddr_in6 *)socket_address)->sin6_addr,
		sizeof(address.bytes));
	return address;
}

static bool has_prefix(const struct address *address, const unsigned char *prefix, unsigned bits)
{
	unsigned whole = bits / 8, rest = bits % 8;

	if (memcmp(address->bytes, prefix, whole) != 0)
		return false;
	return rest == 0 || (address->bytes[whole] ^ prefix[whole]) >> (8 - rest) == 0;
}

static enum address_kind kind_v4(const unsigned char *v4)
{
	if (v4[0] == 127 || v4[0] == 0)
		return ADDRESS_LOOPBACK;
	if (v4[0] == 169 && v4[1] == 254)
		return ADDRESS_LINK_LOCAL;
	if (v4[0] == 10 || (v4[0] == 172 && v4[1] >> 4 == 1) || (v4[0] == 192 && v4[1] == 168) ||
		(v4[0] == 100 && v4[1] >> 6 == 1))
		return ADDRESS_PRIVATE;
	return ADDRESS_PUBLIC;
}

enum address_kind address_kind(const struct address *address)
{
	static const unsigned char low[16];
	const unsigned char *bytes = address->bytes;

	if (is_v4(address) || has_prefix(address, nat64, 96))
		return kind_v4(bytes + 12);
	if (memcmp(bytes, low, 15) == 0 && bytes[15] <= 1)
		return ADDRESS_LOOPBACK;
	if (bytes[0] == 0xfe && bytes[1] >> 6 == 2)
		return ADDRESS_LINK_LOCAL;
	/* fec0::/10 was for sites once, RFC 3879. */
	if (bytes[0] >> 1 == 0xfc >> 1 || (bytes[0] == 0xfe && bytes[1] >> 6 == 3))
		return ADDRESS_PRIVATE;
	return ADDRESS_PUBLIC;
}

/* One to three digits up to most; false for anything else. */
static bool parse_bits(const char *text, unsigned most, unsigned *bits)
{
	size_t size = strspn(text, "0123456789");

	*bits = 0;
	if (size == 0 || size > 3 || text[size])
		return false;
	for (; *text; text++)
		*bits = *bits * 10 + (unsigned)(*text - '0');
	return *bits <= most;
}

bool address_is_in(const struct address *address, const char *network)
{
	char text[INET6_ADDRSTRLEN];
	size_t size = strcspn(network, "/");
	struct address first;
	unsigned bits = 128;

	if (size >= sizeof(text))
		return false;
	memcpy(text, network, size);
	text[size] = '\0';
	if (!address_parse(text, &first))
		return false;
	if (network[size] == '/') {
		if (!parse_bits(network + size + 1, is_v4(&first) ? 32 : 128, &bits))
			return false;
		bits += is_v4(&first) ? 96 : 0;
	}
	return has_prefix(address, first.bytes, bits);
}

enum address_kind address_kind_of_host(const char *host)
{
	static const char local[] = "localhost";
	size_t size = strlen(host);
	struct address address;

	if (address_parse(host, &address))
		return address_kind(&address);
	if (size > 0 && host[size - 1] == '.')
		size--;
	if (size < sizeof(local) - 1 ||
		strncasecmp(host + size - (sizeof(local) - 1), local, sizeof(local) - 1) != 0)
		return ADDRESS_PUBLIC;
	/* And what ends in it, RFC 6761, 6.3. */
	return size == sizeof(local) - 1 || host[size - sizeof(local)] == '.' ? ADDRESS_LOOPBACK
									      : ADDRESS_PUBLIC;
}
