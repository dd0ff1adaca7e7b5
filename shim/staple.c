/* SPDX-License-Identifier: MIT */
#include "staple.h"

#include "../fetcher/cache.h"
#include "../fetcher/clock.h"
#include "host.h"
#include "registry.h"

#include <openssl/tls1.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

enum {
	LOOK_INTERVAL = 1000,
	ASK_INTERVAL = 10, /* of one who waits for the agent to have something */
	/* Bytes of responses beside the leaf's. They make the Certificate message longer, and there
	 * are clients that take none of more than 16 KiB (mbedTLS). */
	LINKS_LIMIT = 8192,
	QUIC_VERSION_1 = 1, /* what SSL_version says of QUIC, which has TLS 1.3 inside */
};

typedef int status_callback(SSL *ssl, void *argument);

/* Hung on an SSL_CTX as ex_data, in memory of libcrypto's allocator: see struct note. */
struct installed {
	_Atomic(status_callback *) host; /* NULL: it has none */
};

/* Hung on an SSL as ex_data: the response that it has is ours. */
static char mark;

/* CRYPTO_EX_free */
static void free_installed(
	void *parent, void *installed, CRYPTO_EX_DATA *data, int index, long argl, void *argp)
{
	const struct libssl *lib = argp;

	(void)parent;
	(void)data;
	(void)index;
	(void)argl;
	lib->crypto.CRYPTO_free(installed, __FILE__, __LINE__);
}

static struct installed *installed_in(const struct libssl *lib, const SSL_CTX *ctx)
{
	return lib->ctx_index < 0 ? NULL : lib->SSL_CTX_get_ex_data(ctx, lib->ctx_index);
}

/* The response for x as libssl wants it: in memory of its own allocator. NULL if there is none. */
static unsigned char *copy_response(
	const struct libcrypto *crypto, const struct slot *slot, size_t *size)
{
	int64_t now = clock_wall() / 1000;
	size_t room = cache_read(slot, now, NULL, 0);
	unsigned char *copy;

	while (room > 0) {
		copy = crypto->CRYPTO_malloc(room, __FILE__, __LINE__);
		if (!copy)
			return NULL;
		*size = cache_read(slot, now, copy, room);
		if (*size > 0 && *size <= room)
			return copy;
		/* Replaced by a larger one, or gone, since we asked for its size. */
		crypto->CRYPTO_free(copy, __FILE__, __LINE__);
		room = *size;
	}
	return NULL;
}

/* At what others have put into files; at most once a second. */
static void look(const struct supply *supply, struct slot *slot)
{
	int64_t now = clock_steady();

	if (!host_is_itself() || now - atomic_load(&slot->looked) < LOOK_INTERVAL)
		return;
	atomic_store(&slot->looked, now);
	supply_from_ready(supply, slot, false);
	supply_from_store(supply, slot, false);
}

/*
 * The machine's agent; as seldom, and only when it is time for a newer response. Not where a first
 * one is waited for: an agent that this little patience takes for silent would not be asked then.
 */
static void ask_agent(const struct supply *supply, struct slot *slot, enum role role)
{
	bool awaits = role == ROLE_LEAF && cache_usable_until(slot) == 0 && host_may_wait(slot);
	int64_t now = clock_steady();

	if (awaits || !host_is_itself() || !supply_is_due(supply, slot) ||
		now - atomic_load(&slot->asked) < LOOK_INTERVAL)
		return;
	atomic_store(&slot->asked, now);
	host_ask_agent(supply, slot, HOST_PASSES);
}

static OCSP_RESPONSE *decode_response(
	const struct libcrypto *crypto, const unsigned char *der, size_t size)
{
	return crypto->d2i_OCSP_RESPONSE(NULL, &der, (long)size);
}

/*
 * After a long silence in which nothing was refreshed, what others put into files may be there
 * already. Where nobody fetches (OCSPRELOAD_FETCH=off, no thread to be had), that and what the
 * agent has is all there ever is, and it may say that what is held is revoked.
 */
static void refresh(struct libssl *lib, struct slot *slot, enum role role)
{
	struct supply supply = host_supply(&lib->crypto);

	/* Before there is a thread: it would look at the same. */
	if (cache_usable_until(slot) <= clock_wall() / 1000)
		look(&supply, slot);
	/* No thread is born for a link alone: a process that serves one connection needs none. */
	if (supply.config->fetch &&
		!host_check_thread(role == ROLE_LEAF && supply_is_due(&supply, slot)))
		return;
	look(&supply, slot);
	ask_agent(&supply, slot, role);
}

