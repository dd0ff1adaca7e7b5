/* SPDX-License-Identifier: MIT */
/*
 * A process with many certificates, so that something is being fetched at any moment, which forks,
 * or exits, all the time.
 *
 * usage: storm forks COUNT KEY.pem CHAIN.pem…    COUNT children, eight at a time, each shake hands;
 *                                                every tenth in a child of its own
 *        storm exits COUNT KEY.pem CHAIN.pem…    COUNT children load the certificates, and exit
 *                                                within 30 ms, each in one of three ways
 *        storm users COUNT KEY.pem CHAIN.pem…    root becomes somebody else, and root again, COUNT
 *                                                times
 *        storm descriptors COUNT KEY.pem CHAIN.pem…
 *                                                closes all descriptors above 2 and opens sockets
 *                                                of its own in their place, COUNT times
 *        storm handlers COUNT KEY.pem CHAIN.pem… COUNT forks, in each of which a fork handler of
 * the host's own forks as well; all children shake hands
 *
 * Prints what it counted, and for each exit the microseconds that it took from the call to the end.
 */
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	CERTIFICATES = 64,
	AT_ONCE = 8,
	PATIENCE = 60,
	LONGEST_LIFE = 30000,
	LONGEST_REST = 6000,
	LOWEST_OWN = 40
};

enum result { DONE, UNSTAPLED = 3 };

static const char *key_file;
static char **chain_files;
static int certificates;
static SSL_CTX *contexts[CERTIFICATES];
static _Atomic long *called; /* when exit was: nanoseconds */

static void fail(const char *what)
{
	fprintf(stderr, "storm: %s\n", what);
	ERR_print_errors_fp(stderr);
	_exit(1);
}

static long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000 + time.tv_nsec;
}

static void load(void)
{
	for (int i = 0; i < certificates; i++) {
		contexts[i] = SSL_CTX_new(TLS_server_method());
		if (!contexts[i] ||
			SSL_CTX_use_certificate_chain_file(contexts[i], chain_files[i]) != 1 ||
			SSL_CTX_use_PrivateKey_file(contexts[i], key_file, SSL_FILETYPE_PEM) != 1)
			fail("cannot load a certificate");
	}
}

/* In memory, with itself. */
static enum result shake_hands(SSL_CTX *server_ctx)
{
	SSL_CTX *client_ctx = SSL_CTX_new(TLS_client_method());
	BIO *server_bio = NULL, *client_bio = NULL;
	const unsigned char *response;
	SSL *server, *client;
	int done = 0;

	if (!client_ctx || BIO_new_bio_pair(&server_bio, 0, &client_bio, 0) != 1)
		fail("out of memory");
	server = SSL_new(server_ctx);
	client = SSL_new(client_ctx);
	SSL_set_bio(server, server_bio, server_bio);
	SSL_set_bio(client, client_bio, client_bio);
	SSL_set_accept_state(server);
	SSL_set_connect_state(client);
	SSL_set_tlsext_status_type(client, TLSEXT_STATUSTYPE_ocsp);
	for (int turns = 0; done != 3; turns++) {
		done = (SSL_do_handshake(client) == 1) | (SSL_do_handshake(server) == 1) << 1;
		if (turns > 20)
			fail("the handshake failed");
	}
	return SSL_get_tlsext_status_ocsp_resp(client, &response) > 0 ? DONE : UNSTAPLED;
}

static enum result result_of(pid_t child)
{
	int status;

	if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status))
		return 1;
	return (enum result)WEXITSTATUS(status);
}

static void run_child(int number)
{
	pid_t grandchild = number % 10 == 0 ? fork() : 0;

	/* Long after any honest handshake: who hangs is killed, and counted. */
	alarm(PATIENCE);
	exit(grandchild ? result_of(grandchild) : shake_hands(contexts[number % certificates]));
}

static int run_forks(int count)
{
	int running = 0, stapled = 0, unstapled = 0, wrong = 0;

	load();
	for (int started = 0; started < count || running > 0;) {
		int status;

		if (started < count && running < AT_ONCE) {
			pid_t child;

			usleep((useconds_t)(random() % LONGEST_REST));
			child = fork();
			if (child < 0)
				fail("fork");
			if (child == 0)
				run_child(started);
			started++;
			running++;
			continue;
		}
		if (wait(&status) < 0)
			fail("wait");
		running--;
		if (WIFEXITED(status) && WEXITSTATUS(status) == DONE)
			stapled++;
		else if (WIFEXITED(status) && WEXITSTATUS(status) == UNSTAPLED)
			unstapled++;
		else
			wrong++;
	}
	printf("%d children, %d stapled, %d unstapled, %d hung or died\n", count, stapled,
		unstapled, wrong);
	return wrong != 0;
}

static void *exit_in_thread(void *unused)
{
	atomic_store(called, now());
	exit(0);
	return unused;
}

