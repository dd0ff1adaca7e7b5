/* SPDX-License-Identifier: MIT */
/*
 * ocspctl agent: fetches for all who ask at a local socket (agent.h).
 *
 * One thread fetches, as in a server; the other serves. A connection is one question, which is
 * answered at once, and so there is nothing to remember of it but that it is open.
 */
#include "ocspctl.h"

#include "agent.h"
#include "clock.h"
#include "loop.h"
#include "ocspctl_answer.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pthread.h>
#include <pwd.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	CONNECTIONS = 256,
	PER_USER = 32,    /* other than root */
	PATIENCE = 1000,  /* milliseconds for a question to come */
	INTERVAL = 60000, /* milliseconds between two sweeps */
	LISTEN_FD = 3,    /* of systemd's protocol, sd_listen_fds(3) */
};

static const char *const store_directory = "/var/cache/ocspreload-agent";

struct connection {
	int number;
	uid_t uid;
	int64_t deadline; /* steady clock */
};

struct agent {
	struct supply supply;
	struct book *book;
	int listener;
	struct connection connections[CONNECTIONS]; /* the first count of them */
	size_t count;
};

/*
 * Starting
 */

/* As systemd hands it over; -1 if it does not. */
static int inherit_listener(void)
{
	const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");

	if (!pid || !count || strtol(pid, NULL, 10) != (long)getpid() || strcmp(count, "1") != 0 ||
		fcntl(LISTEN_FD, F_SETFL, O_NONBLOCK) != 0)
		return -1;
	return LISTEN_FD;
}

/* What an agent that was killed has left behind. */
static void remove_dead(const char *path, const struct sockaddr_un *address, socklen_t size)
{
	int number = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (number < 0)
		return;
	if (connect(number, (const struct sockaddr *)address, size) != 0 && errno == ECONNREFUSED)
		unlink(path);
	close(number);
}

static int make_listener(const char *name)
{
	struct sockaddr_un address;
	socklen_t size;
	mode_t mask;
	int number, error;

	agent_address(name, &address, &size);
	number = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (number < 0)
		return -1;
	if (name[0] == '/')
		remove_dead(name, &address, size);
	/* For everybody: whom to keep away is said by the directory that a path is in. */
	mask = umask(0111);
	if (bind(number, (const struct sockaddr *)&address, size) == 0 &&
		listen(number, SOMAXCONN) == 0) {
		umask(mask);
		return number;
	}
	error = errno;
	umask(mask);
	close(number);
	errno = error;
	return -1;
}

/* Only after listen: as whom that was called is how others know the agent. */
static const char *become(const char *name, const char *directory)
{
	const struct passwd *user = getpwnam(name);

	if (!user)
		return "there is no such user";
	if (user->pw_uid == geteuid())
		return NULL;
	if (mkdir(directory, 0755) == 0 && chown(directory, user->pw_uid, user->pw_gid) != 0)
		return strerror(errno);
	if (setgroups(0, NULL) != 0 || setgid(user->pw_gid) != 0 || setuid(user->pw_uid) != 0)
		return strerror(errno);
	return NULL;
}

/* A store of its own where it is not root; root's belongs to root's servers. */
static const char *choose_store(const struct tool *tool)
{
	static char resolved[STORE_PATH_SIZE];
	const char *given = getenv("CACHE_DIRECTORY");
	char *path;

	if (!tool->config.use_store || tool->config.store)
		return tool->config.store;
	if (!given)
		return tool->user ? store_directory : NULL;
	/* systemd's is a symbolic link where the user is a dynamic one. */
	path = realpath(given, NULL);
	if (!path || strlen(path) >= sizeof(resolved)) {
		free(path);
		return NULL;
	}
	strcpy(resolved, path);
	free(path);
	return resolved;
}

/* sd_notify(3), by hand. */
static void notify_ready(void)
{
	static const char message[] = "READY=1";
	const char *name = getenv("NOTIFY_SOCKET");
	struct sockaddr_un address;
	socklen_t size;
	int number;

	if (!name || !agent_address(name, &address, &size))
		return;
	number = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (number < 0)
		return;
	sendto(number, message, strlen(message), MSG_NOSIGNAL, (const struct sockaddr *)&address,
		size);
	close(number);
}

/*
 * Fetching
 */

/* Nobody forks here, and who exits does so without ado. */
static void no_gate(void)
{
}

static void *run_fetcher(void *argument)
{
	static const struct gate gate = {.enter = no_gate, .leave = no_gate};
	const struct agent *agent = argument;

	loop_run(&agent->supply, &gate);
	log_error("memory ran out: the agent ends");
	_exit(EXIT_NOT_GOOD);
}

static const char *start_fetcher(struct agent *agent)
{
	sigset_t all, before;
	pthread_t thread;
	int error;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&thread, NULL, run_fetcher, agent);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return error ? strerror(error) : NULL;
}

/*
 * Serving
 */

