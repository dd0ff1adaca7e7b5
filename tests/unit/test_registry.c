/* SPDX-License-Identifier: MIT */
/* links: registry.c cache.c certificate.c bytes.c clock.c file.c log.c libcrypto.c -lcrypto */
/*
 * What the registry holds for the certificates of a host, and for how long: against a libssl that
 * is made up, because only the newest one takes intermediates' responses. The certificates are
 * real.
 */
#include "../../shim/registry.h"

#include "../../fetcher/clock.h"
#include "../../shim/host.h"
#include "../../shim/staple.h"
#include "../fuzz/court.h"
#include "check.h"

#include <stdlib.h>

enum { DAY = 24 * 60 * 60 * 1000 };

/* A context. */
static struct {
	X509 *x;
	STACK_OF(X509) * chain;
} context;
#define THE_CTX ((SSL_CTX *)&context)

static struct libssl lib;
static struct cache *cache;

/* libssl, made up. */

static long fake_ctx_ctrl(SSL_CTX *ctx, int command, long number, void *pointer)
{
	(void)number;
	CHECK(ctx == THE_CTX);
	if (command == SSL_CTRL_GET_CHAIN_CERTS)
		*(STACK_OF(X509) **)pointer = context.chain;
	return 1;
}

static X509 *fake_certificate(const SSL_CTX *ctx)
{
	CHECK(ctx == THE_CTX);
	return context.x;
}

static X509_STORE *fake_store(const SSL_CTX *ctx)
{
	CHECK(ctx == THE_CTX);
	return NULL;
}

/* What registry.c calls of the shim: a process that may do all, and whose store is empty. */

bool libssl_is_client_only(const struct libssl *of, const SSL_CTX *ctx)
{
	(void)of;
	(void)ctx;
	return false;
}

void staple_install(struct libssl *of, SSL_CTX *ctx)
{
	(void)of;
	(void)ctx;
}

const struct config *host_config(void)
{
	static const struct config config = {.fetch = true};

	return &config;
}

struct visit host_enter(const struct libcrypto *of)
{
	return (struct visit){.crypto = of};
}

void host_leave(struct visit visit)
{
	(void)visit;
}

bool host_is_wanted(void)
{
	return true;
}

bool host_is_itself(void)
{
	return true;
}

struct cache *host_cache(void)
{
	return cache;
}

struct supply host_supply(const struct libcrypto *of)
{
	return (struct supply){.crypto = of, .cache = cache, .config = host_config()};
}

struct libcrypto host_borrow_memo(const struct libcrypto *of, struct bytes der, X509 *x)
{
	(void)der;
	CHECK(x);
	return *of;
}

void host_return_memo(const struct libcrypto *of)
{
	(void)of;
}

void host_registered(const struct libcrypto *of)
{
	(void)of;
}

bool host_ask_agent(const struct supply *asking, struct slot *slot, enum host_occasion occasion)
{
	(void)asking;
	(void)slot;
	(void)occasion;
	return false;
}

void host_want_thread(void)
{
}

void host_lock(void)
{
}

void host_unlock(void)
{
}

bool supply_is_due(const struct supply *supply, const struct slot *slot)
{
	(void)supply;
	(void)slot;
	return true;
}

void supply_from_ready(const struct supply *supply, struct slot *slot, bool is_loading)
{
	(void)supply;
	(void)slot;
	CHECK(is_loading);
}

bool supply_from_store(const struct supply *supply, struct slot *slot, bool is_loading)
{
	(void)supply;
	(void)slot;
	CHECK(is_loading);
	return false;
}

bool supply_has_ready(const struct supply *supply, struct slot *slot)
{
	(void)supply;
	(void)slot;
	return false;
}

uint64_t store_look(const struct store *store, const unsigned char *key)
{
	(void)store;
	(void)key;
	return 0;
}

/* The scene. */

static X509 *make(const struct buffer *der)
{
	X509 *x = certificate_x509(&crypto, (struct bytes){der->data, der->size});

	CHECK(x);
	return x;
}

/* Both the caller's; they are let go of by unload and unload_chain. */
static void load(X509 *x, X509 *link)
{
	context.x = x;
	context.chain = sk_X509_new_null();
	CHECK(sk_X509_push(context.chain, link) > 0);
	CHECK_EQ(registry_see_ctx(&lib, THE_CTX, 1), 1);
}

static void unload(void)
{
	X509_free(context.x);
	context.x = NULL;
}

static void unload_chain(void)
{
	sk_X509_pop_free(context.chain, X509_free);
	context.chain = NULL;
}

static struct slot *slot_of(X509 *x, enum role role)
{
	struct slot *slot = registry_slot(&lib, x, role);

	CHECK(slot);
	if (slot)
		cache_unpin(slot);
	return slot;
}

