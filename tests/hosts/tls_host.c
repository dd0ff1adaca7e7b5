/* SPDX-License-Identifier: MIT */
/*
 * A server process reduced to what can go wrong in it: it shakes hands with itself in memory.
 *
 * usage: tls_host CHAIN.pem KEY.pem COMMAND [ARGUMENT…], which is one of
 *
 *  - exit MICROSECONDS: loads, sleeps, returns from main; how long did the exit take?
 *  - handshake COUNT: shakes hands, one after the other
 *  - fork COUNT: shakes hands in COUNT children, one by one
 *  - children HOW COUNT: the same, made by syscall, clone3, clone or _Fork
 *  - cleanup MICROSECONDS: loads, sleeps, calls OPENSSL_cleanup
 *  - balance: the same; how much of what OpenSSL allocated is left after that?
 *  - bequeath MS: the leader calls OPENSSL_cleanup and lives on; a child shakes hands after MS
 *  - thread COUNT MS: shakes hands in COUNT threads for MS
 *  - sockets MS: MS after the first socket is there, what does a child inherit?
 *  - question HOW: what does a child inherit that is made by syscall or _Fork while another thread
 *    loads, and something is asked?
 *  - capset MS: drops all capabilities by capset, sets no-new-privs; after MS and some work of the
 *    shim's thread, what does each thread hold?
 *  - setuid WHAT MS: gives up root by system calls of its own, all (dropping) or all but one
 *    capability (keeping); after MS and some work of the shim's thread, who is each thread?
 *  - jail WHO DIR MS: shakes hands, enters DIR by chroot; after MS, shakes hands until one is
 *    stapled; as WHO (parent; child, of a process without OpenSSL; raw, by a system call)
 *  - privileges WHAT MS: changes by system calls of its own what it may do (see privilege_changes);
 *    after MS and some work of the shim's thread, what may each thread?
 *  - alone WHAT WHO COUNT MS: does COUNT times what the kernel allows to one thread alone (unshare,
 *    syscall, memory, setns; fetching: memory, but in the middle of a fetch) or what it refuses two
 *    (company), as WHO (single, leader, standby), with a handshake before, one after each, and one
 *    more after MS
 *  - life WHAT MS: does what daemons do (see lives); is it stapled after MS?
 *  - refused WHAT MS: loads where the kernel refuses system calls (see refusals), rests for MS,
 *    shakes hands; how much of a processor did that take?
 *  - reload DIR COUNT: loads DIR/0.pem, DIR/1.pem, … in the place of each other, and shakes hands
 *    with each
 *  - swap FILE MS: loads FILE, takes the own chain in its place
 *  - complete FILE MS: loads FILE, and after MS its own chain into the same context; how long was
 *    it without?
 *  - bereave FILE MS: a child that has loaded FILE is killed
 *  - traces: what a host can see of the shim
 *  - callback: its own status callback and the getters
 *
 * Prints what it counted; the exit status is 0 unless something was wrong.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *chain_file;
static const char *key_file;

static void fail(const char *what)
{
	fprintf(stderr, "tls_host: %s\n", what);
	ERR_print_errors_fp(stderr);
	_exit(1);
}

static unsigned parse_number(const char *text)
{
	char *end;
	unsigned long number = strtoul(text, &end, 10);

	if (*end != '\0' || number > 100000000)
		fail("not a number");
	return (unsigned)number;
}

static SSL_CTX *make_server(void)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());

	if (!ctx || SSL_CTX_use_certificate_chain_file(ctx, chain_file) != 1 ||
		SSL_CTX_use_PrivateKey_file(ctx, key_file, SSL_FILETYPE_PEM) != 1)
		fail("cannot load the certificate");
	return ctx;
}

static SSL *make_end(SSL_CTX *ctx, BIO *bio, int is_server)
{
	SSL *ssl = SSL_new(ctx);

	if (!ssl)
		fail("SSL_new");
	SSL_set_bio(ssl, bio, bio);
	if (is_server)
		SSL_set_accept_state(ssl);
	else
		SSL_set_connect_state(ssl);
	return ssl;
}

/* One step; 1 when done, 0 when the other side has to go on. */
static int advance(SSL *ssl)
{
	int result = SSL_do_handshake(ssl);

	if (result == 1)
		return 1;
	if (SSL_get_error(ssl, result) != SSL_ERROR_WANT_READ)
		fail("the handshake failed");
	return 0;
}

/* The size of the staple that the client got, 0 if none. */
static long shake_hands(SSL_CTX *server_ctx)
{
	SSL_CTX *client_ctx = SSL_CTX_new(TLS_client_method());
	BIO *server_bio = NULL, *client_bio = NULL;
	const unsigned char *response;
	SSL *server, *client;
	long size;

	if (!client_ctx || BIO_new_bio_pair(&server_bio, 0, &client_bio, 0) != 1)
		fail("out of memory");
	server = make_end(server_ctx, server_bio, 1);
	client = make_end(client_ctx, client_bio, 0);
	SSL_set_tlsext_status_type(client, TLSEXT_STATUSTYPE_ocsp);
	for (int done = 0; done != 3;)
		done = advance(client) | advance(server) << 1;
	size = SSL_get_tlsext_status_ocsp_resp(client, &response);
	SSL_free(client);
	SSL_free(server);
	SSL_CTX_free(client_ctx);
	return size > 0 ? size : 0;
}

