/* SPDX-License-Identifier: MIT */
/*
 * A server that looks OpenSSL's functions up by itself, as .NET and foreign function interfaces do:
 * no hook is called in it.
 *
 * usage: lookup_host PORT CHAIN.pem KEY.pem WORD...
 *
 *   deep      loads libssl with RTLD_DEEPBIND
 *   unused    listens before it has used OpenSSL at all, and gives it an allocator of its own then
 *   callback  has a status callback of its own, which has nothing to staple
 *   response  has one that staples the word "mine"
 *   late      sets it only after it has listened
 *   threads   serves each connection in a thread
 *
 * Serves connections one after the other until it is ended.
 */
#include <arpa/inet.h>
#include <dlfcn.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define FUNCTIONS(F)                          \
	F(SSL_CTX_new)                        \
	F(TLS_server_method)                  \
	F(SSL_CTX_use_certificate_chain_file) \
	F(SSL_CTX_use_PrivateKey_file)        \
	F(SSL_CTX_callback_ctrl)              \
	F(SSL_ctrl)                           \
	F(SSL_new)                            \
	F(SSL_set_fd)                         \
	F(SSL_accept)                         \
	F(SSL_read)                           \
	F(SSL_write)                          \
	F(SSL_shutdown)                       \
	F(SSL_free)                           \
	F(CRYPTO_malloc)                      \
	F(CRYPTO_set_mem_functions)           \
	F(ERR_peek_error)

static struct {
#define F(name) __typeof__(&name) name;
	FUNCTIONS(F)
#undef F
} tls;

static char **words;
static SSL_CTX *ctx;

static void fail(const char *what)
{
	fprintf(stderr, "lookup_host: %s\n", what);
	exit(1);
}

static bool is_said(const char *word)
{
	for (char **at = words; *at; at++)
		if (strcmp(*at, word) == 0)
			return true;
	return false;
}

static void look_up(void)
{
	void *handle = dlopen("libssl.so.3", RTLD_NOW | (is_said("deep") ? RTLD_DEEPBIND : 0));
	void *symbol;

	if (!handle)
		fail(dlerror());
#define F(name)                        \
	symbol = dlsym(handle, #name); \
	if (!symbol)                   \
		fail(#name);           \
	memcpy(&tls.name, &symbol, sizeof(symbol));
	FUNCTIONS(F)
#undef F
}

static void *own_malloc(size_t size, const char *file, int line)
{
	(void)file;
	(void)line;
	return malloc(size);
}

static void *own_realloc(void *old, size_t size, const char *file, int line)
{
	(void)file;
	(void)line;
	return realloc(old, size);
}

static void own_free(void *old, const char *file, int line)
{
	(void)file;
	(void)line;
	free(old);
}

static int own_callback(SSL *ssl, void *argument)
{
	static const unsigned char mine[4] = {'m', 'i', 'n', 'e'};
	unsigned char *copy;

	(void)argument;
	if (!is_said("response"))
		return SSL_TLSEXT_ERR_NOACK;
	copy = tls.CRYPTO_malloc(sizeof(mine), __FILE__, __LINE__);
	if (!copy)
		fail("memory ran out");
	memcpy(copy, mine, sizeof(mine));
	tls.SSL_ctrl(ssl, SSL_CTRL_SET_TLSEXT_STATUS_REQ_OCSP_RESP, sizeof(mine), copy);
	return SSL_TLSEXT_ERR_OK;
}

static void set_callback(void)
{
	if (is_said("callback") || is_said("response"))
		tls.SSL_CTX_callback_ctrl(
			ctx, SSL_CTRL_SET_TLSEXT_STATUS_REQ_CB, (void (*)(void))own_callback);
}

static void make_context(const char *chain, const char *key)
{
	ctx = tls.SSL_CTX_new(tls.TLS_server_method());
	if (!ctx || tls.SSL_CTX_use_certificate_chain_file(ctx, chain) != 1 ||
		tls.SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1)
		fail("cannot load the certificate");
	if (!is_said("late"))
		set_callback();
}

static int listen_on(const char *port)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);

	address.sin_port = htons((unsigned short)strtoul(port, NULL, 10));
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0 || listen(fd, 64) != 0)
		fail("cannot listen");
	return fd;
}

static void *serve(void *argument)
{
	int fd = (int)(intptr_t)argument; /* NOLINT(bugprone-casting-through-void) */
	SSL *ssl = tls.SSL_new(ctx);
	char request[1024];

	tls.SSL_set_fd(ssl, fd);
	if (tls.SSL_accept(ssl) == 1 && tls.SSL_read(ssl, request, sizeof(request)) > 0) {
		if (tls.ERR_peek_error() != 0)
			fail("an error is left on the queue");
		tls.SSL_write(ssl, "hello", 5);
		tls.SSL_shutdown(ssl);
	}
	tls.SSL_free(ssl);
	close(fd);
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t thread;
	int fd;

	if (argc < 4)
		fail("usage: lookup_host PORT CHAIN.pem KEY.pem WORD...");
	words = argv + 4;
	look_up();
	if (is_said("unused")) {
		/* Two sockets: on the first it has nothing to serve with yet. */
		close(listen_on("0"));
		if (tls.CRYPTO_set_mem_functions(own_malloc, own_realloc, own_free) != 1)
			fail("OpenSSL was used by somebody else");
	}
	make_context(argv[2], argv[3]);
	fd = listen_on(argv[1]);
	if (is_said("late"))
		set_callback();
	for (;;) {
		int client = accept(fd, NULL, NULL);

		if (client < 0)
			fail("cannot accept");
		if (!is_said("threads"))
			serve((void *)(intptr_t)client); /* NOLINT(performance-no-int-to-ptr) */
		else if (pthread_create(&thread, NULL, serve, (void *)(intptr_t)client) == 0)
			pthread_detach(thread);
	}
}
