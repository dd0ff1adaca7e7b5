/* SPDX-License-Identifier: MIT */
/* links: shim/staple.c fetcher/cache.c fetcher/clock.c fetcher/libcrypto.c -lcrypto */
/*
 * The status callback against a libssl that is made up, because what it does with the newest
 * versions is to be known wherever the tests run; only libcrypto is real. make matrix has the
 * newest ones.
 */
#include "../../shim/staple.h"

#include "../../fetcher/cache.h"
#include "../../fetcher/clock.h"
#include "../../shim/host.h"
#include "../../shim/registry.h"
#include "check.h"

#include <dlfcn.h>
#include <openssl/tls1.h>
#include <stdlib.h>

enum { LINKS = 3, SMALL = 300, LARGE = 5000 };

/* A connection, which is also its own context. */
static struct {
	int version;
	uint64_t options;
	bool refuses_chain, refuses_responses;
	STACK_OF(X509) * chain, *extra;
	unsigned char *response;
	size_t size;
	OPENSSL_STACK *responses;
	int (*callback)(SSL *, void *);
	const void *mark, *installed;
} connection;
#define THE_SSL ((SSL *)&connection)
#define THE_CTX ((SSL_CTX *)&connection)

static struct libssl lib;
static struct cache *cache;
static struct slot *leaf, *links[LINKS];
static char certificates[LINKS]; /* only their addresses matter */
static int awaited;

/* libssl, made up. Like the real one it owns what it accepts. */

static void drop_responses(void)
{
	OPENSSL_free(connection.response);
	for (int i = 0; i < OPENSSL_sk_num(connection.responses); i++)
		OCSP_RESPONSE_free(OPENSSL_sk_value(connection.responses, i));
	OPENSSL_sk_free(connection.responses);
	connection.response = NULL;
	connection.responses = NULL;
}

static long set_response(long size, void *response)
{
	drop_responses();
	connection.response = response;
	connection.size = (size_t)size;
	return 1;
}

static long set_responses(void *responses)
{
	if (connection.refuses_responses)
		return 0;
	drop_responses();
	connection.responses = responses;
	return 1;
}

static long get_response(unsigned char **response)
{
	static unsigned char first;

	*response = connection.responses ? &first : connection.response;
	return *response ? 1 : -1;
}

static long set_chain(STACK_OF(X509) * chain)
{
	if (connection.refuses_chain)
		return 0;
	sk_X509_free(connection.chain);
	connection.chain = sk_X509_dup(chain);
	return 1;
}

static long fake_ctrl(SSL *ssl, int command, long number, void *pointer)
{
	(void)ssl;
	switch (command) {
	case SSL_CTRL_SET_TLSEXT_STATUS_REQ_OCSP_RESP:
		return set_response(number, pointer);
	case SSL_CTRL_GET_TLSEXT_STATUS_REQ_OCSP_RESP:
		return get_response(pointer);
	case LIBSSL_SET_CHAIN_RESPONSES:
		return set_responses(pointer);
	case SSL_CTRL_GET_CHAIN_CERTS:
		*(STACK_OF(X509) **)pointer = connection.chain;
		return 1;
	case SSL_CTRL_CHAIN:
		CHECK_EQ(number, 1);
		return set_chain(pointer);
	default:
		CHECK_EQ(command, 0);
		return 0;
	}
}

static long fake_ctx_ctrl(SSL_CTX *ctx, int command, long number, void *pointer)
{
	(void)ctx;
	if (command == SSL_CTRL_GET_EXTRA_CHAIN_CERTS && number == 1)
		*(STACK_OF(X509) **)pointer = connection.extra;
	return 1;
}

static long fake_callback_ctrl(SSL_CTX *ctx, int command, void (*callback)(void))
{
	(void)ctx;
	CHECK_EQ(command, SSL_CTRL_SET_TLSEXT_STATUS_REQ_CB);
	connection.callback = (int (*)(SSL *, void *))callback;
	return 1;
}

static int fake_version(const SSL *ssl)
{
	(void)ssl;
	return connection.version;
}

