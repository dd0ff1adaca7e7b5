/* SPDX-License-Identifier: MIT */
/* links: fetcher/address.c */
#include "../../fetcher/address.h"

#include "check.h"

#include <arpa/inet.h>
#include <netinet/in.h>

static void test_kinds(void)
{
	static const struct {
		const char *text;
		enum address_kind kind;
	} kinds[] = {
		{"192.0.2.1", ADDRESS_PUBLIC},
		{"8.8.8.8", ADDRESS_PUBLIC},
		{"127.0.0.1", ADDRESS_LOOPBACK},
		{"127.255.255.255", ADDRESS_LOOPBACK},
		{"126.255.255.255", ADDRESS_PUBLIC},
		{"128.0.0.0", ADDRESS_PUBLIC},
		{"0.0.0.0", ADDRESS_LOOPBACK},
		{"10.255.0.1", ADDRESS_PRIVATE},
		{"11.0.0.1", ADDRESS_PUBLIC},
		{"172.15.255.255", ADDRESS_PUBLIC},
		{"172.16.0.0", ADDRESS_PRIVATE},
		{"172.31.255.255", ADDRESS_PRIVATE},
		{"172.32.0.0", ADDRESS_PUBLIC},
		{"192.168.1.1", ADDRESS_PRIVATE},
		{"192.169.1.1", ADDRESS_PUBLIC},
		{"100.64.0.1", ADDRESS_PRIVATE},
		{"100.127.255.255", ADDRESS_PRIVATE},
		{"100.128.0.0", ADDRESS_PUBLIC},
		{"169.254.169.254", ADDRESS_LINK_LOCAL},
		{"169.253.0.1", ADDRESS_PUBLIC},
		{"::", ADDRESS_LOOPBACK},
		{"::1", ADDRESS_LOOPBACK},
		{"::2", ADDRESS_PUBLIC},
		{"2001:db8::1", ADDRESS_PUBLIC},
		{"fe80::1", ADDRESS_LINK_LOCAL},
		{"febf::1", ADDRESS_LINK_LOCAL},
		{"fec0::1", ADDRESS_PRIVATE},
		{"fc00::1", ADDRESS_PRIVATE},
		{"fdff::1", ADDRESS_PRIVATE},
		{"fbff::1", ADDRESS_PUBLIC},
		{"::ffff:127.0.0.1", ADDRESS_LOOPBACK},
		{"::ffff:192.0.2.1", ADDRESS_PUBLIC},
		{"64:ff9b::10.0.0.1", ADDRESS_PRIVATE},
		{"64:ff9b::192.0.2.1", ADDRESS_PUBLIC},
	};

	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
		struct address address;

		if (!CHECK(address_parse(kinds[i].text, &address)) ||
			!CHECK_EQ(address_kind(&address), kinds[i].kind))
			fprintf(stderr, "  %s\n", kinds[i].text);
	}
}

static void test_networks(void)
{
	static const struct {
		const char *address, *network;
		bool inside;
	} cases[] = {
		{"10.1.2.3", "10.0.0.0/8", true},
		{"11.1.2.3", "10.0.0.0/8", false},
		{"10.1.2.3", "10.1.2.3", true},
		{"10.1.2.3", "10.1.2.3/32", true},
		{"10.1.2.4", "10.1.2.3/32", false},
		{"10.1.2.4", "10.1.2.3", false},
		{"192.0.2.200", "192.0.2.128/25", true},
		{"192.0.2.100", "192.0.2.128/25", false},
		{"192.0.2.100", "0.0.0.0/0", true},
		{"2001:db8::1", "0.0.0.0/0", false},
		{"2001:db8::1", "2001:db8::/32", true},
		{"2001:db9::1", "2001:db8::/32", false},
		{"2001:db8:8000::1", "2001:db8:8000::/33", true},
		{"2001:db8::1", "2001:db8:8000::/33", false},
		{"2001:db8::1", "2001:DB8:0::1", true},
		{"2001:db8::1", "::/0", true},
		{"::ffff:10.1.2.3", "10.0.0.0/8", true},
		{"10.1.2.3", "10.0.0.0/33", false},
		{"10.1.2.3", "10.0.0.0/", false},
		{"10.1.2.3", "10.0.0.0/-8", false},
		{"10.1.2.3", "10.0.0.0/8x", false},
		{"10.1.2.3", "10.0.0.0/99999999999", false},
		{"10.1.2.3", "10/8", false},
		{"::1", "::/129", false},
		{"10.1.2.3", "example.org", false},
		{"10.1.2.3", "", false},
		{"10.1.2.3", "/8", false},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct address address;

		CHECK(address_parse(cases[i].address, &address));
		if (!CHECK_EQ(address_is_in(&address, cases[i].network), cases[i].inside))
			fprintf(stderr, "  %s in %s\n", cases[i].address, cases[i].network);
	}
}

static void test_what_is_no_address(void)
{
	static const char *const bad[] = {"", "localhost", "1.2.3", "01.2.3.4.5", "[::1]",
		"fe80::1%lo", "127.1", "::ffff:1.2"};

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct address address;

		CHECK(!address_parse(bad[i], &address));
	}
}

static void test_socket_addresses(void)
{
	struct sockaddr_storage storage = {.ss_family = AF_INET};
	struct address address;

	((struct sockaddr_in *)&storage)->sin_addr.s_addr = htonl(0x0a000001);
	address = address_of(&storage);
	CHECK(address_is_in(&address, "10.0.0.1"));
	storage.ss_family = AF_INET6;
	((struct sockaddr_in6 *)&storage)->sin6_addr = in6addr_loopback;
	address = address_of(&storage);
	CHECK(address_is_in(&address, "::1"));
}

int main(void)
{
	test_kinds();
	test_networks();
	test_what_is_no_address();
	test_socket_addresses();
	return check_result();
}
