/* SPDX-License-Identifier: MIT */
#include "registry.h"

#include "../fetcher/certificate.h"
#include "../fetcher/clock.h"
#include "../fetcher/log.h"
#include "host.h"
#include "staple.h"

#include <stdlib.h>
#include <string.h>

enum { ASK_INTERVAL = 1000 }; /* milliseconds */

/*
 * What is known of a host's X509, hung on it as ex_data, so that it goes when the X509 goes. Only
 * hooks hang it there: they run before a certificate is shared between threads, a handshake may
 * not.
 *
 * It is in memory of libcrypto's allocator: a host may have given it one for objects that its
 * processes share (kamailio), and then other processes read this note, too. So it points to
 * nothing; and if the cache was made after the fork, each of them has another.
 */
struct note {
	atomic_bool pooled;                      /* as somebody's issuer */
	unsigned char key[CERTIFICATE_KEY_SIZE]; /* before a number is set; constant then */
	struct tie {
		atomic_bool seen;
		_Atomic uint32_t number;     /* of the slot, from 1; 0: not to be stapled */
		_Atomic uint32_t generation; /* of the slot, when it was this certificate's */
	} in[2];                             /* enum role */
};

/*
 * How often notes of this process point to each slot, by its number: the generation in the upper
 * half, the count in the lower. A child has its own copy, as it has of the notes.
 */
static _Atomic(_Atomic uint64_t *) loaded;

static _Atomic uint64_t *loaded_of(const struct slot *slot)
{
	_Atomic uint64_t *counts = atomic_load(&loaded);

	return counts ? &counts[cache_slot_index(host_cache(), slot)] : NULL;
}

/* Under host_lock. */
static void prepare_loaded(const struct cache *cache)
{
	if (!atomic_load(&loaded))
		atomic_store(&loaded, calloc(cache_slot_limit(cache), sizeof(*loaded_of(NULL))));
}

static uint32_t count_in(uint64_t word, uint32_t generation)
{
	return (uint32_t)(word >> 32) == generation ? (uint32_t)word : 0;
}

/* Adds 1 or -1 to the count and returns it. What was counted for another generation is forgotten;
 * for that, a count that would fall below 0 stays as it is. */
static uint32_t count_note(const struct slot *slot, uint32_t generation, int change)
{
	_Atomic uint64_t *word = loaded_of(slot);
	uint64_t before = word ? atomic_load(word) : 0;
	uint32_t count;

	do {
		count = count_in(before, generation);
		if (!word || (change < 0 && count == 0))
			return 0;
		count += (uint32_t)change;
	} while (!atomic_compare_exchange_weak(word, &before, (uint64_t)generation << 32 | count));
	return count;
}

bool registry_is_loaded(const struct slot *slot)
{
	_Atomic uint64_t *word = loaded_of(slot);

	return word && count_in(atomic_load(word), atomic_load(&slot->generation)) > 0;
}

static bool is_tied(const struct note *note)
{
	return atomic_load(&note->in[ROLE_LEAF].number) || atomic_load(&note->in[ROLE_LINK].number);
}

/* It was looked at, and is not to be stapled. */
static bool is_refused(const struct tie *tie)
{
	return atomic_load(&tie->seen) && atomic_load(&tie->number) == 0;
}

/* The slot is pinned. Counted once, whoever else comes by with the same certificate. */
static void tie_slot(struct note *note, enum role role, const struct slot *slot)
{
	uint32_t number = (uint32_t)cache_slot_index(host_cache(), slot) + 1;
	uint32_t generation = atomic_load(&slot->generation);
	struct tie *tie = &note->in[role];

	host_lock();
	prepare_loaded(host_cache());
	if (atomic_load(&tie->number) != number || atomic_load(&tie->generation) != generation) {
		count_note(slot, generation, 1);
		if (!is_tied(note))
			memcpy(note->key, slot->key, sizeof(note->key));
		atomic_store(&tie->generation, generation);
		atomic_store(&tie->number, number);
	}
	host_unlock();
}

/* Pinned, or NULL if it is another certificate's by now, or in the cache of another process. */
static struct slot *pin_tied(const struct note *note, enum role role)
{
	const struct tie *tie = &note->in[role];
	uint32_t number = atomic_load(&tie->number);
	struct cache *cache = number == 0 ? NULL : host_cache();
	struct slot *slot;

	if (!cache || number > cache_slot_count(cache))
		return NULL;
	slot = cache_slot(cache, number - 1);
	if (!cache_pin(slot, atomic_load(&tie->generation)))
		return NULL;
	if (memcmp(slot->key, note->key, sizeof(note->key)) == 0)
		return slot;
	cache_unpin(slot);
	return NULL;
}

