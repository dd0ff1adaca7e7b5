/* SPDX-License-Identifier: MIT */
/*
 * A load of handshakes, each of which asks for a staple, for as long as standard input is open.
 *
 * usage: load PORT THREADS PAUSE    each thread rests PAUSE microseconds between two handshakes
 *
 * For every line on standard input, and at its end, prints what became of them so far:
 *
 *   stapled   the handshake was done, and there was a staple
 *   unstapled it was done, and there was none
 *   refused   TCP was refused, or the connection was closed before the server had said a word: what
 *             a server does to connections in the queue of a socket that it closes
 *   failed    TLS had begun, and was not brought to its end
 *   hung      neither came within a minute
 *   silent    of those that were done: no answer came, as from a server that closes what is idle
 *   longest   milliseconds that the longest handshake took
 */
#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum outcome { STAPLED, UNSTAPLED, REFUSED, FAILED, HUNG, OUTCOMES };

enum { PATIENCE = 60 };

static const char *const names[OUTCOMES] = {"stapled", "unstapled", "refused", "failed", "hung"};

static atomic_ulong counts[OUTCOMES];
static atomic_ulong silent;
static atomic_long longest;
static atomic_bool stop;
static struct sockaddr_in server;
static useconds_t rest;
static SSL_CTX *ctx;

static long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static int open_connection(void)
{
	static const struct timeval patience = {PATIENCE, 0};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (connect(fd, (const struct sockaddr *)&server, sizeof(server)) == 0)
		return fd;
	close(fd);
	return -1;
}

static enum outcome judge_failure(SSL *ssl, int result)
{
	int saved = errno;

	if (SSL_get_error(ssl, result) == SSL_ERROR_WANT_READ ||
		(saved == EAGAIN && ERR_peek_error() == 0))
		return HUNG;
	return BIO_number_read(SSL_get_rbio(ssl)) == 0 ? REFUSED : FAILED;
}

/* A server of TLS 1.3 is done with the client's last message, which an answer waits for. */
static bool hears_answer(SSL *ssl)
{
	static const char request[] = "GET / HTTP/1.0\r\n\r\n";
	char answer[512];

	return SSL_write(ssl, request, sizeof(request) - 1) > 0 &&
	       SSL_read(ssl, answer, sizeof(answer)) > 0;
}

static enum outcome shake_hands(int fd)
{
	const unsigned char *response;
	enum outcome outcome;
	SSL *ssl = SSL_new(ctx);
	int result;

	SSL_set_fd(ssl, fd);
	SSL_set_tlsext_status_type(ssl, TLSEXT_STATUSTYPE_ocsp);
	do {
		ERR_clear_error();
		errno = 0;
		result = SSL_connect(ssl);
		/* So it ends, on a socket with a timeout, when this process was stopped. */
	} while (result != 1 && errno == EINTR);
	if (result != 1)
		outcome = judge_failure(ssl, result);
	else if (SSL_get_tlsext_status_ocsp_resp(ssl, &response) > 0)
		outcome = STAPLED;
	else
		outcome = UNSTAPLED;
	if (result == 1 && !hears_answer(ssl))
		atomic_fetch_add(&silent, 1);
	SSL_free(ssl);
	return outcome;
}

static void *run_load(void *unused)
{
	while (!atomic_load(&stop)) {
		long began = now(), took, most = atomic_load(&longest);
		enum outcome outcome = REFUSED;
		int fd = open_connection();

		if (fd >= 0) {
			outcome = shake_hands(fd);
			close(fd);
		}
		took = now() - began;
		while (took > most && !atomic_compare_exchange_weak(&longest, &most, took))
			;
		atomic_fetch_add(&counts[outcome], 1);
		usleep(rest);
	}
	return unused;
}

static void print_counts(void)
{
	for (int i = 0; i < OUTCOMES; i++)
		printf("%s %lu ", names[i], atomic_load(&counts[i]));
	printf("silent %lu longest %ld\n", atomic_load(&silent), atomic_load(&longest));
	fflush(stdout);
}

int main(int argc, char **argv)
{
	pthread_t threads[64];
	int count;
	char line[16];

	if (argc != 4) {
		fprintf(stderr, "usage: load PORT THREADS PAUSE, see the source\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	server.sin_family = AF_INET;
	server.sin_port = htons((uint16_t)strtol(argv[1], NULL, 10));
	server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	count = (int)strtol(argv[2], NULL, 10);
	rest = (useconds_t)strtol(argv[3], NULL, 10);
	ctx = SSL_CTX_new(TLS_client_method());
	for (int i = 0; i < count; i++)
		if (count > 64 || pthread_create(&threads[i], NULL, run_load, NULL) != 0)
			return 1;
	while (fgets(line, sizeof(line), stdin))
		print_counts();
	atomic_store(&stop, true);
	for (int i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	print_counts();
	return 0;
}