static struct timespec ending;

/* Registered first, so that it runs after all that others do at exit. */
static void print_exit_time(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	printf("the end took %ld us\n", (long)(now.tv_sec - ending.tv_sec) * 1000000 +
						(now.tv_nsec - ending.tv_nsec) / 1000);
}

static int run_exit(char **arguments)
{
	SSL_CTX *ctx;

	atexit(print_exit_time);
	ctx = make_server();
	usleep(parse_number(arguments[0]));
	SSL_CTX_free(ctx);
	clock_gettime(CLOCK_MONOTONIC, &ending);
	return 0;
}

static int run_cleanup(char **arguments)
{
	SSL_CTX *ctx = make_server();

	usleep(parse_number(arguments[0]));
	SSL_CTX_free(ctx);
	clock_gettime(CLOCK_MONOTONIC, &ending);
	OPENSSL_cleanup();
	print_exit_time();
	/* What the thread would do after the end, it does now. */
	usleep(20000);
	return 0;
}

static atomic_long allocated;

static void *count_malloc(size_t size, const char *file, int line)
{
	(void)file;
	(void)line;
	atomic_fetch_add(&allocated, 1);
	return malloc(size);
}

static void *count_realloc(void *memory, size_t size, const char *file, int line)
{
	(void)file;
	(void)line;
	atomic_fetch_add(&allocated, !memory);
	return realloc(memory, size);
}

static void count_free(void *memory, const char *file, int line)
{
	(void)file;
	(void)line;
	atomic_fetch_sub(&allocated, !!memory);
	free(memory);
}

static int run_balance(char **arguments)
{
	long before;

	(void)arguments;
	if (CRYPTO_set_mem_functions(count_malloc, count_realloc, count_free) != 1)
		fail("too late to count");
	SSL_CTX_free(make_server());
	before = allocated;
	OPENSSL_cleanup();
	printf("%ld allocated, %ld left\n", before, allocated);
	return 0;
}

static int run_handshake(char **arguments)
{
	SSL_CTX *ctx = make_server();
	unsigned count = parse_number(arguments[0]), stapled = 0;

	for (unsigned i = 0; i < count; i++)
		stapled += shake_hands(ctx) > 0;
	SSL_CTX_free(ctx);
	printf("%u stapled\n", stapled);
	return 0;
}

static int live_as_child(void *ctx)
{
	/* Long after any honest handshake: a child that hangs is killed. */
	alarm(100);
	exit(shake_hands(ctx) > 0 ? 0 : 3);
}

static pid_t make_by_fork(SSL_CTX *ctx)
{
	pid_t child = fork();

	return child == 0 ? live_as_child(ctx) : child;
}

static pid_t make_by_syscall(SSL_CTX *ctx)
{
	pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);

	return child == 0 ? live_as_child(ctx) : child;
}

static pid_t make_by_clone3(SSL_CTX *ctx)
{
	/* flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls */
	uint64_t arguments[8] = {[4] = SIGCHLD};
	pid_t child = (pid_t)syscall(SYS_clone3, arguments, sizeof(arguments));

	return child == 0 ? live_as_child(ctx) : child;
}

static pid_t make_by_clone(SSL_CTX *ctx)
{
	static _Alignas(16) char stack[1 << 20];

	return clone(live_as_child, stack + sizeof(stack), SIGCHLD, ctx);
}

static pid_t make_by__Fork(SSL_CTX *ctx)
{
	pid_t child = _Fork();

	return child == 0 ? live_as_child(ctx) : child;
}

static int run_makers(pid_t (*make)(SSL_CTX *ctx), unsigned count)
{
	SSL_CTX *ctx = make_server();
	unsigned stapled = 0, wrong = 0;

	for (unsigned i = 0; i < count; i++) {
		int status;
		pid_t child = make(ctx);

		if (child < 0)
			fail("no child");
		if (waitpid(child, &status, 0) != child)
			fail("waitpid");
		if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
			stapled++;
		else if (!WIFEXITED(status) || WEXITSTATUS(status) != 3)
			wrong++;
	}
	SSL_CTX_free(ctx);
	printf("%u children, %u stapled, %u hung or died\n", count, stapled, wrong);
	return wrong != 0;
}

static int run_fork(char **arguments)
{
	return run_makers(make_by_fork, parse_number(arguments[0]));
}

static int run_children(char **arguments)
{
	static const struct {
		const char *name;
		pid_t (*make)(SSL_CTX *ctx);
	} makers[] = {
		{"syscall", make_by_syscall},
		{"clone3", make_by_clone3},
		{"clone", make_by_clone},
		{"_Fork", make_by__Fork},
	};

	for (size_t i = 0; i < sizeof(makers) / sizeof(*makers); i++)
		if (strcmp(arguments[0], makers[i].name) == 0)
			return run_makers(makers[i].make, parse_number(arguments[1]));
	fail("no such way to make a child");
	return 1;
}

static unsigned count_sockets(void)
{
	unsigned count = 0;
	struct stat is;

	for (int fd = 0; fd < 1024; fd++)
		count += fstat(fd, &is) == 0 && S_ISSOCK(is.st_mode);
	return count;
}