/*
 * For a first answer, within the startup window. The agent answers at once, that it is asking if
 * need be: nobody has a descriptor, or keeps a fork away, while he waits. One that has not answered
 * in time may have been busy, and is asked again.
 */
static void await(struct libssl *lib, struct slot *slot)
{
	static const struct timespec moment = {0, ASK_INTERVAL * 1000000};
	struct supply supply = host_supply(&lib->crypto);

	if (host_await(slot))
		return;
	while (host_ask_agent(&supply, slot, HOST_WAITS) && host_may_wait(slot))
		nanosleep(&moment, NULL);
}

/*
 * A context may hold its certificates compressed (SSL_CTX_compress_certs, since 3.2), as a message
 * that was ready before there was a staple. This connection's is then made afresh.
 */
static void avoid_compressed(const struct libssl *lib, SSL *ssl)
{
	static const uint64_t no_tx_certificate_compression = (uint64_t)1 << 32;

	/* QUIC's would wait for a lock that it holds around the callback. */
	if (lib->version >= 0x30200000UL && lib->SSL_version(ssl) != QUIC_VERSION_1)
		lib->SSL_set_options(ssl, no_tx_certificate_compression);
}

/*
 * The certificates that are sent after the leaf, where they are known before they are sent: not if
 * libssl is going to look for them in its store. *common: they are the context's.
 */
static STACK_OF(X509) * links_of(const struct libssl *lib, SSL *ssl, bool *common)
{
	STACK_OF(X509) *chain = NULL;

	lib->SSL_ctrl(ssl, SSL_CTRL_GET_CHAIN_CERTS, 0, &chain);
	*common = !chain;
	if (!chain)
		lib->SSL_CTX_ctrl(lib->SSL_get_SSL_CTX(ssl), SSL_CTRL_GET_EXTRA_CHAIN_CERTS, 1,
			(void *)&chain);
	return chain;
}

/*
 * A host may have loaded the issuer after the certificate, by a function that is not hooked, or
 * both in another process, for this one as well: one look a second, in memory, and only while the
 * issuer is unknown.
 */
static void seek_issuer(struct libssl *lib, SSL *ssl, struct slot *slot, X509 *x)
{
	int64_t now = clock_steady(), sought = atomic_load(&slot->sought);
	bool common;

	if (atomic_load(&slot->issuer) || (sought != 0 && now - sought < LOOK_INTERVAL))
		return;
	atomic_store(&slot->sought, now);
	registry_seek_issuer(lib, lib->SSL_get_SSL_CTX(ssl), links_of(lib, ssl, &common), slot, x);
}

static bool is_tls13(const struct libssl *lib, const SSL *ssl)
{
	int version = lib->SSL_version(ssl);

	return version == TLS1_3_VERSION || version == QUIC_VERSION_1;
}

/* The response for a certificate of the chain, if it fits into *room bytes. NULL if there is none.
 */
static OCSP_RESPONSE *link_response(struct libssl *lib, X509 *x, size_t *room)
{
	const struct libcrypto *crypto = &lib->crypto;
	struct slot *slot = registry_slot(lib, x, ROLE_LINK);
	OCSP_RESPONSE *response = NULL;
	unsigned char *copy;
	size_t size;

	if (!slot)
		return NULL;
	refresh(lib, slot, ROLE_LINK);
	copy = copy_response(crypto, slot, &size);
	cache_unpin(slot);
	if (copy && size <= *room) {
		response = decode_response(crypto, copy, size);
		*room -= size;
	}
	crypto->CRYPTO_free(copy, __FILE__, __LINE__);
	return response;
}

/* Without sk_OCSP_RESPONSE_pop_free, which is not made the same way in all versions. */
static void free_responses(const struct libcrypto *crypto, OPENSSL_STACK *responses)
{
	for (int i = 0; i < crypto->OPENSSL_sk_num(responses); i++)
		crypto->OCSP_RESPONSE_free(crypto->OPENSSL_sk_value(responses, i));
	crypto->OPENSSL_sk_free(responses);
}

/* Takes the response, or NULL for a certificate that has none. */
static bool push_response(
	const struct libcrypto *crypto, OPENSSL_STACK *responses, OCSP_RESPONSE *response)
{
	if (crypto->OPENSSL_sk_push(responses, response) > 0)
		return true;
	crypto->OCSP_RESPONSE_free(response);
	return false;
}

