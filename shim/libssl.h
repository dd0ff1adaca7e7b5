/* SPDX-License-Identifier: MIT */
/*
 * The libssl that a host uses, bound at run time.
 *
 * A process may hold several (two versions, or one in a module that was loaded RTLD_LOCAL), and
 * some that only look like OpenSSL. Each gets a table of its own; an object of one library is never
 * handed to another.
 */
#ifndef OCSPRELOAD_LIBSSL_H
#define OCSPRELOAD_LIBSSL_H

#include "../fetcher/libcrypto.h"

#include <openssl/ssl.h>
#include <stdatomic.h>
#include <stdbool.h>

/* The interposed functions: what hooks.c defines and exports.map exports. */
#define LIBSSL_HOOKS(F)                       \
	F(SSL_CONF_CTX_free)                  \
	F(SSL_CONF_CTX_set_ssl)               \
	F(SSL_CONF_CTX_set_ssl_ctx)           \
	F(SSL_CONF_cmd)                       \
	F(SSL_CONF_cmd_argv)                  \
	F(SSL_CTX_callback_ctrl)              \
	F(SSL_CTX_config)                     \
	F(SSL_CTX_ctrl)                       \
	F(SSL_CTX_use_cert_and_key)           \
	F(SSL_CTX_use_certificate)            \
	F(SSL_CTX_use_certificate_ASN1)       \
	F(SSL_CTX_use_certificate_chain_file) \
	F(SSL_CTX_use_certificate_file)       \
	F(SSL_config)                         \
	F(SSL_ctrl)                           \
	F(SSL_use_cert_and_key)               \
	F(SSL_use_certificate)                \
	F(SSL_use_certificate_ASN1)           \
	F(SSL_use_certificate_chain_file)     \
	F(SSL_use_certificate_file)

/* What the shim calls besides; like the hooks, in OpenSSL 1.1.1 to 4.0. */
#define LIBSSL_FUNCTIONS(F)              \
	F(DTLS_client_method)            \
	F(SSL_CTX_free)                  \
	F(SSL_CTX_get0_certificate)      \
	F(SSL_CTX_get_cert_store)        \
	F(SSL_CTX_get_ex_data)           \
	F(SSL_CTX_get_security_callback) \
	F(SSL_CTX_get_ssl_method)        \
	F(SSL_CTX_set_ex_data)           \
	F(SSL_CTX_set_security_callback) \
	F(SSL_CTX_up_ref)                \
	F(SSL_get_SSL_CTX)               \
	F(SSL_get_certificate)           \
	F(SSL_get_ex_data)               \
	F(SSL_get_ssl_method)            \
	F(SSL_is_server)                 \
	F(SSL_set_ex_data)               \
	F(SSL_set_options)               \
	F(SSL_version)                   \
	F(TLS_client_method)

enum {
	LIBSSL_CLIENT_METHODS = 9,
	/* A command of SSL_ctrl, SSL_CTRL_SET_TLSEXT_STATUS_REQ_OCSP_RESP_EX in the headers of
	 * 3.6. */
	LIBSSL_SET_CHAIN_RESPONSES = 143,
};

struct libssl {
	struct libssl *next;
	/* Where the library lies in memory; its SSL_METHODs, which every object points to, are in
	 * it. */
	const char *start;
	const char *end;
	/* It is an OpenSSL that the shim knows. If not, only the hooks below may be called. */
	bool known;
	unsigned long version; /* as OpenSSL_version_num has it */
	atomic_bool reached;   /* by a hook that the host itself called, not the library */
	atomic_bool passed_by; /* libssl_find_passed_by has found it */
	/* It can send a response for every certificate of the chain, with TLS 1.3. */
	bool multistaples;

#define F(name) __typeof__(&name) name;
	LIBSSL_HOOKS(F)
	LIBSSL_FUNCTIONS(F)
#undef F
	struct libcrypto crypto;

	/* The methods whose contexts can only be clients'; NULL where this version has no such. */
	const SSL_METHOD *client_methods[LIBSSL_CLIENT_METHODS];
	/* ex_data indices of registry.c and staple.c; -1 until the first server certificate. */
	_Atomic int x509_index;
	_Atomic int ctx_index;
	/* And of sidedoor.c, -1 where it is closed. */
	_Atomic int door_index;
	_Atomic int ssl_index;
};

/*
 * The library that made ctx or ssl. Where that cannot be told (NULL, a maker that is unknown), the
 * one that a call from the address caller would have reached without the shim. NULL if there is
 * none: then nothing can be called at all. Any thread; no lock, no allocation once a library is
 * known.
 */
struct libssl *libssl_of_ctx(const SSL_CTX *ctx, const void *caller);
struct libssl *libssl_of_ssl(const SSL *ssl, const void *caller);
struct libssl *libssl_of_caller(const void *caller);

/*
 * Finds every libssl of the process that the host has used, but so far not by way of a hook: it
 * looked its functions up by itself, or the program has OpenSSL inside and exports it. Returns how
 * many were found just now. One whose host has not used it yet is left alone, because an OpenSSL
 * that has allocated anything takes no other allocator any more, and the host may have one to give.
 * Any thread.
 */
enum { LIBSSL_FOUND_MOST = 9 };
size_t libssl_find_passed_by(struct libssl *found[static LIBSSL_FOUND_MOST]);

/* The OPENSSL_cleanup that a call from the address caller would have reached. NULL: none is found.
 */
void (*libssl_find_cleanup(const void *caller))(void);

/* True if ctx was made for clients only. */
bool libssl_is_client_only(const struct libssl *lib, const SSL_CTX *ctx);

#endif