static uint64_t fake_set_options(SSL *ssl, uint64_t options)
{
	(void)ssl;
	return connection.options |= options;
}

static X509 *fake_certificate(const SSL *ssl)
{
	return (X509 *)ssl;
}

static SSL_CTX *fake_ctx(const SSL *ssl)
{
	return (SSL_CTX *)ssl;
}

static int fake_is_server(const SSL *ssl)
{
	(void)ssl;
	return 1;
}

static void *fake_get_mark(const SSL *ssl, int index)
{
	(void)ssl;
	(void)index;
	return (void *)connection.mark;
}

static int fake_set_mark(SSL *ssl, int index, void *mark)
{
	(void)ssl;
	(void)index;
	connection.mark = mark;
	return 1;
}

static void *fake_get_installed(const SSL_CTX *ctx, int index)
{
	(void)ctx;
	(void)index;
	return (void *)connection.installed;
}

static int fake_set_installed(SSL_CTX *ctx, int index, void *installed)
{
	(void)ctx;
	(void)index;
	connection.installed = installed;
	return 1;
}

/* What staple.c calls of the shim: a process in which all is loaded, and somebody leads. */

struct libssl *libssl_of_ssl(const SSL *ssl, const void *caller)
{
	(void)ssl;
	(void)caller;
	return &lib;
}

struct visit host_enter(const struct libcrypto *crypto)
{
	return (struct visit){.crypto = crypto};
}

void host_leave(struct visit visit)
{
	(void)visit;
}

void host_lock(void)
{
}

void host_unlock(void)
{
}

struct supply host_supply(const struct libcrypto *crypto)
{
	static const struct config config = {.fetch = true};

	return (struct supply){.crypto = crypto, .cache = cache, .config = &config};
}

bool host_is_itself(void)
{
	return true;
}

bool host_check_thread(bool due)
{
	(void)due;
	return false;
}

bool host_await(const struct slot *slot)
{
	CHECK(slot == leaf);
	awaited++;
	return true;
}

bool host_may_wait(const struct slot *slot)
{
	(void)slot;
	return false;
}

bool host_ask_agent(const struct supply *asking, struct slot *slot, enum host_occasion occasion)
{
	(void)asking;
	(void)slot;
	(void)occasion;
	return false;
}

bool supply_is_due(const struct supply *supply, const struct slot *slot)
{
	(void)supply;
	(void)slot;
	return false;
}

void supply_from_ready(const struct supply *supply, struct slot *slot, bool is_loading)
{
	(void)supply;
	(void)slot;
	CHECK(!is_loading);
}

bool supply_from_store(const struct supply *supply, struct slot *slot, bool is_loading)
{
	(void)supply;
	(void)slot;
	CHECK(!is_loading);
	return false;
}

void registry_seek_issuer(struct libssl *of, SSL_CTX *ctx, const STACK_OF(X509) * chain,
	const struct slot *slot, X509 *x)
{
	(void)of;
	(void)chain;
	CHECK(ctx == THE_CTX);
	CHECK(slot == leaf);
	CHECK((void *)x == (void *)&connection);
}

struct slot *registry_slot(struct libssl *of, X509 *x, enum role role)
{
	struct slot *slot = role == ROLE_LEAF ? leaf : links[(char *)x - certificates];

	(void)of;
	CHECK_EQ(role, (void *)x == (void *)&connection ? ROLE_LEAF : ROLE_LINK);
	CHECK(cache_pin(slot, atomic_load(&slot->generation)));
	return slot;
}

/* The scene. */

static void put_head(unsigned char **at, unsigned char tag, size_t size)
{
	*(*at)++ = tag;
	*(*at)++ = 0x82;
	*(*at)++ = (unsigned char)(size >> 8);
	*(*at)++ = (unsigned char)size;
}

/* An OCSPResponse (RFC 6960, 4.2.1) of a given size, with a type that nobody knows. */
static struct bytes make_response(size_t size)
{
	static unsigned char der[LARGE];
	static const unsigned char start[] = {0x0a, 1, 0}, type[] = {0x06, 1, 42};
	unsigned char *at = der;

