/* SPDX-License-Identifier: MIT */
#include "host.h"

#include "../fetcher/agent.h"
#include "../fetcher/clock.h"
#include "../fetcher/descriptor.h"
#include "../fetcher/log.h"
#include "../fetcher/loop.h"
#include "../fetcher/resolve.h"
#include "privileges.h"
#include "registry.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
	ENVIRONMENT_SIZE = 8192,
	ENVIRONMENT_COUNT = 32,
	CHECK_INTERVAL = 1000,  /* milliseconds between two looks at the places of the threads */
	RETRY_INTERVAL = 60000, /* the same after a thread was refused */
	/* Milliseconds that an exit waits for a computation to end: mostly none, and no I/O is in
	 * it; but on a machine short of processors the thread may not be running. */
	EXIT_PATIENCE = 2000,
	STACK_SIZE = 512 << 10,
	/* Milliseconds for the agent. It has its answer in memory, but may have to wait for a
	 * processor. */
	AGENT_PATIENCE = 250,
	AGENT_PATIENCE_PASSING = 5,
	/* Certificates in a memo that is kept. What comes back is a host's issuers: a few. */
	MEMO_PLACES = 32,
	LOCK_PATIENCE = 2 * AGENT_PATIENCE, /* nothing longer is done under lock */
	SHORT_WAIT = 50,
	/* Naps of a millisecond for the thread to end: a machine that stands still takes one of
	 * them with it. A standby looks once a second whether it is to. */
	DISMISSAL_PATIENCE = 2000,
	NO_PID = 0, /* of a child of a raw clone */
};

/* Set in the constructor, constant afterwards. */
static char environment_text[ENVIRONMENT_SIZE];
static const char *environment[ENVIRONMENT_COUNT + 1];

static struct config config;
static struct store store;
static struct ready ready;
static pthread_once_t config_once = PTHREAD_ONCE_INIT;
static bool wanted;

static _Atomic(struct cache *) cache;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Held by the thread while it computes, and by whoever forks or exits. See loop.h. */
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static atomic_int gate_awaited; /* by that many threads that fork */
static atomic_bool gate_closed; /* for good: the process exits */
/* A host's own fork handler may fork as well. */
static _Thread_local __attribute__((tls_model("initial-exec"))) int forking;

static const struct libcrypto *_Atomic thread_crypto;
static struct supply thread_supply;
static _Atomic(struct certificate_memo *) spare_memo; /* of thread_crypto; NULL: lent or none */
static atomic_bool thread_lives;                      /* in this process */
static _Atomic pid_t thread_id;    /* for the kernel, that of the last that was born here */
static bool child_may_free;        /* of the fork that is going on; guarded by the gate */
static atomic_int thread_unwanted; /* by that many threads of the host's, at this moment */
static _Atomic int64_t next_check;
static atomic_bool somebody_leads; /* as far as was known at the last check */
static _Atomic int64_t window_end; /* of the startup window of the newest certificate */
static _Atomic pid_t own_pid;      /* or NO_PID */

struct visit host_enter(const struct libcrypto *crypto)
{
	struct visit visit = {crypto, errno, 0};

	/* What is done here must not be cut off in the middle, holding a lock. */
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &visit.cancel_state);
	crypto->ERR_set_mark();
	return visit;
}

void host_leave(struct visit visit)
{
	visit.crypto->ERR_pop_to_mark();
	pthread_setcancelstate(visit.cancel_state, NULL);
	errno = visit.saved_errno;
}

void host_lock(void)
{
	pthread_mutex_lock(&lock);
}

void host_unlock(void)
{
	pthread_mutex_unlock(&lock);
}

/*
 * All that happens in a process that never loads a certificate. Copies, because daemons overwrite
 * their environment to change their name in ps; no allocation, because the host's allocator may not
 * be ready.
 */
static void __attribute__((constructor)) start_host(void)
{
	size_t used = 0, count = 0;
	/* A program that runs with more rights than its user listens to the file alone. */
	bool trusted = getauxval(AT_SECURE) == 0;

	log_start();
	for (char **entry = environ; trusted && entry && *entry; entry++) {
		size_t size = strlen(*entry) + 1;

		if (!config_concerns(*entry) || size > sizeof(environment_text) - used ||
			count == ENVIRONMENT_COUNT)
			continue;
		environment[count++] = memcpy(environment_text + used, *entry, size);
		used += size;
	}
}