/* That of the shim's, which a slow machine has late: for many seconds. */
static bool await_socket(void)
{
	enum { TRIES = 100000, INTERVAL_US = 100 };

	for (int i = 0; i < TRIES; i++) {
		if (count_sockets() > 0)
			return true;
		usleep(INTERVAL_US);
	}
	return false;
}

static int run_sockets(char **arguments)
{
	SSL_CTX *ctx = make_server();
	pid_t child;

	await_socket();
	usleep(parse_number(arguments[0]) * 1000);
	printf("%u sockets before, ", count_sockets());
	fflush(stdout);
	child = fork();
	if (child == 0) {
		printf("%u in the child\n", count_sockets());
		exit(0);
	}
	waitpid(child, NULL, 0);
	SSL_CTX_free(ctx);
	return 0;
}

static void *load_and_wait(void *ended)
{
	make_server();
	sem_wait(ended);
	return NULL;
}

/*
 * The socket is that of a question to the agent, which takes a while. The thread that asks is there
 * for as long as the child is: ThreadSanitizer, which knows nothing of such children, would tell
 * one that its parent's thread was never joined.
 */
static int run_question(char **arguments)
{
	bool is_raw = strcmp(arguments[0], "syscall") == 0;
	pthread_t loader;
	pid_t child;
	sem_t ended;

	if (sem_init(&ended, 0, 0) != 0)
		fail("sem_init");
	if (pthread_create(&loader, NULL, load_and_wait, &ended) != 0)
		fail("pthread_create");
	await_socket();
	printf("%u sockets before, ", count_sockets());
	fflush(stdout);
	child = is_raw ? (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL) : _Fork();
	if (child == 0) {
		printf("%u in the child\n", count_sockets());
		fflush(stdout);
		_exit(0);
	}
	waitpid(child, NULL, 0);
	sem_post(&ended);
	pthread_join(loader, NULL);
	sem_destroy(&ended);
	return 0;
}

static void print_lines(const char *thread, const char *const *names)
{
	char path[300], line[256];
	FILE *status;

	snprintf(path, sizeof(path), "/proc/self/task/%s/status", thread);
	status = fopen(path, "r");
	while (status && fgets(line, sizeof(line), status))
		for (const char *const *name = names; *name; name++)
			if (strncmp(line, *name, strlen(*name)) == 0)
				fputs(line, stdout);
	if (status)
		fclose(status);
}

/* What /proc says of each thread, in these lines. */
static void print_threads(const char *const *names)
{
	DIR *threads = opendir("/proc/self/task");
	struct dirent *entry;

	while (threads && (entry = readdir(threads)))
		if (entry->d_name[0] != '.')
			print_lines(entry->d_name, names);
	if (threads)
		closedir(threads);
}

/* How often the shim's thread has gone to sleep, by the lines of a thread's status; else 0. */
static long count_rests(const char *thread)
{
	static const char name[] = "Name:\tocspreload\n", rests[] = "voluntary_ctxt_switches:";
	char path[300], line[256];
	bool is_it = false;
	FILE *status;
	long count = 0;

	snprintf(path, sizeof(path), "/proc/self/task/%s/status", thread);
	status = fopen(path, "r");
	while (status && fgets(line, sizeof(line), status)) {
		is_it = is_it || strcmp(line, name) == 0;
		if (is_it && strncmp(line, rests, strlen(rests)) == 0)
			count = strtol(line + strlen(rests), NULL, 10);
	}
	if (status)
		fclose(status);
	return count;
}

static long count_all_rests(void)
{
	DIR *threads = opendir("/proc/self/task");
	struct dirent *entry;
	long count = 0;

	while (threads && (entry = readdir(threads)))
		if (entry->d_name[0] != '.')
			count += count_rests(entry->d_name);
	if (threads)
		closedir(threads);
	return count;
}

/* A machine may be so busy that nothing happens meanwhile: until the thread has woken up, too. */
static void pause_for_thread(unsigned pause_ms)
{
	long before = count_all_rests();

	usleep(pause_ms * 1000);
	for (int i = 0; i < 600 && count_all_rests() < before + 2; i++)
		usleep(100000);
}

static int run_capset(char **arguments)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {0};
	static const char *const names[] = {"CapEff:", "CapPrm:", "NoNewPrivs:", NULL};
	SSL_CTX *ctx = make_server();

	usleep(parse_number(arguments[0]) * 1000);
	if (syscall(SYS_capset, &header, none) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
		fail("capset");
	pause_for_thread(parse_number(arguments[0]));
	print_threads(names);
	SSL_CTX_free(ctx);
	return 0;
}

static void give_up_root(bool keeps_port)
{
	enum { NOBODY = 65534, MORE = 4242 };
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct port[_LINUX_CAPABILITY_U32S_3] = {
		{1U << CAP_NET_BIND_SERVICE, 1U << CAP_NET_BIND_SERVICE, 0}};
	gid_t groups[] = {NOBODY, MORE};

	if (prctl(PR_SET_KEEPCAPS, keeps_port, 0, 0, 0) != 0 ||
		syscall(SYS_setgroups, 2, groups) != 0 ||
		syscall(SYS_setresgid, NOBODY, NOBODY, NOBODY) != 0 ||
		syscall(SYS_setresuid, NOBODY, NOBODY, NOBODY) != 0 ||
		(keeps_port && syscall(SYS_capset, &header, port) != 0) ||
		prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) != 0)
		fail("cannot give up root");
}

