/* SPDX-License-Identifier: MIT */
/*
 * Which certificates has this process loaded? Every hook ends here; what it hands over is looked at
 * again each time, so that a call that libssl makes inside another counts once.
 */
#ifndef OCSPRELOAD_REGISTRY_H
#define OCSPRELOAD_REGISTRY_H

#include "../fetcher/cache.h"
#include "libssl.h"

/* A certificate's place in a chain. */
enum role {
	ROLE_LEAF, /* the server's own */
	ROLE_LINK, /* sent after it */
};

/*
 * To be called on the host's thread after the real function has run with this result (> 0:
 * success): registers the certificate that the context or connection now holds, if it may be a
 * server's, and takes its chain into the pool of issuers. Returns result; errno and the error queue
 * are as the real function left them.
 */
int registry_see_ctx(struct libssl *lib, SSL_CTX *ctx, int result);
int registry_see_ssl(struct libssl *lib, SSL *ssl, int result);

/*
 * What the context of a new connection holds, in a host that goes past the hooks. False if it can
 * only be a client's. Any thread.
 */
bool registry_see_new(struct libssl *lib, SSL_CTX *ctx);

/*
 * The slot of a certificate that a handshake presents, registering it if no hook has seen it in
 * this role, pinned (cache.h). NULL if it is not to be stapled. Inside a visit (host.h).
 */
struct slot *registry_slot(struct libssl *lib, X509 *x, enum role role);

/*
 * Takes into the pool what may be the issuer of x, the slot's certificate, if it is not known yet:
 * from the chain that is sent after it (or NULL), which no hook of this process may have seen, and
 * from the context's own stores: what the host has given them with SSL_CTX_load_verify_locations
 * and the like, as far as it is in memory. Changes nothing in them. Inside a visit.
 */
void registry_seek_issuer(struct libssl *lib, SSL_CTX *ctx, const STACK_OF(X509) * chain,
	const struct slot *slot, X509 *x);

/* True if this process has a certificate of the slot's loaded that a hook has seen. Any thread. */
bool registry_is_loaded(const struct slot *slot);

#endif