/* In the order of the chain; NULL if only the leaf has one. */
static OPENSSL_STACK *collect_responses(
	struct libssl *lib, const OPENSSL_STACK *links, const unsigned char *leaf, size_t size)
{
	const struct libcrypto *crypto = &lib->crypto;
	OPENSSL_STACK *responses = crypto->OPENSSL_sk_new_null();
	OCSP_RESPONSE *response = decode_response(crypto, leaf, size);
	size_t room = LINKS_LIMIT;
	bool complete = response && push_response(crypto, responses, response);

	for (int i = 0; complete && i < crypto->OPENSSL_sk_num(links); i++) {
		response = link_response(lib, crypto->OPENSSL_sk_value(links, i), &room);
		complete = push_response(crypto, responses, response);
	}
	if (complete && room < LINKS_LIMIT)
		return responses;
	free_responses(crypto, responses);
	return NULL;
}

/*
 * The leaf's response and those of the certificates after it (RFC 8446, 4.4.2.1). False, and
 * nothing has changed, where there is only the leaf's, or something went wrong.
 */
static bool staple_chain(struct libssl *lib, SSL *ssl, const unsigned char *leaf, size_t size)
{
	STACK_OF(X509) * links;
	OPENSSL_STACK *responses;
	bool common;

	if (!lib->multistaples || !is_tls13(lib, ssl))
		return false;
	links = links_of(lib, ssl, &common);
	if (!links)
		return false;
	responses = collect_responses(lib, (const OPENSSL_STACK *)links, leaf, size);
	if (!responses)
		return false;
	/* libssl looks for the owners of responses among the connection's own certificates only.
	 * What is sent stays the same. */
	if ((!common || lib->SSL_ctrl(ssl, SSL_CTRL_CHAIN, 1, links) > 0) &&
		lib->SSL_ctrl(ssl, LIBSSL_SET_CHAIN_RESPONSES, 0, responses) > 0)
		return true;
	free_responses(&lib->crypto, responses);
	return false;
}

/* Takes the response. */
static bool staple_leaf(const struct libssl *lib, SSL *ssl, unsigned char *response, size_t size)
{
	if (lib->SSL_ctrl(ssl, SSL_CTRL_SET_TLSEXT_STATUS_REQ_OCSP_RESP, (long)size, response) > 0)
		return true;
	lib->crypto.CRYPTO_free(response, __FILE__, __LINE__);
	return false;
}

/* True if a response now hangs on the connection. */
static bool staple_from(struct libssl *lib, SSL *ssl, struct slot *slot, X509 *x)
{
	unsigned char *response;
	size_t size;

	seek_issuer(lib, ssl, slot, x);
	refresh(lib, slot, ROLE_LEAF);
	if (cache_usable_until(slot) == 0)
		await(lib, slot);
	response = copy_response(&lib->crypto, slot, &size);
	if (!response)
		return false;
	if (staple_chain(lib, ssl, response, size))
		lib->crypto.CRYPTO_free(response, __FILE__, __LINE__);
	else if (!staple_leaf(lib, ssl, response, size))
		return false;
	avoid_compressed(lib, ssl);
	return true;
}

static bool staple(struct libssl *lib, SSL *ssl)
{
	X509 *x = lib->SSL_get_certificate(ssl);
	struct slot *slot = x ? registry_slot(lib, x, ROLE_LEAF) : NULL;
	bool stapled;

	if (!slot)
		return false;
	stapled = staple_from(lib, ssl, slot, x);
	cache_unpin(slot);
	return stapled;
}

/* OK is also what a host returns that has nothing to staple; libssl then sends nothing. */
static bool host_stapled(const struct libssl *lib, SSL *ssl, int result)
{
	unsigned char *response = NULL;

	return result == SSL_TLSEXT_ERR_OK &&
	       lib->SSL_ctrl(ssl, SSL_CTRL_GET_TLSEXT_STATUS_REQ_OCSP_RESP, 0, &response) > 0 &&
	       response;
}

/*
 * A connection can come here twice: after a HelloRetryRequest, and used anew after SSL_clear. What
 * we left on it must not pass for the host's, and may have become too old.
 */