/* Held by a process that has it loaded, however long ago that was; and it may be forgotten. */
static void check_held(struct slot *slot, bool is_held)
{
	CHECK_EQ(registry_is_loaded(slot), is_held);
	CHECK_EQ(cache_is_wanted(cache, slot, clock_steady() + DAY), is_held);
	CHECK_EQ(atomic_load(&slot->pins), 0);
}

static void test_what_comes_after_a_leaf_that_is_not_stapled_is_not_registered(void)
{
	load(make(&courts[0].issuer), make(&courts[1].leaf));
	CHECK_EQ(cache_slot_count(cache), 0);
	unload();
	unload_chain();
}

static void test_intermediates_are_none_of_an_older_libssl_s_business(void)
{
	lib.multistaples = false;
	load(make(&courts[0].leaf), make(&courts[1].leaf));
	CHECK_EQ(cache_slot_count(cache), 1);
	unload();
	unload_chain();
	lib.multistaples = true;
}

static void test_an_intermediate_is_held_for_as_long_as_it_is_in_memory(void)
{
	struct slot *leaf, *link;

	load(make(&courts[0].leaf), make(&courts[1].leaf));
	CHECK_EQ(cache_slot_count(cache), 2);
	leaf = slot_of(context.x, ROLE_LEAF);
	link = slot_of(sk_X509_value(context.chain, 0), ROLE_LINK);
	CHECK(leaf != link);
	check_held(leaf, true);
	check_held(link, true);
	unload();
	check_held(leaf, false);
	check_held(link, true);
	unload_chain();
	check_held(link, false);
}

static void test_what_was_let_go_of_is_held_again_by_who_loads_it_again(void)
{
	struct slot *link;

	load(make(&courts[0].leaf), make(&courts[1].leaf));
	CHECK_EQ(cache_slot_count(cache), 2);
	link = slot_of(sk_X509_value(context.chain, 0), ROLE_LINK);
	check_held(link, true);
	CHECK_EQ(registry_see_ctx(&lib, THE_CTX, 1), 1);
	check_held(link, true);
	unload();
	unload_chain();
	check_held(link, false);
}

static void test_a_certificate_in_both_roles_is_held_until_the_last_is_gone(void)
{
	X509 *x = make(&courts[0].leaf);
	struct slot *slot;

	CHECK_EQ(X509_up_ref(x), 1);
	load(x, x);
	slot = slot_of(x, ROLE_LEAF);
	CHECK(slot_of(x, ROLE_LINK) == slot);
	unload();
	check_held(slot, true);
	unload_chain();
	check_held(slot, false);

	/* In two copies, the second alone. */
	load(make(&courts[0].leaf), make(&courts[0].leaf));
	check_held(slot, true);
	unload();
	check_held(slot, true);
	unload_chain();
	check_held(slot, false);
}

static void test_what_hangs_there_from_a_process_with_another_cache_leads_nowhere(void)
{
	struct cache *own = cache, *other = cache_create();
	struct slot *slot, *stranger;
	X509 *x = make(&courts[1].leaf);

	CHECK(other);
	load(make(&courts[0].leaf), make(&courts[0].issuer));
	slot = slot_of(context.x, ROLE_LEAF);
	/* There, the slot of the same number and generation is another certificate's. */
	cache = other;
	stranger = slot_of(x, ROLE_LEAF);
	CHECK_EQ(cache_slot_index(other, stranger), cache_slot_index(own, slot));
	CHECK_EQ(atomic_load(&stranger->generation), atomic_load(&slot->generation));
	CHECK(slot_of(context.x, ROLE_LEAF) != stranger);
	CHECK_EQ(atomic_load(&stranger->pins), 0);
	cache = own;
	CHECK(slot_of(context.x, ROLE_LEAF) == slot);
	check_held(slot, true);
	unload();
	unload_chain();
	check_held(slot, false);
	X509_free(x);
	cache_destroy(other);
}

static void prepare_library(void)
{
	lib.known = true;
	lib.multistaples = true;
	lib.x509_index = -1;
	lib.crypto = crypto;
	lib.SSL_CTX_ctrl = fake_ctx_ctrl;
	lib.SSL_CTX_get0_certificate = fake_certificate;
	lib.SSL_CTX_get_cert_store = fake_store;
}

int main(void)
{
	open_courts();
	prepare_library();
	cache = cache_create();
	CHECK(cache);
	test_what_comes_after_a_leaf_that_is_not_stapled_is_not_registered();
	test_intermediates_are_none_of_an_older_libssl_s_business();
	test_an_intermediate_is_held_for_as_long_as_it_is_in_memory();
	test_what_was_let_go_of_is_held_again_by_who_loads_it_again();
	test_a_certificate_in_both_roles_is_held_until_the_last_is_gone();
	test_what_hangs_there_from_a_process_with_another_cache_leads_nowhere();
	cache_destroy(cache);
	return check_result();
}