static int run_setuid(char **arguments)
{
	static const char *const names[] = {"Uid:", "Gid:", "Groups:", "CapEff:", "CapPrm:", NULL};
	unsigned pause_ms = parse_number(arguments[1]);
	SSL_CTX *ctx = make_server();

	usleep(pause_ms * 1000);
	give_up_root(strcmp(arguments[0], "keeping") == 0);
	pause_for_thread(pause_ms);
	print_threads(names);
	/* By libc, in all threads: it ends the process if one of them cannot. */
	if (setresgid(getgid(), getgid(), getgid()) != 0 ||
		setresuid(getuid(), getuid(), getuid()) != 0)
		fail("cannot stay who it is");
	printf("dumpable %d, %d stapled\n", prctl(PR_GET_DUMPABLE), shake_hands(ctx) > 0);
	SSL_CTX_free(ctx);
	return 0;
}

/* "parent", or a "child" that goes on alone, as a daemon does; or "raw", past libc. */
static int run_jail(char **arguments)
{
	enum { INTERVAL_MS = 100, TRIES = 200 };
	unsigned pause_ms = parse_number(arguments[2]), tries = 0;
	SSL_CTX *ctx = make_server();
	pid_t child = strcmp(arguments[0], "child") == 0 ? fork() : 0;
	bool is_raw = strcmp(arguments[0], "raw") == 0;
	int status;

	if (child != 0) {
		/* But its parent is waited for. */
		OPENSSL_cleanup();
		if (waitpid(child, &status, 0) != child)
			fail("waitpid");
		return status != 0;
	}
	printf("%d before, ", shake_hands(ctx) > 0);
	if ((is_raw ? syscall(SYS_chroot, arguments[1]) : chroot(arguments[1])) != 0 ||
		chdir("/") != 0)
		fail("chroot");
	usleep(pause_ms * 1000);
	while (shake_hands(ctx) <= 0 && tries++ < TRIES)
		usleep(INTERVAL_MS * 1000);
	printf("%d after\n", tries <= TRIES);
	fflush(stdout);
	_exit(0);
}

enum { ANOTHER = 4711 };

/* Of all of its capabilities, what is in these masks is left. */
static bool keep_capabilities(uint64_t effective, uint64_t permitted, uint64_t inheritable)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

	if (syscall(SYS_capget, &header, data) != 0)
		return false;
	for (int i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
		data[i].effective = data[i].permitted & (uint32_t)(effective >> 32 * i);
		data[i].permitted &= (uint32_t)(permitted >> 32 * i);
		data[i].inheritable &= (uint32_t)(inheritable >> 32 * i);
	}
	return syscall(SYS_capset, &header, data) == 0;
}

static bool keep_some(void)
{
	const uint64_t some = 1 << CAP_NET_BIND_SERVICE | 1 << CAP_CHOWN;

	return keep_capabilities(some, some, 0);
}

static bool keep_to_inherit_none(void)
{
	return keep_capabilities(UINT64_MAX, UINT64_MAX, 0);
}

static bool keep_none_in_effect(void)
{
	return keep_capabilities(0, UINT64_MAX, UINT64_MAX);
}

static bool clear_ambient(void)
{
	return prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) == 0;
}

static bool become_another_user(void)
{
	return syscall(SYS_setresuid, ANOTHER, ANOTHER, ANOTHER) == 0;
}

static bool become_another_user_for_good(void)
{
	return become_another_user() && keep_capabilities(0, 0, 0);
}

static bool become_another_group_for_good(void)
{
	return syscall(SYS_setresgid, ANOTHER, ANOTHER, ANOTHER) == 0 && keep_capabilities(0, 0, 0);
}

/* Then the kernel leaves a user who was root what root may. */
static bool become_another_user_with_securebits(void)
{
	const unsigned long bits = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP |
				   SECBIT_NO_SETUID_FIXUP_LOCKED;

	return prctl(PR_SET_SECUREBITS, bits, 0, 0, 0) == 0 && become_another_user() && keep_some();
}

static const struct {
	const char *name;
	bool (*change)(void);
} privilege_changes[] = {
	{"some", keep_some},
	{"inherit", keep_to_inherit_none},
	{"effect", keep_none_in_effect},
	{"ambient", clear_ambient},
	{"user", become_another_user},
	{"user for good", become_another_user_for_good},
	{"group for good", become_another_group_for_good},
	{"securebits", become_another_user_with_securebits},
};

static int run_privileges(char **arguments)
{
	static const char *const names[] = {
		"Uid:", "Gid:", "Groups:", "CapInh:", "CapPrm:", "CapAmb:", NULL};
	unsigned pause_ms = parse_number(arguments[1]);
	SSL_CTX *ctx = make_server();
	bool changed = false;

	usleep(pause_ms * 1000);
	for (size_t i = 0; i < sizeof(privilege_changes) / sizeof(*privilege_changes); i++)
		if (strcmp(privilege_changes[i].name, arguments[0]) == 0)
			changed = privilege_changes[i].change();
	if (!changed)
		fail("cannot change what it may do");
	pause_for_thread(pause_ms);
	print_threads(names);
	fflush(stdout);
	/* By libc, in all threads: it ends the process if one of them cannot. */
	if (setresgid(getgid(), getgid(), getgid()) != 0 ||
		setresuid(getuid(), getuid(), getuid()) != 0)
		fail("cannot stay who it is");
	printf("%d stapled\n", shake_hands(ctx) > 0);
	SSL_CTX_free(ctx);
	return 0;
}