static void run_exit(int number)
{
	pthread_t thread;

	alarm(PATIENCE);
	load();
	usleep((useconds_t)(random() % LONGEST_LIFE));
	if (number % 3 == 0 && pthread_create(&thread, NULL, exit_in_thread, NULL) == 0)
		pthread_join(thread, NULL);
	atomic_store(called, now());
	if (number % 3 == 1)
		_exit(0);
	exit(0);
}

static int run_exits(int count)
{
	int wrong = 0;

	called = mmap(
		NULL, sizeof(*called), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (called == MAP_FAILED)
		fail("out of memory");
	for (int i = 0; i < count; i++) {
		pid_t child = fork();
		int status = 0;

		srandom((unsigned)i);
		if (child == 0)
			run_exit(i);
		if (child < 0 || waitpid(child, &status, 0) != child)
			fail("fork");
		printf("%ld\n", (now() - atomic_load(called)) / 1000);
		wrong += status != 0;
	}
	printf("%d exits, %d of them wrong\n", count, wrong);
	return wrong != 0;
}

static int run_users(int count)
{
	enum { NOBODY = 65534 };

	load();
	for (int i = 0; i < count; i++)
		if (setegid(NOBODY) != 0 || seteuid(NOBODY) != 0 || seteuid(0) != 0 ||
			setegid(0) != 0)
			fail("no longer root");
	printf("%d times\n", count);
	return 0;
}

/* What the peer of all its copies can tell: nobody else wrote to them, or closed them all. */
static void check_untouched(int peer)
{
	char byte;

	if (recv(peer, &byte, 1, MSG_DONTWAIT) >= 0 || errno != EAGAIN)
		fail("a socket of the host's own was written to, or closed");
	for (int fd = 3; fd < LOWEST_OWN; fd++)
		if (fcntl(fd, F_GETFD) < 0)
			fail("a socket of the host's own was closed");
}

/* EBUSY: a thread has been given the number this very moment, see dup2(2). */
static void put_at(int from, int to)
{
	while (dup2(from, to) < 0)
		if (errno != EBUSY)
			fail("dup2");
}

static int run_descriptors(int count)
{
	int pair[2];

	load();
	for (int i = 0; i < count; i++) {
		for (int fd = 3; fd < LOWEST_OWN + 2; fd++)
			close(fd);
		if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0)
			fail("socketpair");
		put_at(pair[0], LOWEST_OWN);
		put_at(pair[1], LOWEST_OWN + 1);
		for (int fd = 3; fd < LOWEST_OWN; fd++)
			put_at(LOWEST_OWN, fd);
		usleep((useconds_t)(random() % LONGEST_REST));
		check_untouched(LOWEST_OWN + 1);
	}
	printf("%d times\n", count);
	return 0;
}

static int forks_inside;
static int wrong_inside;

/* The host's, for each of the three moments; it forks once for each fork of the host's. */
static void fork_inside(void)
{
	static int depth;
	pid_t child;

	if (depth > 0)
		return;
	depth++;
	child = fork();
	if (child == 0) {
		alarm(PATIENCE);
		child = fork();
		_exit(child ? result_of(child) : shake_hands(contexts[0]));
	}
	forks_inside++;
	wrong_inside += result_of(child) != DONE;
	depth--;
}

static int run_handlers(int count)
{
	int wrong = 0;

	/* Its handler for before the fork runs after the shim's, the one for the parent before. */
	pthread_atfork(fork_inside, fork_inside, NULL);
	load();
	for (int i = 0; i < count; i++) {
		pid_t child;

		alarm(PATIENCE);
		child = fork();
		if (child == 0)
			exit(shake_hands(contexts[i % certificates]));
		wrong += result_of(child) != DONE;
	}
	printf("%d and %d children, %d wrong\n", count, forks_inside, wrong + wrong_inside);
	return 0;
}

int main(int argc, char **argv)
{
	/* A child that exits must not say again what its parent has said. */
	setvbuf(stdout, NULL, _IOLBF, 0);
	certificates = argc - 4;
	if (certificates < 1 || certificates > CERTIFICATES) {
		fprintf(stderr,
			"usage: storm COMMAND COUNT KEY.pem CHAIN.pem..., see the "
			"source\n");
		return 2;
	}
	key_file = argv[3];
	chain_files = argv + 4;
	if (strcmp(argv[1], "forks") == 0)
		return run_forks((int)strtol(argv[2], NULL, 10));
	if (strcmp(argv[1], "users") == 0)
		return run_users((int)strtol(argv[2], NULL, 10));
	if (strcmp(argv[1], "descriptors") == 0)
		return run_descriptors((int)strtol(argv[2], NULL, 10));
	if (strcmp(argv[1], "handlers") == 0)
		return run_handlers((int)strtol(argv[2], NULL, 10));
	return run_exits((int)strtol(argv[2], NULL, 10));
}