static void release_tie(const struct note *note, enum role role)
{
	uint32_t generation = atomic_load(&note->in[role].generation);
	struct slot *slot = atomic_load(&loaded) ? pin_tied(note, role) : NULL;

	if (!slot)
		return;
	if (count_note(slot, generation, -1) == 0 && host_is_itself())
		cache_release(host_cache(), slot, generation);
	cache_unpin(slot);
}

/* As pin_tied; whoever comes by gives a sign that the certificate is loaded. */
static struct slot *tied_slot(const struct note *note, enum role role)
{
	struct slot *slot = pin_tied(note, role);
	int64_t now;

	if (!slot)
		return NULL;
	now = clock_steady();
	if (cache_touch(slot, now) && host_is_itself())
		cache_claim(host_cache(), slot, now);
	return slot;
}

/* CRYPTO_EX_free: called for every X509 of the process, mostly with NULL. */
static void free_note(
	void *parent, void *note, CRYPTO_EX_DATA *data, int index, long argl, void *argp)
{
	const struct libssl *lib = argp;

	(void)parent;
	(void)data;
	(void)index;
	(void)argl;
	if (!note)
		return;
	for (int role = ROLE_LEAF; role <= ROLE_LINK; role++)
		release_tie(note, role);
	lib->crypto.CRYPTO_free(note, __FILE__, __LINE__);
}

/* Under host_lock. */
static bool prepare_index(struct libssl *lib)
{
	if (lib->x509_index < 0)
		lib->x509_index = lib->crypto.CRYPTO_get_ex_new_index(
			CRYPTO_EX_INDEX_X509, 0, lib, NULL, NULL, free_note);
	return lib->x509_index >= 0;
}

static struct note *note_of(struct libssl *lib, X509 *x)
{
	const struct libcrypto *crypto = &lib->crypto;
	struct note *note = NULL;

	host_lock();
	if (!prepare_index(lib))
		goto out;
	note = crypto->X509_get_ex_data(x, lib->x509_index);
	if (note)
		goto out;
	note = libcrypto_zalloc(crypto, sizeof(*note));
	if (note && !crypto->X509_set_ex_data(x, lib->x509_index, note)) {
		crypto->CRYPTO_free(note, __FILE__, __LINE__);
		note = NULL;
	}
out:
	host_unlock();
	return note;
}

/* Why a certificate is never stapled, or NULL. Normal in 2026, and not worth more than a debug
 * line. */
static const char *why_not(
	const struct certificate *certificate, enum role role, const char *responders)
{
	if (role == ROLE_LEAF && !certificate->may_be_server)
		return "it is not for servers (extendedKeyUsage)";
	if (certificate->is_self_issued)
		return "it is self-signed";
	if (responders[0] == '\0' && !host_config()->responses)
		return "it names no OCSP responder";
	return NULL;
}

/* The slot of a certificate, pinned, made if it is to be stapled; NULL if it is not. */
static struct slot *register_certificate(struct libssl *lib, X509 *x, enum role role)
{
	const struct config *config = host_config();
	struct certificate certificate;
	struct slot *slot = NULL;
	const char *responders, *why;
	struct cache *cache;

	if (!certificate_read(&lib->crypto, x, &certificate))
		return NULL;
	/* The responder that is named in place of the leaf's need not know other CAs' certificates.
	 */
	responders =
		role == ROLE_LEAF && config->responder ? config->responder : certificate.responders;
	why = why_not(&certificate, role, responders);
	if (why) {
		log_debug("%s: not stapled: %s", certificate.label, why);
		goto out;
	}
	cache = host_cache();
	if (!cache)
		goto out;
	if (!host_is_itself()) {
		slot = cache_find(cache, certificate.key);
		goto out;
	}
	slot = cache_add(cache, &certificate, responders, clock_steady());
	if (slot)
		host_registered(&lib->crypto);
	else
		log_error("%s: nothing to staple: the cache is full", certificate.label);
out:
	certificate_free(&certificate);
	return slot;
}

/* Pinned. */
static struct slot *see_certificate(struct libssl *lib, X509 *x, enum role role)
{
	struct note *note = note_of(lib, x);
	struct slot *slot;
	struct tie *tie;

	if (!note)
		return NULL;
	tie = &note->in[role];
	slot = tied_slot(note, role);
	if (slot || is_refused(tie))
		return slot;
	/* New here, or forgotten meanwhile and come back. */
	slot = register_certificate(lib, x, role);
	if (slot)
		tie_slot(note, role, slot);
	atomic_store(&tie->seen, true);
	return slot;
}

static void pool_issuer(struct libssl *lib, X509 *x)
{
	struct note *note = note_of(lib, x);
	struct cache *cache = host_cache();
	struct certificate certificate;

	if (!note || !cache || !host_is_itself() || atomic_exchange(&note->pooled, true))
		return;
	if (!certificate_read(&lib->crypto, x, &certificate))
		return;
	cache_add_issuer(cache, &certificate);
	certificate_free(&certificate);
}