	memset(der, 0, sizeof(der));
	put_head(&at, 0x30, size - 4);
	memcpy(at, start, sizeof(start));
	at += sizeof(start);
	put_head(&at, 0xa0, size - 11);
	put_head(&at, 0x30, size - 15);
	memcpy(at, type, sizeof(type));
	at += sizeof(type);
	put_head(&at, 0x04, size - 22);
	return (struct bytes){der, size};
}

static struct slot *add_slot(int number, size_t size)
{
	int64_t now = clock_wall() / 1000;
	struct certificate certificate = {.key = {(unsigned char)(number + 1)}};
	struct slot *slot;

	certificate.der = (struct buffer){.data = certificate.key, .size = sizeof(certificate.key)};
	slot = cache_add(cache, &certificate, "http://a/", clock_steady());
	if (size > 0)
		cache_publish(cache, slot, make_response(size), now, now + 3600, now);
	cache_unpin(slot);
	return slot;
}

/* Sizes of 0: no response is held. */
static void set_scene(size_t leaf_size, const size_t sizes[LINKS])
{
	memset(&connection, 0, sizeof(connection));
	connection.version = TLS1_3_VERSION;
	lib.multistaples = true;
	awaited = 0;
	cache = cache_create();
	leaf = add_slot(LINKS, leaf_size);
	connection.chain = sk_X509_new_null();
	for (int i = 0; i < LINKS; i++) {
		links[i] = add_slot(i, sizes[i]);
		sk_X509_push(connection.chain, (X509 *)&certificates[i]);
	}
	staple_install(&lib, THE_CTX);
}

static void use_common_chain(void)
{
	connection.extra = connection.chain;
	connection.chain = NULL;
}

/* And what was looked at may be forgotten. */
static void strike_scene(void)
{
	CHECK_EQ(atomic_load(&leaf->pins), 0);
	for (int i = 0; i < LINKS; i++)
		CHECK_EQ(atomic_load(&links[i]->pins), 0);
	drop_responses();
	sk_X509_free(connection.chain);
	sk_X509_free(connection.extra);
	free((void *)connection.installed);
	cache_destroy(cache);
}

static int shake_hands(void)
{
	return connection.callback(THE_SSL, NULL);
}

static size_t response_size(int index)
{
	OCSP_RESPONSE *response = OPENSSL_sk_value(connection.responses, index);
	int size = response ? i2d_OCSP_RESPONSE(response, NULL) : 0;

	return size > 0 ? (size_t)size : 0;
}

static void check_leaf_alone(size_t size)
{
	CHECK_EQ(shake_hands(), SSL_TLSEXT_ERR_OK);
	CHECK(!connection.responses);
	CHECK(connection.response);
	CHECK_EQ(connection.size, size);
}

static void check_all(size_t leaf_size, const size_t sizes[LINKS])
{
	CHECK_EQ(shake_hands(), SSL_TLSEXT_ERR_OK);
	CHECK(!connection.response);
	CHECK_EQ(OPENSSL_sk_num(connection.responses), 1 + LINKS);
	CHECK_EQ(response_size(0), leaf_size);
	for (int i = 0; i < LINKS; i++)
		CHECK_EQ(response_size(i + 1), sizes[i]);
}

/* The tests. */

static const size_t all[LINKS] = {SMALL + 1, SMALL + 2, SMALL + 3};
static const size_t none[LINKS];

static void test_responses_stand_in_the_order_of_the_chain(void)
{
	static const size_t some[LINKS] = {0, SMALL + 2, 0};

	set_scene(SMALL, all);
	check_all(SMALL, all);
	/* After a HelloRetryRequest the callback comes again. */
	check_all(SMALL, all);
	strike_scene();
	set_scene(SMALL, some);
	check_all(SMALL, some);
	CHECK_EQ(awaited, 0);
	strike_scene();
}

/* But options that are set inside its callback would wait for ever. */
static void test_quic_is_tls_13(void)
{
	set_scene(SMALL, all);
	connection.version = 1;
	check_all(SMALL, all);
	CHECK_EQ(connection.options, 0);
	strike_scene();
}

