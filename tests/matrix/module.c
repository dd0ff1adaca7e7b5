/* SPDX-License-Identifier: MIT */
/*
 * A module with a libssl of its own, for a process that has another one: it serves one connection.
 * Built in the oldest root, loaded in the others.
 */
#include <openssl/ssl.h>

int serve(int socket, const char *chain, const char *key);

int serve(int socket, const char *chain, const char *key)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
	SSL *ssl = NULL;
	int done = 0;

	if (ctx && SSL_CTX_use_certificate_chain_file(ctx, chain) == 1 &&
		SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) == 1) {
		ssl = SSL_new(ctx);
		done = ssl && SSL_set_fd(ssl, socket) == 1 && SSL_accept(ssl) == 1;
		if (done)
			SSL_shutdown(ssl);
	}
	SSL_free(ssl);
	SSL_CTX_free(ctx);
	return done;
}
