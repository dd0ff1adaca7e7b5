/* SPDX-License-Identifier: MIT */
#include "sidedoor.h"

#include "../fetcher/log.h"
#include "host.h"
#include "libssl.h"
#include "registry.h"
#include "staple.h"

#include <dlfcn.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef int security_callback(
	const SSL *ssl, const SSL_CTX *ctx, int op, int bits, int nid, void *other, void *ex);

/* It hangs on the SSL_CTX itself, as ex_data, so that there is nothing to free. */
static security_callback *callback_before(const struct libssl *lib, const SSL_CTX *ctx)
{
	void *value = lib->SSL_CTX_get_ex_data(ctx, lib->door_index);
	security_callback *before;

	memcpy(&before, &value, sizeof(before));
	return before;
}

static bool keep_callback_before(const struct libssl *lib, SSL_CTX *ctx, security_callback *before)
{
	void *value;

	memcpy(&value, &before, sizeof(value));
	return lib->SSL_CTX_set_ex_data(ctx, lib->door_index, value) == 1;
}

static void take_status_callback(struct libssl *lib, const SSL *ssl)
{
	struct visit visit = host_enter(&lib->crypto);

	staple_install(lib, lib->SSL_get_SSL_CTX(ssl));
	host_leave(visit);
}

/*
 * The security callback, in the place of the one before it, whose judgement it returns. libssl asks
 * it for every cipher that both sides have: after the ClientHello and what the host made of it, but
 * before the status callback. That is the moment to look who the status callback is, since Node
 * sets its own anew for each connection. A message callback would come as early, but the host's
 * could not be asked for, and kept.
 */
static int watch_security(
	const SSL *ssl, const SSL_CTX *ctx, int op, int bits, int nid, void *other, void *ex)
{
	struct libssl *lib = ssl ? libssl_of_ssl(ssl, NULL) : libssl_of_ctx(ctx, NULL);
	security_callback *before = callback_before(lib, ssl ? lib->SSL_get_SSL_CTX(ssl) : ctx);

	if (ssl && op == SSL_SECOP_CIPHER_SHARED && lib->SSL_is_server(ssl))
		take_status_callback(lib, ssl);
	return before ? before(ssl, ctx, op, bits, nid, other, ex) : 1;
}

/* For connections to come: each takes a copy when it is made. */
static void take_security_callback(struct libssl *lib, SSL_CTX *ctx)
{
	security_callback *before;

	host_lock();
	before = lib->SSL_CTX_get_security_callback(ctx);
	if (before != watch_security && keep_callback_before(lib, ctx, before))
		lib->SSL_CTX_set_security_callback(ctx, watch_security);
	host_unlock();
}

/*
 * Connections that were made, and whose context was not looked at yet: since 3.2 they do not have
 * it when they are announced. Under host_lock.
 */
static struct {
	struct libssl *lib;
	SSL *ssl; /* NULL: free */
} fresh[64];
static size_t next_fresh; /* overwritten if it is taken: its context will have others */

/* CRYPTO_EX_new, of an SSL: by whichever thread makes it. */
static void note_new_ssl(
	void *parent, void *value, CRYPTO_EX_DATA *data, int index, long argl, void *argp)
{
	(void)value;
	(void)data;
	(void)index;
	(void)argl;
	host_lock();
	fresh[next_fresh].lib = argp;
	fresh[next_fresh].ssl = parent;
	next_fresh = (next_fresh + 1) % (sizeof(fresh) / sizeof(fresh[0]));
	host_unlock();
}

/* CRYPTO_EX_free */
static void forget_ssl(
	void *parent, void *value, CRYPTO_EX_DATA *data, int index, long argl, void *argp)
{
	(void)value;
	(void)data;
	(void)index;
	(void)argl;
	(void)argp;
	host_lock();
	for (size_t i = 0; i < sizeof(fresh) / sizeof(fresh[0]); i++)
		if (fresh[i].ssl == parent)
			fresh[i].ssl = NULL;
	host_unlock();
}

/* The context of one of the fresh connections, to be freed by the caller; NULL if there is none. */
static SSL_CTX *take_fresh(const struct libssl *lib)
{
	SSL_CTX *ctx = NULL;

	host_lock();
	for (size_t i = 0; i < sizeof(fresh) / sizeof(fresh[0]) && !ctx; i++) {
		if (!fresh[i].ssl || fresh[i].lib != lib)
			continue;
		ctx = lib->SSL_get_SSL_CTX(fresh[i].ssl);
		if (ctx && lib->SSL_CTX_up_ref(ctx))
			fresh[i].ssl = NULL;
		else
			ctx = NULL; /* another thread is just making it */
	}
	host_unlock();
	return ctx;
}

/*
 * CRYPTO_EX_new, of an SSL_SESSION: a server makes one when it has read the ClientHello. The
 * connection itself is not told, but it must be one of those that are new, or its context was seen
 * with an earlier one.
 */
static void see_fresh(
	void *parent, void *value, CRYPTO_EX_DATA *data, int index, long argl, void *argp)
{
	struct libssl *lib = argp;
	SSL_CTX *ctx;

	(void)parent;
	(void)value;
	(void)data;
	(void)index;
	(void)argl;
	while ((ctx = take_fresh(lib)) != NULL) {
		if (registry_see_new(lib, ctx))
			take_security_callback(lib, ctx);
		lib->SSL_CTX_free(ctx);
	}
}

static void open_door(struct libssl *lib)
{
	struct visit visit = host_enter(&lib->crypto);

	lib->door_index = lib->crypto.CRYPTO_get_ex_new_index(
		CRYPTO_EX_INDEX_SSL_CTX, 0, NULL, NULL, NULL, NULL);
	if (lib->door_index >= 0 && lib->crypto.CRYPTO_get_ex_new_index(CRYPTO_EX_INDEX_SSL, 0, lib,
					    note_new_ssl, NULL, forget_ssl) >= 0)
		lib->crypto.CRYPTO_get_ex_new_index(
			CRYPTO_EX_INDEX_SSL_SESSION, 0, lib, see_fresh, NULL, NULL);
	log_debug(
		"this program goes past the hooks to an OpenSSL of its own: looking at its "
		"connections instead");
	host_leave(visit);
}

void sidedoor_open(void)
{
	struct libssl *found[LIBSSL_FOUND_MOST];
	size_t count = libssl_find_passed_by(found);

	for (size_t i = 0; i < count && host_is_wanted(); i++)
		open_door(found[i]);
}

int sidedoor_listen(int fd, int backlog)
{
	static _Atomic(void *) found;
	void *symbol = atomic_load(&found);
	int (*real)(int, int);

	if (!symbol) {
		symbol = dlsym(RTLD_NEXT, "listen");
		atomic_store(&found, symbol);
	}
	if (!symbol)
		return (int)syscall(SYS_listen, fd, backlog);
	memcpy(&real, &symbol, sizeof(real));
	return real(fd, backlog);
}