static void pool_issuers(struct libssl *lib, const STACK_OF(X509) * chain)
{
	const OPENSSL_STACK *stack = (const OPENSSL_STACK *)chain;
	int count = chain ? lib->crypto.OPENSSL_sk_num(stack) : 0;

	for (int i = 0; i < count; i++)
		pool_issuer(lib, lib->crypto.OPENSSL_sk_value(stack, i));
}

static bool is_named_issuer(const struct libcrypto *crypto, const X509 *candidate, const X509 *x)
{
	return crypto->X509_NAME_cmp(crypto->X509_get_subject_name(candidate),
		       crypto->X509_get_issuer_name(x)) == 0;
}

/*
 * Certificates of a store that may be the issuer of x. Only those that are in memory: to let the
 * store look into its directories would add to what the host finds in it. The lock is the store's
 * own, which nobody holds across I/O. Returns how many; each is to be freed.
 */
static int find_in_store(struct libssl *lib, X509_STORE *store, X509 *x, X509 **found, int room)
{
	const struct libcrypto *crypto = &lib->crypto;
	const OPENSSL_STACK *objects;
	int count = 0;

	if (!store || crypto->X509_STORE_lock(store) != 1)
		return 0;
	objects = (const OPENSSL_STACK *)crypto->X509_STORE_get0_objects(store);
	for (int i = 0; i < crypto->OPENSSL_sk_num(objects) && count < room; i++) {
		X509 *candidate =
			crypto->X509_OBJECT_get0_X509(crypto->OPENSSL_sk_value(objects, i));

		if (candidate && is_named_issuer(crypto, candidate, x) &&
			crypto->X509_up_ref(candidate) == 1)
			found[count++] = candidate;
	}
	crypto->X509_STORE_unlock(store);
	return count;
}

/* Without a note: it is shared between threads already. */
static void pool_shared(struct libssl *lib, X509 *candidate)
{
	struct cache *cache = host_cache();
	struct certificate certificate;

	if (!cache || !certificate_read(&lib->crypto, candidate, &certificate))
		return;
	cache_add_issuer(cache, &certificate);
	certificate_free(&certificate);
}

static void pool_from_store(struct libssl *lib, X509_STORE *store, X509 *x)
{
	enum { CANDIDATES = 16 };
	X509 *found[CANDIDATES];
	int count = find_in_store(lib, store, x, found, CANDIDATES);

	for (int i = 0; i < count; i++) {
		pool_shared(lib, found[i]);
		lib->crypto.X509_free(found[i]);
	}
}

static void pool_from_chain(struct libssl *lib, const STACK_OF(X509) * chain, const X509 *x)
{
	const struct libcrypto *crypto = &lib->crypto;
	const OPENSSL_STACK *stack = (const OPENSSL_STACK *)chain;
	int count = chain ? crypto->OPENSSL_sk_num(stack) : 0;

	for (int i = 0; i < count; i++) {
		X509 *candidate = crypto->OPENSSL_sk_value(stack, i);

		if (is_named_issuer(crypto, candidate, x))
			pool_shared(lib, candidate);
	}
}

void registry_seek_issuer(struct libssl *lib, SSL_CTX *ctx, const STACK_OF(X509) * chain,
	const struct slot *slot, X509 *x)
{
	X509_STORE *verify = NULL, *own = NULL;

	if (atomic_load(&slot->issuer) || !host_is_itself())
		return;
	pool_from_chain(lib, chain, x);
	/* Where a libssl does not know these, NULL stays. */
	lib->SSL_CTX_ctrl(ctx, SSL_CTRL_GET_CHAIN_CERT_STORE, 0, &own);
	lib->SSL_CTX_ctrl(ctx, SSL_CTRL_GET_VERIFY_CERT_STORE, 0, &verify);
	pool_from_store(lib, own, x);
	pool_from_store(lib, verify, x);
	pool_from_store(lib, lib->SSL_CTX_get_cert_store(ctx), x);
}

static bool is_concerned(const struct libssl *lib, int result)
{
	return result > 0 && lib->known && host_is_wanted();
}

/* Once for all the hooks by which a certificate and its chain come. */
static void ask_agent(const struct supply *supply, struct slot *slot)
{
	int64_t now = clock_steady();

	if (!host_is_itself() || now - atomic_load(&slot->asked) < ASK_INTERVAL)
		return;
	host_ask_agent(supply, slot, HOST_LOADS);
	if (atomic_load(&slot->issuer))
		atomic_store(&slot->asked, now);
}

/*
 * A response in a file, or the agent's, that is still good spares the thread until it is due, for
 * servers that are started anew for each connection. It cannot be judged before the chain is there.
 */