static bool program_is_listed(const char *list)
{
	char path[512];
	const char *slash;
	ssize_t size = readlink("/proc/self/exe", path, sizeof(path) - 1);

	if (config_lists(list, program_invocation_short_name))
		return true;
	if (size <= 0)
		return false;
	path[size] = '\0';
	slash = strrchr(path, '/');
	return config_lists(list, slash ? slash + 1 : path);
}

static void load_config(void)
{
	int saved = errno;

	config_load(&config, environment, CONFIG_FILE);
	wanted = config.enabled && (!config.only || program_is_listed(config.only));
	errno = saved;
}

const struct config *host_config(void)
{
	pthread_once(&config_once, load_config);
	return &config;
}

bool host_is_wanted(void)
{
	host_config();
	return wanted;
}

void host_leaves_root(void)
{
	int saved = errno, cancel_state;

	/* To read files is to offer oneself to pthread_cancel. */
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state);
	if (host_is_wanted() && config.fetch)
		resolver_keep_configuration();
	pthread_setcancelstate(cancel_state, NULL);
	errno = saved;
}

/*
 * Where the process has no libcrypto any more. Not the thread's end: there, libc would load a
 * library. Another process of the tree leads from now on.
 */
static void rest_for_ever(void)
{
	cache_resign(atomic_load(&cache));
	for (;;)
		pause();
}

/*
 * The thread comes by here after every piece of work. A mutex is not fair: whoever gives it back
 * and takes it again at once mostly wins over those who wait, so the thread stands back for them.
 */
static void enter_gate(void)
{
	static const struct timespec moment = {0, 50000};

	while (atomic_load(&gate_awaited) > 0)
		nanosleep(&moment, NULL);
	pthread_mutex_lock(&gate);
	if (atomic_load(&gate_closed)) {
		pthread_mutex_unlock(&gate);
		rest_for_ever();
	}
	cache_beat(atomic_load(&cache));
	privileges_follow();
}

static void leave_gate(void)
{
	pthread_mutex_unlock(&gate);
}

static bool thread_ends(void)
{
	return atomic_load(&thread_unwanted) > 0;
}

static bool deputy_ends(void)
{
	return thread_ends() || !cache_is_silent(atomic_load(&cache));
}

static void fetch_as(enum cache_rank rank)
{
	struct gate loop_gate = {
		enter_gate, leave_gate, rank == CACHE_LEADER ? thread_ends : deputy_ends};

	thread_supply = host_supply(atomic_load(&thread_crypto));
	enter_gate();
	loop_run(&thread_supply, &loop_gate);
	/* At the thread's end libcrypto would do it by itself, with the gate open. */
	thread_supply.crypto->OPENSSL_thread_stop();
	leave_gate();
}

static void *run_thread(void *argument)
{
	struct cache *shared = atomic_load(&cache);
	enum cache_rank rank = CACHE_NOBODY;
	int place = cache_stand_by(shared);

	atomic_store(&thread_id, (pid_t)syscall(SYS_gettid));
	pthread_setname_np(pthread_self(), "ocspreload");
	privileges_give_up();
	/* The place is taken by now: a child forked next does not try to take it too. */
	sem_post(argument);
	if (place >= 0)
		rank = cache_lead(shared, place, thread_ends);
	while (rank == CACHE_DEPUTY) {
		fetch_as(rank);
		rank = cache_lead(shared, 0, thread_ends);
	}
	if (rank == CACHE_LEADER)
		fetch_as(rank);
	cache_resign(shared);
	atomic_store(&thread_lives, false);
	return NULL;
}

static int create_thread(void)
{
	pthread_attr_t attributes;
	sigset_t all, before;
	pthread_t thread;
	int error, cancel_state;
	sem_t born;

	error = pthread_attr_init(&attributes);
	if (error)
		return error;
	/* sem_wait would be a place to end the caller's thread, which fork is not. */
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state);
	sem_init(&born, 0, 0);
	pthread_attr_setstacksize(&attributes, STACK_SIZE);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	/* The thread must never be the one that the kernel picks for a signal of the host's; the
	 * mask is inherited, so it is set around its birth. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&thread, &attributes, run_thread, &born);
	/* Not before it has left the start-up code of libc and the allocator, which the gate does
	 * not guard: a child forked in the middle of that would inherit their locks, held by
	 * nobody. */
	while (error == 0 && sem_wait(&born) != 0)
		;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	sem_destroy(&born);
	pthread_setcancelstate(cancel_state, NULL);
	pthread_attr_destroy(&attributes);
	return error;
}

