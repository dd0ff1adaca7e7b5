/* SPDX-License-Identifier: MIT */
/*
 * A server whose processes are all alike: each serves, and each replaces by a fork whichever dies,
 * so that anyone may be killed, also the one that all others descend from.
 *
 * usage: herd CHAIN.pem KEY.pem PORT COUNT STATE    until standard input is closed
 *
 * STATE is a file of COUNT pairs of 32-bit numbers: the pid of a process, and what it does. Who is
 * to be killed without costing a client its connection is asked to RETIRE first, and then waits for
 * its end, IDLE.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum activity { SERVING, RETIRE, IDLE, STOP };

enum { CLAIMED = -1, TICK = 10 };

struct place {
	_Atomic int32_t pid;
	_Atomic int32_t activity;
};

static struct place *places;
static int count;
static int own;
static int listener;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void open_listener(const char *port)
{
	struct sockaddr_in address = {.sin_family = AF_INET,
		.sin_port = htons((uint16_t)strtol(port, NULL, 10)),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int yes = 1;

	/* Not blocking: of those whom a connection wakes, one gets it. */
	listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	if (bind(listener, (const struct sockaddr *)&address, sizeof(address)) != 0 ||
		listen(listener, 128) != 0)
		fail("listen");
}

static SSL_CTX *load(const char *chain, const char *key)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());

	if (!ctx || SSL_CTX_use_certificate_chain_file(ctx, chain) != 1 ||
		SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1)
		fail("certificate");
	return ctx;
}

static void serve(SSL_CTX *ctx)
{
	static const char answer[] = "HTTP/1.0 200 OK\r\n\r\nhello";
	int fd = accept(listener, NULL, NULL);
	char request[512];
	SSL *ssl;

	if (fd < 0)
		return;
	ssl = SSL_new(ctx);
	if (ssl && SSL_set_fd(ssl, fd) && SSL_accept(ssl) == 1 &&
		SSL_read(ssl, request, sizeof(request)) > 0) {
		SSL_write(ssl, answer, sizeof(answer) - 1);
		SSL_shutdown(ssl);
	}
	SSL_free(ssl);
	close(fd);
}

/* The child goes on as its caller did, in the place of the dead. */
static void replace_dead(int place)
{
	int32_t dead = atomic_load(&places[place].pid);
	pid_t child;

	if (dead == CLAIMED || (dead != 0 && (kill(dead, 0) == 0 || errno != ESRCH)) ||
		!atomic_compare_exchange_strong(&places[place].pid, &dead, CLAIMED))
		return;
	child = fork();
	if (child < 0) {
		atomic_store(&places[place].pid, dead);
	} else if (child == 0) {
		own = place;
		atomic_store(&places[own].activity, SERVING);
		atomic_store(&places[own].pid, getpid());
	}
}

static void run_one(SSL_CTX *ctx)
{
	for (;;) {
		struct pollfd ready = {listener, POLLIN, 0};

		switch (atomic_load(&places[own].activity)) {
		case STOP:
			exit(0);
		case RETIRE:
			atomic_store(&places[own].activity, IDLE);
			break;
		case IDLE:
			poll(NULL, 0, TICK);
			break;
		default:
			if (poll(&ready, 1, TICK) > 0)
				serve(ctx);
			for (int place = 0; place < count; place++)
				replace_dead(place);
		}
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
}

/* What the dead leave behind is ours: nobody stays a zombie that looks alive. */
static void keep(void)
{
	struct pollfd input = {STDIN_FILENO, POLLIN, 0};

	while (poll(&input, 1, TICK) == 0)
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	/* Again and again: one may just be born, and say that it serves. */
	while (waitpid(-1, NULL, WNOHANG) >= 0) {
		for (int place = 0; place < count; place++)
			atomic_store(&places[place].activity, STOP);
		poll(NULL, 0, TICK);
	}
}

int main(int argc, char **argv)
{
	int file = argc == 6 ? open(argv[5], O_RDWR | O_CLOEXEC) : -1;
	pid_t first;

	if (file < 0) {
		fprintf(stderr, "usage: herd CHAIN.pem KEY.pem PORT COUNT STATE, see the source\n");
		return 2;
	}
	count = (int)strtol(argv[4], NULL, 10);
	places = mmap(
		NULL, (size_t)count * sizeof(*places), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (places == MAP_FAILED)
		fail("state");
	close(file);
	signal(SIGPIPE, SIG_IGN);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	open_listener(argv[3]);
	first = fork();
	if (first == 0) {
		atomic_store(&places[0].pid, getpid());
		run_one(load(argv[1], argv[2]));
	}
	keep();
	return 0;
}