/* A process that holds its place among those that share the cache, and ends with its parent. */
static pid_t make_other(void)
{
	pid_t child = fork();

	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	return child;
}

static void end_other(pid_t child)
{
	if (child > 0) {
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
	}
}

static int own_mounts;

static int unshare_users(void)
{
	return unshare(CLONE_NEWUSER);
}

static int unshare_by_syscall(void)
{
	return (int)syscall(SYS_unshare, CLONE_NEWUSER);
}

/* Of a process with one thread, this changes nothing; so it can be done often. */
static int unshare_memory(void)
{
	return unshare(CLONE_VM | CLONE_THREAD | CLONE_SIGHAND);
}

static int unshare_in_fetch(void)
{
	if (!await_socket())
		fail("nothing is asked");
	return unshare_memory();
}

static void *rest(void *unused)
{
	for (;;)
		pause();
	return unused;
}

static int unshare_in_company(void)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, rest, NULL) != 0)
		fail("pthread_create");
	return unshare_users();
}

static int join_mounts(void)
{
	return setns(own_mounts, CLONE_NEWNS);
}

static int be_alone(SSL_CTX *ctx, int (*what)(void), unsigned count, unsigned pause_ms)
{
	int before = shake_hands(ctx) > 0;
	unsigned stapled = 0;

	for (unsigned i = 0; i < count; i++) {
		if (what() != 0) {
			printf("refused: %s\n", strerror(errno));
			return 1;
		}
		stapled += shake_hands(ctx) > 0;
	}
	usleep(pause_ms * 1000);
	printf("%d before, %u of %u after, %d later\n", before, stapled, count,
		shake_hands(ctx) > 0);
	return 0;
}

static int run_alone(char **arguments)
{
	static const struct {
		const char *name;
		int (*what)(void);
	} whats[] = {
		{"unshare", unshare_users},
		{"syscall", unshare_by_syscall},
		{"memory", unshare_memory},
		{"setns", join_mounts},
		{"fetching", unshare_in_fetch},
		{"company", unshare_in_company},
	};
	unsigned count = parse_number(arguments[2]), pause_ms = parse_number(arguments[3]);
	SSL_CTX *ctx = make_server();
	pid_t other = 0;
	int result = 2;

	own_mounts = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
	if (strcmp(arguments[1], "leader") == 0)
		other = make_other();
	if (strcmp(arguments[1], "standby") == 0) {
		other = fork();
		if (other > 0)
			return waitpid(other, &result, 0) != other || result != 0;
		other = 0;
	}
	for (size_t i = 0; i < sizeof(whats) / sizeof(*whats); i++)
		if (strcmp(arguments[0], whats[i].name) == 0)
			result = be_alone(ctx, whats[i].what, count, pause_ms);
	end_other(other);
	SSL_CTX_free(ctx);
	return result;
}

enum { REFUSED_MOST = 4 };

/* With EPERM, as sandboxes do. The end is -1. */
static void refuse_calls(const long *numbers)
{
	struct sock_filter filter[2 * REFUSED_MOST + 2] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))};
	struct sock_fprog program = {1, filter};

	for (; *numbers != -1; numbers++) {
		filter[program.len++] = (struct sock_filter)BPF_JUMP(
			BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)*numbers, 0, 1);
		filter[program.len++] =
			(struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
	}
	filter[program.len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
		prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
		fail("no filter");
}

static const struct {
	const char *name;
	long numbers[REFUSED_MOST];
} refusals[] = {
	{"threads", {SYS_clone, SYS_clone3, -1}},
	{"sockets", {SYS_socket, -1}},
	{"connections", {SYS_connect, -1}},
	{"poll",
		{
#ifdef SYS_poll
			SYS_poll,
#endif
			SYS_ppoll, -1}},
	{"sleep", {SYS_nanosleep, SYS_clock_nanosleep, -1}},
	{"random", {SYS_getrandom, -1}},
	{"files", {SYS_openat, -1}},
	{"file locks", {SYS_fcntl, -1}},
	{"stat", {SYS_fstat, SYS_newfstatat, -1}},
	{"privileges", {SYS_prctl, SYS_capget, SYS_capset, -1}},
	{"limits", {SYS_prlimit64, -1}},
	{"signals", {SYS_rt_sigprocmask, SYS_rt_sigtimedwait, SYS_rt_sigpending, -1}},
};

static STACK_OF(X509) * read_chain(void)
{
	STACK_OF(X509) *chain = sk_X509_new_null();
	BIO *bio = BIO_new_file(chain_file, "r");
	X509 *x;

	while (chain && bio && (x = PEM_read_bio_X509(bio, NULL, NULL, NULL)))
		sk_X509_push(chain, x);
	if (sk_X509_num(chain) < 1)
		fail("no certificate");
	ERR_clear_error();
	BIO_free(bio);
	return chain;
}