static void ensure_thread(void)
{
	static atomic_bool reported;
	bool lives = false;
	int error;

	if (!config.fetch || atomic_load(&gate_closed) || thread_ends() ||
		!atomic_compare_exchange_strong(&thread_lives, &lives, true))
		return;
	error = create_thread();
	if (error == 0)
		return;
	atomic_store(&thread_lives, false);
	atomic_store(&next_check, clock_steady() + RETRY_INTERVAL);
	if (!atomic_exchange(&reported, true))
		log_write(agent_is_there() ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARNING,
			"no thread can be started in this process (%s): it staples only what "
			"another process of the same service or an agent (ocspctl agent) fetches",
			strerror(error));
}

void host_registered(const struct libcrypto *crypto)
{
	const struct libcrypto *none = NULL;

	atomic_compare_exchange_strong(&thread_crypto, &none, crypto);
	atomic_store(&window_end, clock_steady() + config.startup_wait);
}

bool host_is_itself(void)
{
	return atomic_load(&own_pid) == getpid();
}

static bool may_have_thread(void)
{
	return host_is_itself() && atomic_load(&thread_crypto);
}

void host_want_thread(void)
{
	if (may_have_thread() && !atomic_load(&thread_lives) &&
		cache_wants_standby(atomic_load(&cache)))
		ensure_thread();
}

bool host_check_thread(bool due)
{
	int64_t now = clock_steady();

	if (atomic_load(&thread_lives) || (!due && now < atomic_load(&window_end)))
		return false;
	if (now < atomic_load(&next_check))
		return !atomic_load(&somebody_leads);
	atomic_store(&next_check, now + CHECK_INTERVAL);
	host_want_thread();
	atomic_store(
		&somebody_leads, atomic_load(&thread_lives) ||
					 (may_have_thread() && cache_is_led(atomic_load(&cache))));
	return !atomic_load(&somebody_leads);
}

bool host_may_wait(const struct slot *slot)
{
	return clock_steady() < atomic_load(&slot->registered) + config.startup_wait;
}

bool host_await(const struct slot *slot)
{
	if (!host_may_wait(slot))
		return true;
	/* If nobody leads, nothing will come; a thread just born has had no time to. A child of a
	 * raw clone cannot tell. */
	if (!atomic_load(&thread_lives) && host_is_itself() && !cache_is_led(atomic_load(&cache)))
		return false;
	cache_await(
		atomic_load(&cache), slot, atomic_load(&slot->registered) + config.startup_wait);
	return true;
}

/* fork takes lock too: none happens while there is a descriptor that its child would inherit. */
bool host_ask_agent(const struct supply *supply, struct slot *slot, enum host_occasion occasion)
{
	const struct agent_manner manner = {
		.patience = occasion == HOST_PASSES ? AGENT_PATIENCE_PASSING : AGENT_PATIENCE,
		.begin = host_lock,
		.end = host_unlock};

	if (!host_is_itself())
		return false;
	return supply_from_agent(supply, slot, &manner, occasion != HOST_LOADS) ||
	       (occasion == HOST_WAITS && agent_is_silent());
}

/*
 * fork(). Handlers are registered late, with the first certificate: prepare handlers run last to
 * first and child handlers first to last, so ours run outside those of an allocator on both sides.
 */

/* With the gate open: the thread needs it to bring the answers. */
static void await_window(void)
{
	struct cache *shared = atomic_load(&cache);

	if (clock_steady() < atomic_load(&window_end))
		for (size_t i = 0; i < cache_slot_count(shared); i++)
			host_await(cache_slot(shared, i));
}

/* In short waits: a machine that stands still takes one of them with it, not all, and whoever has
 * the mutex comes to its next one. */
static bool take_within(pthread_mutex_t *mutex, int patience)
{
	bool taken = false;

	for (int waited = 0; !taken && waited < patience; waited += SHORT_WAIT) {
		int64_t end = clock_wall() + SHORT_WAIT;
		struct timespec until = {end / 1000, end % 1000 * 1000000};

		taken = pthread_mutex_timedlock(mutex, &until) == 0;
	}
	return taken;
}