static bool is_welcome(const struct agent *agent, uid_t uid)
{
	size_t mine = 0;

	/* The last places are root's. */
	if (uid == 0)
		return agent->count < CONNECTIONS;
	for (size_t i = 0; i < agent->count; i++)
		mine += agent->connections[i].uid == uid;
	return mine < PER_USER && agent->count < CONNECTIONS - PER_USER;
}

/* False if the question has not come yet. */
static bool answer(const struct agent *agent, const struct connection *connection)
{
	struct buffer question = {0}, message = {0};
	char byte;

	agent_receive(connection->number, &question);
	if (question.size == 0)
		return recv(connection->number, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 ||
		       errno != EAGAIN;
	if (book_answer(agent->book, buffer_bytes(&question), connection->uid, &message))
		send(connection->number, message.data, message.size, MSG_NOSIGNAL | MSG_DONTWAIT);
	buffer_free(&question);
	buffer_free(&message);
	return true;
}

static void accept_all(struct agent *agent)
{
	for (;;) {
		int number = accept4(agent->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		struct connection new = {.number = number, .deadline = clock_steady() + PATIENCE};
		struct ucred peer;
		socklen_t size = sizeof(peer);

		if (number < 0)
			return;
		if (getsockopt(number, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0)
			new.uid = peer.uid;
		else
			new.uid = (uid_t)-1;
		if (is_welcome(agent, new.uid) && !answer(agent, &new))
			agent->connections[agent->count++] = new;
		else
			close(number);
	}
}

static void serve(struct agent *agent, const struct pollfd *fds)
{
	int64_t now = clock_steady();
	size_t kept = 0;

	for (size_t i = 0; i < agent->count; i++) {
		const struct connection connection = agent->connections[i];

		if ((fds[i].revents && answer(agent, &connection)) || now >= connection.deadline)
			close(connection.number);
		else
			agent->connections[kept++] = connection;
	}
	agent->count = kept;
}

static volatile sig_atomic_t stopped;

static void stop(int number)
{
	(void)number;
	stopped = 1;
}

/* Blocked but while it waits, so that none is missed. */
static void catch_signals(sigset_t *while_waiting)
{
	struct sigaction action = {.sa_handler = stop};
	sigset_t mine;

	sigemptyset(&mine);
	sigaddset(&mine, SIGTERM);
	sigaddset(&mine, SIGINT);
	pthread_sigmask(SIG_BLOCK, &mine, while_waiting);
	sigdelset(while_waiting, SIGTERM);
	sigdelset(while_waiting, SIGINT);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
}

static int run(struct agent *agent)
{
	static const struct timespec while_open = {PATIENCE / 1000, 0};
	static const struct timespec while_idle = {INTERVAL / 1000, 0};
	int64_t next_sweep = clock_steady() + INTERVAL;
	struct pollfd fds[CONNECTIONS + 1];
	sigset_t while_waiting;

	catch_signals(&while_waiting);
	notify_ready();
	while (!stopped) {
		for (size_t i = 0; i < agent->count; i++)
			fds[i] = (struct pollfd){agent->connections[i].number, POLLIN, 0};
		fds[agent->count] = (struct pollfd){agent->listener, POLLIN, 0};
		if (ppoll(fds, agent->count + 1, agent->count ? &while_open : &while_idle,
			    &while_waiting) < 0)
			continue;
		/* First those who were there: their places are counted by fds. */
		serve(agent, fds);
		accept_all(agent);
		if (clock_steady() < next_sweep)
			continue;
		next_sweep = clock_steady() + INTERVAL;
		if (!book_sweep(agent->book)) {
			log_error(
				"full of certificates that nobody asks for any more: the agent "
				"ends, to be started anew");
			return EXIT_NOT_GOOD;
		}
	}
	return EXIT_GOOD;
}

static const char *prepare(struct tool *tool, struct agent *agent)
{
	const char *why;

	agent->listener = inherit_listener();
	if (agent->listener < 0)
		agent->listener = make_listener(tool->config.agent);
	if (agent->listener < 0)
		return strerror(errno);
	tool->config.store = choose_store(tool);
	if (tool->user) {
		why = become(tool->user, tool->config.store);
		if (why)
			return why;
	}
	store_open(&tool->store, &tool->config);
	agent->supply = (struct supply){.crypto = &tool->crypto,
		.cache = cache_create(),
		.config = &tool->config,
		.store = &tool->store};
	if (!agent->supply.cache)
		return "memory ran out";
	agent->book = book_open(&agent->supply);
	return agent->book ? start_fetcher(agent) : "memory ran out";
}

int command_agent(struct tool *tool, char **operands)
{
	static struct agent agent;
	const char *name = tool->config.agent ? tool->config.agent : AGENT_NAME;
	const char *why;

	(void)operands;
	tool->config.agent = name;
	why = prepare(tool, &agent);
	if (why)
		return print_failure(name, why);
	/* It does not ask itself. */
	tool->config.agent = NULL;
	log_info("listening at %s",
		agent.listener == LISTEN_FD ? "the socket that was handed over" : name);
	/* Past libcrypto's end: the other thread is in the middle of something. */
	_exit(run(&agent));
}