static void take_back(const struct libssl *lib, SSL *ssl)
{
	if (lib->SSL_get_ex_data(ssl, lib->ssl_index) != &mark)
		return;
	lib->SSL_set_ex_data(ssl, lib->ssl_index, NULL);
	lib->SSL_ctrl(ssl, SSL_CTRL_SET_TLSEXT_STATUS_REQ_OCSP_RESP, 0, NULL);
}

static int staple_callback(SSL *ssl, void *argument)
{
	struct libssl *lib = libssl_of_ssl(ssl, NULL);
	int result = SSL_TLSEXT_ERR_NOACK;
	struct installed *installed;
	status_callback *host;
	struct visit visit;

	if (!lib || !lib->known)
		return SSL_TLSEXT_ERR_NOACK;
	installed = installed_in(lib, lib->SSL_get_SSL_CTX(ssl));
	host = installed ? atomic_load(&installed->host) : NULL;

	/* On a client the callback judges what was received, and any positive value is consent. */
	if (!lib->SSL_is_server(ssl))
		return host ? host(ssl, argument) : 1;
	if (host) {
		take_back(lib, ssl);
		result = host(ssl, argument);
	}
	if (host_stapled(lib, ssl, result) ||
		(result != SSL_TLSEXT_ERR_OK && result != SSL_TLSEXT_ERR_NOACK))
		return result;
	visit = host_enter(&lib->crypto);
	if (staple(lib, ssl)) {
		result = SSL_TLSEXT_ERR_OK;
		if (host)
			lib->SSL_set_ex_data(ssl, lib->ssl_index, &mark);
	}
	host_leave(visit);
	return result;
}

static void set_callback(const struct libssl *lib, SSL_CTX *ctx, status_callback *callback)
{
	lib->SSL_CTX_callback_ctrl(
		ctx, SSL_CTRL_SET_TLSEXT_STATUS_REQ_CB, (void (*)(void))callback);
}

/* Under host_lock. The host's own may also have come past the hooks, in the place of ours. */
static void take_place(struct libssl *lib, SSL_CTX *ctx, struct installed *installed)
{
	status_callback *present = NULL;

	lib->SSL_CTX_ctrl(ctx, SSL_CTRL_GET_TLSEXT_STATUS_REQ_CB, 0, (void *)&present);
	if (present == staple_callback)
		return;
	atomic_store(&installed->host, present);
	set_callback(lib, ctx, staple_callback);
}

void staple_install(struct libssl *lib, SSL_CTX *ctx)
{
	struct installed *installed;

	host_lock();
	if (lib->ctx_index < 0)
		lib->ctx_index = lib->crypto.CRYPTO_get_ex_new_index(
			CRYPTO_EX_INDEX_SSL_CTX, 0, lib, NULL, NULL, free_installed);
	if (lib->ssl_index < 0)
		lib->ssl_index = lib->crypto.CRYPTO_get_ex_new_index(
			CRYPTO_EX_INDEX_SSL, 0, NULL, NULL, NULL, NULL);
	if (lib->ctx_index < 0 || lib->ssl_index < 0)
		goto out;
	installed = installed_in(lib, ctx);
	if (!installed) {
		installed = libcrypto_zalloc(&lib->crypto, sizeof(*installed));
		if (!installed || !lib->SSL_CTX_set_ex_data(ctx, lib->ctx_index, installed)) {
			lib->crypto.CRYPTO_free(installed, __FILE__, __LINE__);
			goto out;
		}
	}
	take_place(lib, ctx, installed);
out:
	host_unlock();
}

void staple_host_response(const struct libssl *lib, SSL *ssl)
{
	if (ssl && lib->known && lib->ssl_index >= 0 &&
		lib->SSL_get_ex_data(ssl, lib->ssl_index) == &mark)
		lib->SSL_set_ex_data(ssl, lib->ssl_index, NULL);
}

bool staple_set_host_callback(struct libssl *lib, SSL_CTX *ctx, void (*callback)(void))
{
	struct installed *installed = ctx && lib->known ? installed_in(lib, ctx) : NULL;

	if (installed)
		atomic_store(&installed->host, (status_callback *)callback);
	return installed;
}

void staple_hide(struct libssl *lib, SSL_CTX *ctx, void *callback)
{
	struct installed *installed = ctx && lib->known ? installed_in(lib, ctx) : NULL;
	status_callback *host;

	if (!installed || !callback)
		return;
	host = atomic_load(&installed->host);
	memcpy(callback, (void *)&host, sizeof(host));
}