static bool take_gate(int patience)
{
	bool taken;

	atomic_fetch_add(&gate_awaited, 1);
	taken = take_within(&gate, patience);
	atomic_fetch_sub(&gate_awaited, 1);
	return taken;
}

enum { MAIN_AND_OURS = 2 };

/* Of this process; 0: /proc does not tell. */
static size_t count_threads(void)
{
	enum { LINKS = 2 };
	struct stat is;

	return stat("/proc/self/task", &is) == 0 && is.st_nlink > LINKS ? is.st_nlink - LINKS : 0;
}

/*
 * With the gate held: that nobody can be inside the allocator or libcrypto now, so that the child
 * may call both.
 */
static bool nobody_works(void)
{
	size_t threads = count_threads();

	return threads > 0 && threads <= MAIN_AND_OURS && !atomic_load(&gate_closed);
}

static void prepare_fork(void)
{
	int saved = errno;

	if (forking++ > 0)
		return;
	/* Who forks lives on, in one process or another, and will have something to refresh. */
	host_want_thread();
	await_window();
	atomic_fetch_add(&gate_awaited, 1);
	pthread_mutex_lock(&gate);
	atomic_fetch_sub(&gate_awaited, 1);
	pthread_mutex_lock(&lock);
	child_may_free = nobody_works();
	errno = saved;
}

static void parent_forked(void)
{
	if (--forking > 0)
		return;
	pthread_mutex_unlock(&lock);
	pthread_mutex_unlock(&gate);
}

/* Made anew, not unlocked: they belong to a thread that does not exist here. */
static void forget_thread(bool may_free)
{
	pthread_mutex_init(&lock, NULL);
	pthread_mutex_init(&gate, NULL);
	atomic_store(&gate_awaited, 0);
	atomic_store(&thread_lives, false);
	atomic_store(&thread_unwanted, 0);
	atomic_store(&next_check, 0);
	descriptor_close_all();
	loop_forked(may_free);
	ready_forked(&ready);
}

static void child_forked(void)
{
	int saved = errno;

	forget_thread(child_may_free);
	atomic_store(&own_pid, getpid());
	/* A fork is going on in this child, too. */
	if (--forking > 0) {
		pthread_mutex_lock(&gate);
		pthread_mutex_lock(&lock);
	}
	/* The parent may be a daemon's launcher that exits next: two children stand by. */
	host_want_thread();
	errno = saved;
}

enum host_locks host_prepare_clone(bool may_wait)
{
	enum host_locks taken = HOST_NO_LOCK;
	int saved = errno;

	if (!atomic_load(&cache))
		return HOST_NO_LOCK;
	if (may_wait) {
		host_want_thread();
		await_window();
	}
	/* Not without an end: a signal handler may have interrupted the very thread that holds
	 * them. */
	if (take_gate(EXIT_PATIENCE))
		taken = take_within(&lock, LOCK_PATIENCE) ? HOST_GATE_AND_LOCK : HOST_GATE;
	errno = saved;
	return taken;
}

void host_parent_cloned(enum host_locks taken)
{
	if (taken == HOST_GATE_AND_LOCK)
		pthread_mutex_unlock(&lock);
	if (taken != HOST_NO_LOCK)
		pthread_mutex_unlock(&gate);
}

void host_child_cloned(bool is_known_to_libc)
{
	int saved = errno;

	if (atomic_load(&cache)) {
		forget_thread(false);
		atomic_store(&own_pid, is_known_to_libc ? getpid() : NO_PID);
	}
	errno = saved;
}

/*
 * The memo of the host's threads. Handed from one to the next without a lock, so that neither a
 * fork nor a thread that ends in the middle stops the others: what they had is lost, no more.
 */

struct libcrypto host_borrow_memo(const struct libcrypto *crypto, struct bytes der, X509 *x)
{
	struct libcrypto own = *crypto;

	/* A second libcrypto's certificates are none of the first one's. */
	if (crypto != atomic_load(&thread_crypto) || atomic_load(&gate_closed))
		return own;
	own.memo = atomic_exchange(&spare_memo, NULL);
	if (!own.memo)
		own.memo = certificate_memo_new(MEMO_PLACES);
	certificate_memo_lend(own.memo, der, x);
	return own;
}

/* A host that looks OPENSSL_cleanup up by itself goes past the hook: then nothing can be freed. */
static void free_spare_memo(const struct libcrypto *crypto)
{
	struct libcrypto own = *crypto;

	own.memo = atomic_exchange(&spare_memo, NULL);
	if (own.memo && crypto->OPENSSL_init_crypto(0, NULL) == 1)
		certificate_memo_free(&own);
}