static EVP_PKEY *read_key(void)
{
	BIO *bio = BIO_new_file(key_file, "r");
	EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL) : NULL;

	if (!key)
		fail("no key");
	BIO_free(bio);
	return key;
}

static void rest_milliseconds(unsigned milliseconds)
{
	uint32_t word = 0;
	struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};

	syscall(SYS_futex, &word, 0 /* FUTEX_WAIT */, 0, &time, NULL, 0);
}

static int run_refused(char **arguments)
{
	unsigned pause_ms = parse_number(arguments[1]);
	struct rusage before, after;
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
	STACK_OF(X509) *chain = read_chain();
	EVP_PKEY *key = read_key();
	bool stapled;

	/* The thread inherits what its host has; and what the host reads itself it has read. */
	for (size_t i = 0; i < sizeof(refusals) / sizeof(*refusals); i++)
		if (strcmp(refusals[i].name, arguments[0]) == 0)
			refuse_calls(refusals[i].numbers);
	if (SSL_CTX_use_cert_and_key(ctx, sk_X509_value(chain, 0), key, chain, 1) != 1)
		fail("cannot load the certificate");
	getrusage(RUSAGE_SELF, &before);
	rest_milliseconds(pause_ms);
	getrusage(RUSAGE_SELF, &after);
	stapled = shake_hands(ctx) > 0;
	printf("%d stapled, %ld ms\n", stapled,
		(after.ru_utime.tv_sec + after.ru_stime.tv_sec - before.ru_utime.tv_sec -
			before.ru_stime.tv_sec) *
				1000 +
			(after.ru_utime.tv_usec + after.ru_stime.tv_usec - before.ru_utime.tv_usec -
				before.ru_stime.tv_usec) /
				1000);
	return 0;
}

enum { LIVES = 100 };

static bool become_daemon_twice(void)
{
	bool ok = daemon(1, 1) == 0;

	return ok && daemon(1, 1) == 0;
}

static bool ends_well(pid_t child)
{
	int status;

	return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

static pid_t make_by_vfork(void)
{
	/* As servers do. NOLINTNEXTLINE(clang-analyzer-security.insecureAPI.vfork) */
	pid_t child = vfork();

	if (child == 0) {
		execl("/bin/true", "true", NULL);
		_exit(1);
	}
	return child;
}

static bool vfork_often(void)
{
	bool ok = true;

	for (int i = 0; ok && i < LIVES; i++)
		ok = ends_well(make_by_vfork());
	return ok;
}

static bool spawn_often(void)
{
	char *const words[] = {"true", NULL};
	bool ok = true;
	pid_t child;

	for (int i = 0; ok && i < LIVES; i++)
		ok = posix_spawn(&child, "/bin/true", NULL, NULL, words, environ) == 0 &&
		     ends_well(child);
	return ok;
}

static bool close_range_often(void)
{
	for (int i = 0; i < LIVES; i++) {
		if (syscall(SYS_close_range, 3, ~0U, 0) != 0)
			return false;
		usleep(20000);
	}
	return true;
}

/* Whatever loses its parent becomes a child of this process: nothing may that is not its own. */
static bool adopt(void)
{
	int count = 0;
	pid_t child;

	if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0)
		return false;
	child = fork();
	if (child == 0) {
		fork();
		_exit(0);
	}
	while (wait(NULL) > 0)
		count++;
	return errno == ECHILD && count == 2;
}

static bool is_undumpable(void)
{
	bool ok = prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0;

	usleep(3000000);
	return ok && prctl(PR_GET_DUMPABLE) == 0;
}

static const struct {
	const char *name;
	bool (*live)(void);
} lives[] = {
	{"daemon", become_daemon_twice},
	{"vfork", vfork_often},
	{"spawn", spawn_often},
	{"close_range", close_range_often},
	{"subreaper", adopt},
	{"undumpable", is_undumpable},
};

static int run_life(char **arguments)
{
	SSL_CTX *ctx = make_server();
	bool ok = false;

	for (size_t i = 0; i < sizeof(lives) / sizeof(*lives); i++)
		if (strcmp(lives[i].name, arguments[0]) == 0)
			ok = lives[i].live();
	if (!ok)
		fail("not as it should be");
	usleep(parse_number(arguments[1]) * 1000);
	printf("%d stapled\n", shake_hands(ctx) > 0);
	SSL_CTX_free(ctx);
	return 0;
}

static int run_bequeath(char **arguments)
{
	unsigned pause_ms = parse_number(arguments[0]);
	SSL_CTX *ctx = make_server();
	pid_t child = fork();
	int status;

	if (child == 0) {
		usleep(pause_ms * 1000);
		printf("%d stapled\n", shake_hands(ctx) > 0);
		exit(0);
	}
	OPENSSL_cleanup();
	if (waitpid(child, &status, 0) != child)
		fail("waitpid");
	return status != 0;
}

struct work {
	SSL_CTX *ctx;
	atomic_bool stop;
	atomic_long handshakes;
	atomic_long stapled;
};