static void fill_with(const struct supply *supply, struct slot *slot)
{
	bool waits_for_chain;

	if (host_is_itself()) {
		supply_from_ready(supply, slot, true);
		/* What is ready may be older than a revocation. */
		if (cache_usable_until(slot) == 0 || supply->config->responses)
			supply_from_store(supply, slot, true);
	}
	waits_for_chain =
		!atomic_load(&slot->issuer) &&
		(store_look(supply->store, slot->key) != 0 || supply_has_ready(supply, slot));
	if (waits_for_chain || !supply_is_due(supply, slot))
		return;
	ask_agent(supply, slot);
	if (supply_is_due(supply, slot))
		host_want_thread();
}

/* x is the slot's certificate: what was decoded once, by the host, is not decoded again. */
static void fill(const struct libssl *lib, struct slot *slot, X509 *x)
{
	struct libcrypto crypto = host_borrow_memo(&lib->crypto, slot->certificate, x);
	struct supply supply = host_supply(&crypto);

	fill_with(&supply, slot);
	host_return_memo(&crypto);
}

/* What is sent after a leaf that is stapled. */
static void see_links(struct libssl *lib, SSL_CTX *ctx, const STACK_OF(X509) * chain)
{
	const OPENSSL_STACK *stack = (const OPENSSL_STACK *)chain;
	int count = lib->multistaples && chain ? lib->crypto.OPENSSL_sk_num(stack) : 0;

	for (int i = 0; i < count; i++) {
		X509 *x = lib->crypto.OPENSSL_sk_value(stack, i);
		struct slot *slot = see_certificate(lib, x, ROLE_LINK);

		if (!slot)
			continue;
		registry_seek_issuer(lib, ctx, NULL, slot, x);
		fill(lib, slot, x);
		cache_unpin(slot);
	}
}

/*
 * A certificate that is not stapled needs no issuer either; but the chain may come before the
 * certificate (Ruby's openssl).
 */
static void see(struct libssl *lib, SSL_CTX *ctx, SSL *ssl, X509 *x)
{
	struct slot *slot = x ? see_certificate(lib, x, ROLE_LEAF) : NULL;
	STACK_OF(X509) *extra = NULL, *chain = NULL;

	if (slot)
		staple_install(lib, ctx);
	if (x && !slot)
		return;
	lib->SSL_CTX_ctrl(ctx, SSL_CTRL_GET_EXTRA_CHAIN_CERTS, 1, &extra);
	if (ssl)
		lib->SSL_ctrl(ssl, SSL_CTRL_GET_CHAIN_CERTS, 0, &chain);
	else
		lib->SSL_CTX_ctrl(ctx, SSL_CTRL_GET_CHAIN_CERTS, 0, &chain);
	pool_issuers(lib, extra);
	pool_issuers(lib, chain);
	if (!slot)
		return;
	registry_seek_issuer(lib, ctx, NULL, slot, x);
	fill(lib, slot, x);
	see_links(lib, ctx, chain ? chain : extra);
	cache_unpin(slot);
}

int registry_see_ctx(struct libssl *lib, SSL_CTX *ctx, int result)
{
	struct visit visit;

	if (!ctx || !is_concerned(lib, result) || libssl_is_client_only(lib, ctx))
		return result;
	visit = host_enter(&lib->crypto);
	see(lib, ctx, NULL, lib->SSL_CTX_get0_certificate(ctx));
	host_leave(visit);
	return result;
}

int registry_see_ssl(struct libssl *lib, SSL *ssl, int result)
{
	struct visit visit;

	if (!ssl || !is_concerned(lib, result) || !lib->SSL_is_server(ssl))
		return result;
	visit = host_enter(&lib->crypto);
	see(lib, lib->SSL_get_SSL_CTX(ssl), ssl, lib->SSL_get_certificate(ssl));
	host_leave(visit);
	return result;
}

bool registry_see_new(struct libssl *lib, SSL_CTX *ctx)
{
	struct visit visit;

	if (!is_concerned(lib, 1) || libssl_is_client_only(lib, ctx))
		return false;
	visit = host_enter(&lib->crypto);
	/* Even without a certificate: it may get one in the middle of the handshake. */
	staple_install(lib, ctx);
	see(lib, ctx, NULL, lib->SSL_CTX_get0_certificate(ctx));
	host_leave(visit);
	return true;
}

struct slot *registry_slot(struct libssl *lib, X509 *x, enum role role)
{
	const struct note *note = NULL;
	struct slot *slot;

	if (lib->x509_index >= 0)
		note = lib->crypto.X509_get_ex_data(x, lib->x509_index);
	slot = note ? tied_slot(note, role) : NULL;
	if (slot || (note && is_refused(&note->in[role])))
		return slot;
	return register_certificate(lib, x, role);
}