void host_return_memo(const struct libcrypto *crypto)
{
	struct certificate_memo *none = NULL;

	certificate_memo_lend(crypto->memo, (struct bytes){0}, NULL);
	if (!crypto->memo)
		return;
	if (!atomic_compare_exchange_strong(&spare_memo, &none, crypto->memo))
		certificate_memo_free(crypto);
	/* Who closed it meanwhile has found nothing to free. */
	if (atomic_load(&gate_closed))
		free_spare_memo(crypto);
}

/*
 * unshare() and setns()
 */

/* Then the kernel refuses with and without ours. What /proc does not tell may be so. */
static bool host_has_threads(void)
{
	return count_threads() > MAIN_AND_OURS;
}

/* Not as soon as libc would say so: for a moment more, the kernel counts it among the process's. */
static bool thread_is_gone(void)
{
	return !atomic_load(&thread_lives) &&
	       syscall(SYS_tgkill, getpid(), atomic_load(&thread_id), 0) != 0 && errno == ESRCH;
}

static bool await_end_of_thread(void)
{
	static const struct timespec moment = {0, 1000000};

	cache_wake(atomic_load(&cache));
	for (int naps = 0; !thread_is_gone(); naps++) {
		if (naps == DISMISSAL_PATIENCE)
			return false;
		nanosleep(&moment, NULL);
	}
	return true;
}

bool host_dismiss_thread(void)
{
	bool is_gone;
	int saved = errno, cancel_state;

	if (!atomic_load(&cache) || !atomic_load(&thread_lives) || !host_is_itself() ||
		atomic_load(&gate_closed) || host_has_threads()) {
		errno = saved;
		return false;
	}
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state);
	/* Where the host goes now, there may be no responder. */
	await_window();
	atomic_fetch_add(&thread_unwanted, 1);
	is_gone = await_end_of_thread();
	if (!is_gone)
		host_recall_thread();
	pthread_setcancelstate(cancel_state, NULL);
	errno = saved;
	return is_gone;
}

void host_recall_thread(void)
{
	int saved = errno;

	atomic_fetch_sub(&thread_unwanted, 1);
	host_want_thread();
	errno = saved;
}

/*
 * exit(). Runs before libcrypto tears itself down, because libcrypto was initialised first. The
 * thread is not joined, because it may be in a system call for long; when it comes back from there
 * it finds the gate closed.
 */
static void close_gate(void)
{
	const struct libcrypto *crypto = atomic_load(&thread_crypto);

	if (atomic_exchange(&gate_closed, true))
		return;
	if (take_gate(EXIT_PATIENCE))
		pthread_mutex_unlock(&gate);
	if (crypto)
		free_spare_memo(crypto);
}

void host_crypto_ends(const void *function)
{
	const struct libcrypto *crypto = atomic_load(&thread_crypto);
	Dl_info own, ending;
	int saved = errno;

	if (crypto && dladdr(function, &ending) && dladdr((const void *)crypto->X509_free, &own) &&
		own.dli_fbase == ending.dli_fbase)
		close_gate();
	errno = saved;
}

struct supply host_supply(const struct libcrypto *crypto)
{
	return (struct supply){
		crypto, atomic_load(&cache), &config, &store, &ready, registry_is_loaded};
}

static void open_store(void)
{
	store_open(&store, &config);
	if (config.use_store && !config.store && !store.writable)
		log_info(
			"there is no directory that this process can write responses to: a "
			"restart depends on the responder, unless OCSPRELOAD_STORE names one or "
			"an agent (ocspctl agent) runs");
}

struct cache *host_cache(void)
{
	struct cache *made = atomic_load(&cache);
	static bool refused;

	if (made)
		return made;
	host_lock();
	made = atomic_load(&cache);
	if (!made && !refused) {
		made = cache_create();
		if (made) {
			open_store();
			ready_open(&ready, config.responses);
			atomic_store(&own_pid, getpid());
			atomic_store(&cache, made);
			pthread_atfork(prepare_fork, parent_forked, child_forked);
			atexit(close_gate);
		} else {
			refused = true;
			log_error("nothing is stapled: the kernel refuses memory for the cache: %s",
				strerror(errno));
		}
	}
	host_unlock();
	return made;
}