static void test_no_compressed_certificate_is_sent_in_place_of_the_staple(void)
{
	set_scene(SMALL, all);
	check_all(SMALL, all);
	CHECK_EQ(connection.options, (uint64_t)1 << 32);
	strike_scene();
}

static void test_the_leaf_is_stapled_alone_where_there_is_no_room_or_need(void)
{
	static const int older[] = {TLS1_VERSION, TLS1_2_VERSION, DTLS1_2_VERSION};

	set_scene(SMALL, none);
	check_leaf_alone(SMALL);
	strike_scene();
	for (size_t i = 0; i < sizeof(older) / sizeof(*older); i++) {
		set_scene(SMALL, all);
		connection.version = older[i];
		check_leaf_alone(SMALL);
		strike_scene();
	}
	set_scene(SMALL, all);
	lib.multistaples = false;
	check_leaf_alone(SMALL);
	strike_scene();
	/* A chain that libssl builds when it sends it. */
	set_scene(SMALL, all);
	sk_X509_free(connection.chain);
	connection.chain = NULL;
	check_leaf_alone(SMALL);
	strike_scene();
}

static void test_nothing_is_stapled_without_a_response_for_the_leaf(void)
{
	set_scene(0, all);
	CHECK_EQ(shake_hands(), SSL_TLSEXT_ERR_NOACK);
	CHECK(!connection.response && !connection.responses);
	CHECK_EQ(awaited, 1);
	strike_scene();
}

static void test_a_chain_of_the_context_becomes_the_connection_s(void)
{
	set_scene(SMALL, all);
	use_common_chain();
	check_all(SMALL, all);
	CHECK_EQ(sk_X509_num(connection.chain), LINKS);
	for (int i = 0; i < LINKS; i++)
		CHECK(sk_X509_value(connection.chain, i) == (X509 *)&certificates[i]);
	strike_scene();
	set_scene(SMALL, none);
	use_common_chain();
	check_leaf_alone(SMALL);
	CHECK(!connection.chain);
	strike_scene();
}

/* What is refused stays ours, and is freed: AddressSanitizer sees to that. */
static void test_the_leaf_is_stapled_if_the_others_are_refused(void)
{
	set_scene(SMALL, all);
	connection.refuses_responses = true;
	check_leaf_alone(SMALL);
	strike_scene();
	set_scene(SMALL, all);
	use_common_chain();
	connection.refuses_chain = true;
	check_leaf_alone(SMALL);
	strike_scene();
}

static void test_long_responses_are_left_out(void)
{
	static const size_t sizes[LINKS] = {LARGE, LARGE, SMALL};
	static const size_t wanted[LINKS] = {LARGE, 0, SMALL};

	set_scene(LARGE, sizes);
	check_all(LARGE, wanted);
	strike_scene();
}

static void test_garbage_keeps_nothing_back(void)
{
	static const unsigned char garbage[] = "garbage";
	int64_t now = clock_wall() / 1000;

	set_scene(SMALL, all);
	cache_publish(cache, links[0], (struct bytes){garbage, sizeof(garbage)}, now + 1,
		now + 3600, now);
	check_all(SMALL, (size_t[LINKS]){0, SMALL + 2, SMALL + 3});
	strike_scene();
}

/* A host's own callback. */

static enum { SAYS_OK, SAYS_NOACK, SAYS_FATAL, STAPLES } host_does;
static bool host_saw_response;

static int host_callback(SSL *ssl, void *argument)
{
	unsigned char *response = NULL;

	(void)argument;
	host_saw_response =
		fake_ctrl(ssl, SSL_CTRL_GET_TLSEXT_STATUS_REQ_OCSP_RESP, 0, &response) > 0;
	if (host_does == STAPLES) {
		staple_host_response(&lib, ssl);
		set_response(SMALL, OPENSSL_malloc(SMALL));
	}
	if (host_does == SAYS_FATAL)
		return SSL_TLSEXT_ERR_ALERT_FATAL;
	return host_does == SAYS_NOACK ? SSL_TLSEXT_ERR_NOACK : SSL_TLSEXT_ERR_OK;
}

