/* SPDX-License-Identifier: MIT */
/*
 * The status callback: where a handshake gets its response from. It stands in the context's only
 * place for one, in front of the host's own.
 */
#ifndef OCSPRELOAD_STAPLE_H
#define OCSPRELOAD_STAPLE_H

#include "libssl.h"

/* Puts the callback into ctx. A callback of the host's that is there goes behind it. Any thread. */
void staple_install(struct libssl *lib, SSL_CTX *ctx);

/*
 * The host sets its own status callback: true if it was put behind ours, and the real function must
 * not be called.
 */
bool staple_set_host_callback(struct libssl *lib, SSL_CTX *ctx, void (*callback)(void));

/* The host sets a response itself: what hangs on the connection is no longer ours. */
void staple_host_response(const struct libssl *lib, SSL *ssl);

/* The host asks for its status callback and was given *callback: what it set itself is put there.
 */
void staple_hide(struct libssl *lib, SSL_CTX *ctx, void *callback);

#endif