static void *shake_hands_for_long(void *argument)
{
	struct work *work = argument;

	while (!atomic_load(&work->stop)) {
		atomic_fetch_add(&work->handshakes, 1);
		if (shake_hands(work->ctx) > 0)
			atomic_fetch_add(&work->stapled, 1);
	}
	return NULL;
}

static int run_thread(char **arguments)
{
	struct work work = {make_server(), false, 0, 0};
	unsigned count = parse_number(arguments[0]);
	pthread_t threads[64];

	if (count > 64)
		fail("too many threads");
	for (unsigned i = 0; i < count; i++)
		if (pthread_create(&threads[i], NULL, shake_hands_for_long, &work) != 0)
			fail("pthread_create");
	usleep(parse_number(arguments[1]) * 1000);
	atomic_store(&work.stop, true);
	for (unsigned i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	SSL_CTX_free(work.ctx);
	printf("%ld handshakes, %ld stapled\n", atomic_load(&work.handshakes),
		atomic_load(&work.stapled));
	return 0;
}

static SSL_CTX *make_server_of(const char *file)
{
	const char *own = chain_file;
	SSL_CTX *ctx;

	chain_file = file;
	ctx = make_server();
	chain_file = own;
	return ctx;
}

static long resident_kilobytes(void)
{
	FILE *status = fopen("/proc/self/status", "r");
	char line[256];
	long size = 0;

	/* RssShmem is where the cache is. */
	while (status && fgets(line, sizeof(line), status))
		if (strncmp(line, "VmRSS:", 6) == 0)
			size += strtol(line + 6, NULL, 10);
	if (status)
		fclose(status);
	return size;
}

static int run_reload(char **arguments)
{
	unsigned count = parse_number(arguments[1]), stapled = 0;
	long early = 0;
	SSL_CTX *ctx = NULL;

	for (unsigned i = 0; i < count; i++) {
		char file[4096];
		SSL_CTX *next;

		snprintf(file, sizeof(file), "%s/%u.pem", arguments[0], i);
		next = make_server_of(file);
		SSL_CTX_free(ctx);
		ctx = next;
		stapled += shake_hands(ctx) > 0;
		if (i == count / 4)
			early = resident_kilobytes();
	}
	/* The connection of the last answer is closed a moment after it was stapled. */
	for (unsigned i = 0; i < 100 && count_sockets() > 0; i++)
		usleep(50000);
	printf("%u stapled, %ld KiB more, %u sockets\n", stapled, resident_kilobytes() - early,
		count_sockets());
	SSL_CTX_free(ctx);
	return 0;
}

/* Nobody shakes hands with what is kept. */
static int run_swap(char **arguments)
{
	SSL_CTX *old = make_server_of(arguments[0]);
	SSL_CTX *ctx = make_server();

	SSL_CTX_free(old);
	usleep(parse_number(arguments[1]) * 1000);
	printf("%d stapled\n", shake_hands(ctx) > 0);
	SSL_CTX_free(ctx);
	return 0;
}

static int run_complete(char **arguments)
{
	struct timespec began, ended;
	SSL_CTX *ctx;

	clock_gettime(CLOCK_MONOTONIC, &began);
	ctx = make_server_of(arguments[0]);
	usleep(parse_number(arguments[1]) * 1000);
	if (SSL_CTX_use_certificate_chain_file(ctx, chain_file) != 1)
		fail("cannot load the chain");
	clock_gettime(CLOCK_MONOTONIC, &ended);
	printf("%d stapled, %ld ms\n", shake_hands(ctx) > 0,
		(long)(ended.tv_sec - began.tv_sec) * 1000 +
			(ended.tv_nsec - began.tv_nsec) / 1000000);
	SSL_CTX_free(ctx);
	return 0;
}

static int run_bereave(char **arguments)
{
	SSL_CTX *ctx = make_server();
	int ready[2];
	pid_t child;
	char byte;

	if (pipe(ready) != 0)
		fail("pipe");
	child = fork();
	if (child == 0) {
		SSL_CTX *own = make_server_of(arguments[0]);

		byte = shake_hands(own) > 0;
		if (write(ready[1], &byte, 1) != 1)
			fail("write");
		for (;;)
			pause();
	}
	if (read(ready[0], &byte, 1) != 1)
		fail("read");
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	usleep(parse_number(arguments[1]) * 1000);
	printf("%d stapled, %d stapled\n", byte, shake_hands(ctx) > 0);
	SSL_CTX_free(ctx);
	return 0;
}

static unsigned long mark_error(void)
{
	ERR_clear_error();
	ERR_put_error(ERR_LIB_USER, 0, 42, __FILE__, __LINE__);
	errno = EXDEV;
	return ERR_peek_last_error();
}

static void check_traces(unsigned long error, const char *where)
{
	if (errno != EXDEV)
		fail("errno changed");
	if (ERR_peek_error() != error || ERR_peek_last_error() != error) {
		fprintf(stderr, "tls_host: %s: ", where);
		fail("the error queue changed");
	}
}

/* Loading succeeds and sets no errno by itself; so what a host had is what it must find. */
static int run_traces(char **arguments)
{
	SSL_CTX *plain = SSL_CTX_new(TLS_server_method());
	SSL_CTX *ctx = make_server();
	X509 *x = SSL_CTX_get0_certificate(ctx);
	STACK_OF(X509) *chain = NULL;
	unsigned long error;
	SSL *ssl;

	(void)arguments;
	SSL_CTX_get0_chain_certs(ctx, &chain);
	if (!plain || !chain)
		fail("no chain");
	error = mark_error();
	if (SSL_CTX_use_certificate(plain, x) != 1)
		fail("SSL_CTX_use_certificate");
	check_traces(error, "SSL_CTX_use_certificate");
	if (SSL_CTX_set1_chain(plain, chain) != 1)
		fail("SSL_CTX_set1_chain");
	check_traces(error, "SSL_CTX_set1_chain");
	ssl = SSL_new(plain);
	error = mark_error();
	if (SSL_use_certificate(ssl, x) != 1)
		fail("SSL_use_certificate");
	check_traces(error, "SSL_use_certificate");
	if (SSL_set1_chain(ssl, chain) != 1)
		fail("SSL_set1_chain");
	check_traces(error, "SSL_set1_chain");
	SSL_free(ssl);
	SSL_CTX_free(plain);
	/* What fails must fail as it does without the shim. */
	if (SSL_CTX_use_certificate_file(ctx, "/nonexistent", SSL_FILETYPE_PEM) != 0)
		fail("a file that does not exist was loaded");
	if (ERR_GET_REASON(ERR_peek_last_error()) != ERR_R_SYS_LIB)
		fail("the wrong error for a file that does not exist");
	ERR_clear_error();
	SSL_CTX_free(ctx);
	puts("no traces");
	return 0;
}

static int own_result = SSL_TLSEXT_ERR_NOACK;
static int own_calls;

static int own_callback(SSL *ssl, void *argument)
{
	static const unsigned char response[] = "ours";
	unsigned char *copy;

	own_calls += argument == &own_calls;
	/* Not a response, and the client here does not look: only whose it is matters. */
	if (own_result == SSL_TLSEXT_ERR_OK) {
		copy = OPENSSL_memdup(response, sizeof(response));
		SSL_set_tlsext_status_ocsp_resp(ssl, copy, (long)sizeof(response));
	}
	return own_result;
}

static void check_getters(SSL_CTX *ctx, int (*expected)(SSL *, void *))
{
	int (*callback)(SSL *, void *) = NULL;
	void *argument = NULL;

	SSL_CTX_get_tlsext_status_cb(ctx, &callback);
	SSL_CTX_get_tlsext_status_arg(ctx, &argument);
	if (callback != expected)
		fail("SSL_CTX_get_tlsext_status_cb does not give the host its own");
	if (expected && argument != &own_calls)
		fail("SSL_CTX_get_tlsext_status_arg does not give the host its own");
}

static int run_callback(char **arguments)
{
	SSL_CTX *ctx = make_server();
	long size;

	(void)arguments;
	check_getters(ctx, NULL);
	SSL_CTX_set_tlsext_status_cb(ctx, own_callback);
	SSL_CTX_set_tlsext_status_arg(ctx, &own_calls);
	check_getters(ctx, own_callback);
	size = shake_hands(ctx);
	printf("host has none: %ld bytes, %d calls\n", size, own_calls);
	own_result = SSL_TLSEXT_ERR_OK;
	size = shake_hands(ctx);
	printf("host staples: %ld bytes, %d calls\n", size, own_calls);
	/* A certificate that comes later finds the host's callback in place. */
	if (SSL_CTX_use_certificate_chain_file(ctx, chain_file) != 1)
		fail("reload");
	check_getters(ctx, own_callback);
	SSL_CTX_set_tlsext_status_cb(ctx, NULL);
	check_getters(ctx, NULL);
	size = shake_hands(ctx);
	printf("host took it back: %ld bytes, %d calls\n", size, own_calls);
	SSL_CTX_free(ctx);
	return 0;
}

static const struct {
	const char *name;
	int arguments;
	int (*run)(char **arguments);
} commands[] = {
	{"exit", 1, run_exit},
	{"handshake", 1, run_handshake},
	{"fork", 1, run_fork},
	{"children", 2, run_children},
	{"cleanup", 1, run_cleanup},
	{"balance", 0, run_balance},
	{"thread", 2, run_thread},
	{"sockets", 1, run_sockets},
	{"question", 1, run_question},
	{"capset", 1, run_capset},
	{"setuid", 2, run_setuid},
	{"jail", 3, run_jail},
	{"privileges", 2, run_privileges},
	{"alone", 4, run_alone},
	{"bequeath", 1, run_bequeath},
	{"life", 2, run_life},
	{"refused", 2, run_refused},
	{"reload", 2, run_reload},
	{"swap", 2, run_swap},
	{"complete", 2, run_complete},
	{"bereave", 2, run_bereave},
	{"traces", 0, run_traces},
	{"callback", 0, run_callback},
};

int main(int argc, char **argv)
{
	for (size_t i = 0; argc > 3 && i < sizeof(commands) / sizeof(*commands); i++) {
		if (strcmp(argv[3], commands[i].name) != 0 || argc != 4 + commands[i].arguments)
			continue;
		chain_file = argv[1];
		key_file = argv[2];
		return commands[i].run(argv + 4);
	}
	fprintf(stderr, "usage: tls_host CHAIN.pem KEY.pem COMMAND [ARGUMENT…], see the source\n");
	return 2;
}