static void set_scene_with_host(void)
{
	set_scene(SMALL, all);
	CHECK(staple_set_host_callback(&lib, THE_CTX, (void (*)(void))host_callback));
}

static void test_a_host_that_has_nothing_is_helped(void)
{
	set_scene_with_host();
	host_does = SAYS_OK;
	check_all(SMALL, all);
	host_does = SAYS_NOACK;
	check_all(SMALL, all);
	strike_scene();
}

static void test_a_host_that_staples_or_refuses_is_left_alone(void)
{
	set_scene_with_host();
	host_does = STAPLES;
	CHECK_EQ(shake_hands(), SSL_TLSEXT_ERR_OK);
	CHECK(connection.response && !connection.responses);
	strike_scene();
	set_scene_with_host();
	host_does = SAYS_FATAL;
	CHECK_EQ(shake_hands(), SSL_TLSEXT_ERR_ALERT_FATAL);
	CHECK(!connection.response && !connection.responses);
	strike_scene();
}

static void test_what_was_ours_never_passes_for_the_host_s(void)
{
	set_scene_with_host();
	host_does = SAYS_OK;
	check_all(SMALL, all);
	/* Used anew after SSL_clear; meanwhile the certificate was revoked. */
	cache_revoke(
		cache, leaf, make_response(SMALL), clock_wall() / 1000 + 1, clock_wall() / 1000);
	CHECK_EQ(shake_hands(), SSL_TLSEXT_ERR_OK);
	CHECK(!host_saw_response);
	CHECK(!connection.response && !connection.responses);
	strike_scene();
}

static void test_what_the_host_set_is_not_taken_back(void)
{
	set_scene_with_host();
	host_does = SAYS_OK;
	check_all(SMALL, all);
	/* Before the next handshake, from another callback. */
	staple_host_response(&lib, THE_SSL);
	set_response(SMALL, OPENSSL_malloc(SMALL));
	CHECK_EQ(shake_hands(), SSL_TLSEXT_ERR_OK);
	CHECK(host_saw_response);
	CHECK(connection.response && !connection.responses);
	strike_scene();
}

static void prepare_library(void)
{
	lib.known = true;
	lib.version = 0x30600010UL;
	lib.ctx_index = -1;
	lib.ssl_index = -1;
	CHECK(!libcrypto_bind(&lib.crypto, RTLD_DEFAULT));
	lib.SSL_ctrl = fake_ctrl;
	lib.SSL_CTX_ctrl = fake_ctx_ctrl;
	lib.SSL_CTX_callback_ctrl = fake_callback_ctrl;
	lib.SSL_version = fake_version;
	lib.SSL_set_options = fake_set_options;
	lib.SSL_get_certificate = fake_certificate;
	lib.SSL_get_SSL_CTX = fake_ctx;
	lib.SSL_is_server = fake_is_server;
	lib.SSL_get_ex_data = fake_get_mark;
	lib.SSL_set_ex_data = fake_set_mark;
	lib.SSL_CTX_get_ex_data = fake_get_installed;
	lib.SSL_CTX_set_ex_data = fake_set_installed;
}

int main(void)
{
	prepare_library();
	test_responses_stand_in_the_order_of_the_chain();
	test_quic_is_tls_13();
	test_no_compressed_certificate_is_sent_in_place_of_the_staple();
	test_the_leaf_is_stapled_alone_where_there_is_no_room_or_need();
	test_nothing_is_stapled_without_a_response_for_the_leaf();
	test_a_chain_of_the_context_becomes_the_connection_s();
	test_the_leaf_is_stapled_if_the_others_are_refused();
	test_long_responses_are_left_out();
	test_garbage_keeps_nothing_back();
	test_a_host_that_has_nothing_is_helped();
	test_a_host_that_staples_or_refuses_is_left_alone();
	test_what_was_ours_never_passes_for_the_host_s();
	test_what_the_host_set_is_not_taken_back();
	return check_result();
}
