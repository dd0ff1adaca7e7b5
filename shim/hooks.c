/* SPDX-License-Identifier: MIT */
/*
 * The interposed functions: all that a host ever meets of this library.
 *
 * Each finds the libssl that the host means, calls the real function, and shows the registry what
 * the context or connection holds now. Looking twice does no harm, so nothing has to be known of
 * which of these functions libssl calls inside which.
 *
 * To add one: define it here, name it in LIBSSL_HOOKS (libssl.h) and in exports.map.
 *
 * Two more things that hosts do must not meet the thread inside libcrypto: the end of libcrypto,
 * below, and children made past fork (clone.c).
 */
#include "host.h"
#include "libssl.h"
#include "registry.h"
#include "sidedoor.h"
#include "staple.h"

#include <dlfcn.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define HOOK __attribute__((visibility("default")))
#define CALLER __builtin_return_address(0)

HOOK int SSL_CTX_use_certificate(SSL_CTX *ctx, X509 *x)
{
	struct libssl *lib = libssl_of_ctx(ctx, CALLER);

	return lib ? registry_see_ctx(lib, ctx, lib->SSL_CTX_use_certificate(ctx, x)) : 0;
}

HOOK int SSL_CTX_use_certificate_ASN1(SSL_CTX *ctx, int size, const unsigned char *der)
{
	struct libssl *lib = libssl_of_ctx(ctx, CALLER);

	return lib ? registry_see_ctx(lib, ctx, lib->SSL_CTX_use_certificate_ASN1(ctx, size, der))
		   : 0;
}

HOOK int SSL_CTX_use_certificate_file(SSL_CTX *ctx, const char *file, int type)
{
	struct libssl *lib = libssl_of_ctx(ctx, CALLER);

	return lib ? registry_see_ctx(lib, ctx, lib->SSL_CTX_use_certificate_file(ctx, file, type))
		   : 0;
}

HOOK int SSL_CTX_use_certificate_chain_file(SSL_CTX *ctx, const char *file)
{
	struct libssl *lib = libssl_of_ctx(ctx, CALLER);

	return lib ? registry_see_ctx(lib, ctx, lib->SSL_CTX_use_certificate_chain_file(ctx, file))
		   : 0;
}

HOOK int SSL_CTX_use_cert_and_key(
	SSL_CTX *ctx, X509 *x, EVP_PKEY *key, STACK_OF(X509) * chain, int override)
{
	struct libssl *lib = libssl_of_ctx(ctx, CALLER);

	return lib ? registry_see_ctx(
			     lib, ctx, lib->SSL_CTX_use_cert_and_key(ctx, x, key, chain, override))
		   : 0;
}

HOOK int SSL_use_certificate(SSL *ssl, X509 *x)
{
	struct libssl *lib = libssl_of_ssl(ssl, CALLER);

	return lib ? registry_see_ssl(lib, ssl, lib->SSL_use_certificate(ssl, x)) : 0;
}

HOOK int SSL_use_certificate_ASN1(SSL *ssl, const unsigned char *der, int size)
{
	struct libssl *lib = libssl_of_ssl(ssl, CALLER);

	return lib ? registry_see_ssl(lib, ssl, lib->SSL_use_certificate_ASN1(ssl, der, size)) : 0;
}

HOOK int SSL_use_certificate_file(SSL *ssl, const char *file, int type)
{
	struct libssl *lib = libssl_of_ssl(ssl, CALLER);

	return lib ? registry_see_ssl(lib, ssl, lib->SSL_use_certificate_file(ssl, file, type)) : 0;
}

HOOK int SSL_use_certificate_chain_file(SSL *ssl, const char *file)
{
	struct libssl *lib = libssl_of_ssl(ssl, CALLER);

	return lib ? registry_see_ssl(lib, ssl, lib->SSL_use_certificate_chain_file(ssl, file)) : 0;
}

HOOK int SSL_use_cert_and_key(
	SSL *ssl, X509 *x, EVP_PKEY *key, STACK_OF(X509) * chain, int override)
{
	struct libssl *lib = libssl_of_ssl(ssl, CALLER);

	return lib ? registry_see_ssl(
			     lib, ssl, lib->SSL_use_cert_and_key(ssl, x, key, chain, override))
		   : 0;
}

/*
 * SSL_CONF_cmd can load a certificate, but its argument does not tell where to. A host names the
 * context first, on the same thread.
 */
static _Thread_local __attribute__((tls_model("initial-exec"))) struct {
	SSL_CONF_CTX *conf;
	struct libssl *lib;
	SSL_CTX *ctx;
	SSL *ssl;
} configured;

HOOK void SSL_CONF_CTX_set_ssl_ctx(SSL_CONF_CTX *conf, SSL_CTX *ctx)
{
	struct libssl *lib = libssl_of_ctx(ctx, CALLER);

	configured.conf = conf;
	configured.lib = lib;
	configured.ctx = ctx;
	configured.ssl = NULL;
	if (lib)
		lib->SSL_CONF_CTX_set_ssl_ctx(conf, ctx);
}

HOOK void SSL_CONF_CTX_set_ssl(SSL_CONF_CTX *conf, SSL *ssl)
{
	struct libssl *lib = libssl_of_ssl(ssl, CALLER);

	configured.conf = conf;
	configured.lib = lib;
	configured.ctx = NULL;
	configured.ssl = ssl;
	if (lib)
		lib->SSL_CONF_CTX_set_ssl(conf, ssl);
}

static struct libssl *libssl_of_conf(const SSL_CONF_CTX *conf, const void *caller)
{
	return conf && conf == configured.conf ? configured.lib : libssl_of_caller(caller);
}

static int see_conf(struct libssl *lib, const SSL_CONF_CTX *conf, int result)
{
	if (!lib || !conf || conf != configured.conf)
		return result;
	if (configured.ssl)
		return registry_see_ssl(lib, configured.ssl, result);
	return registry_see_ctx(lib, configured.ctx, result);
}

/* The next one may have the same address, and belong to no context. */
HOOK void SSL_CONF_CTX_free(SSL_CONF_CTX *conf)
{
	struct libssl *lib = libssl_of_conf(conf, CALLER);

	if (conf && conf == configured.conf)
		configured.conf = NULL;
	if (lib)
		lib->SSL_CONF_CTX_free(conf);
}

HOOK int SSL_CONF_cmd(SSL_CONF_CTX *conf, const char *command, const char *value)
{
	struct libssl *lib = libssl_of_conf(conf, CALLER);

	return lib ? see_conf(lib, conf, lib->SSL_CONF_cmd(conf, command, value)) : 0;
}

HOOK int SSL_CONF_cmd_argv(SSL_CONF_CTX *conf, int *count, char ***arguments)
{
	struct libssl *lib = libssl_of_conf(conf, CALLER);

	return lib ? see_conf(lib, conf, lib->SSL_CONF_cmd_argv(conf, count, arguments)) : 0;
}

/* What a section of the configuration file says may be a certificate too. */
HOOK int SSL_CTX_config(SSL_CTX *ctx, const char *name)
{
	struct libssl *lib = libssl_of_ctx(ctx, CALLER);

	return lib ? registry_see_ctx(lib, ctx, lib->SSL_CTX_config(ctx, name)) : 0;
}

HOOK int SSL_config(SSL *ssl, const char *name)
{
	struct libssl *lib = libssl_of_ssl(ssl, CALLER);

	return lib ? registry_see_ssl(lib, ssl, lib->SSL_config(ssl, name)) : 0;
}

static bool changes_chain(int command)
{
	return command == SSL_CTRL_EXTRA_CHAIN_CERT || command == SSL_CTRL_CHAIN ||
	       command == SSL_CTRL_CHAIN_CERT || command == SSL_CTRL_BUILD_CERT_CHAIN;
}

static bool sets_response(int command)
{
	return command == SSL_CTRL_SET_TLSEXT_STATUS_REQ_OCSP_RESP ||
	       command == LIBSSL_SET_CHAIN_RESPONSES;
}

HOOK long SSL_CTX_ctrl(SSL_CTX *ctx, int command, long number, void *pointer)
{
	struct libssl *lib = libssl_of_ctx(ctx, CALLER);
	long result = lib ? lib->SSL_CTX_ctrl(ctx, command, number, pointer) : 0;

	if (changes_chain(command))
		registry_see_ctx(lib, ctx, result > 0);
	else if (command == SSL_CTRL_GET_TLSEXT_STATUS_REQ_CB && lib)
		staple_hide(lib, ctx, pointer);
	return result;
}

HOOK long SSL_ctrl(SSL *ssl, int command, long number, void *pointer)
{
	struct libssl *lib = libssl_of_ssl(ssl, CALLER);
	long result = lib ? lib->SSL_ctrl(ssl, command, number, pointer) : 0;

	if (changes_chain(command))
		registry_see_ssl(lib, ssl, result > 0);
	else if (sets_response(command) && lib)
		staple_host_response(lib, ssl);
	return result;
}

HOOK long SSL_CTX_callback_ctrl(SSL_CTX *ctx, int command, void (*callback)(void))
{
	struct libssl *lib = libssl_of_ctx(ctx, CALLER);

	if (lib && command == SSL_CTRL_SET_TLSEXT_STATUS_REQ_CB &&
		staple_set_host_callback(lib, ctx, callback))
		return 1;
	return lib ? lib->SSL_CTX_callback_ctrl(ctx, command, callback) : 0;
}

/*
 * Whatever way a server has to its OpenSSL, before it serves it listens. Not a function of OpenSSL:
 * the real one is what comes after us.
 */
HOOK int listen(int fd, int backlog)
{
	sidedoor_open();
	return sidedoor_listen(fd, backlog);
}

/*
 * In there, neither /etc/ocspreload.conf nor what names are looked up with is within reach.
 */
HOOK int chroot(const char *path)
{
	__typeof__(&chroot) real;
	void *symbol = dlsym(RTLD_NEXT, "chroot");

	memcpy(&real, &symbol, sizeof(real));
	if (!real) {
		errno = ENOSYS;
		return -1;
	}
	host_leaves_root();
	return real(path);
}

/*
 * Hosts may call it at any moment. libcrypto's own call at exit comes by here, too, on builds
 * without -Bsymbolic.
 */
HOOK void OPENSSL_cleanup(void)
{
	void (*real)(void) = libssl_find_cleanup(CALLER);

	if (!real)
		return;
	host_crypto_ends((const void *)real);
	real();
}
