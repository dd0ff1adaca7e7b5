/* SPDX-License-Identifier: MIT */
#include "libssl.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static _Atomic(struct libssl *) libraries;

static bool lies_in(const struct libssl *lib, const void *address)
{
	return (const char *)address >= lib->start && (const char *)address < lib->end;
}

/* The extent of the object that an address lies in. */
struct object {
	const void *address;
	const char *start;
	const char *end;
	bool is_program;
};

static int measure_object(struct dl_phdr_info *info, size_t size, void *argument)
{
	struct object *object = argument;
	uintptr_t start = UINTPTR_MAX, end = 0;

	(void)size;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *header = &info->dlpi_phdr[i];
		uintptr_t from = info->dlpi_addr + header->p_vaddr;

		if (header->p_type != PT_LOAD)
			continue;
		start = from < start ? from : start;
		end = from + header->p_memsz > end ? from + header->p_memsz : end;
	}
	if ((uintptr_t)object->address < start || (uintptr_t)object->address >= end)
		return 0;
	object->start = (const char *)start; /* NOLINT(performance-no-int-to-ptr) */
	object->end = (const char *)end;     /* NOLINT(performance-no-int-to-ptr) */
	object->is_program = !info->dlpi_name || info->dlpi_name[0] == '\0';
	return 1;
}

/* Where in memory a library says that one of its hooked functions is; NULL if that is our own. */
static void *find_real(void *handle, const char *name)
{
	void *real = dlsym(handle, name);
	Dl_info own, info;

	if (!real || !dladdr(real, &info) || !dladdr((const void *)&libraries, &own))
		return NULL;
	return info.dli_fbase == own.dli_fbase ? NULL : real;
}

/* dlopen inside dl_iterate_phdr would wait for the lock that it holds in musl: only take notes. */
struct candidates {
	size_t count;
	char path[LIBSSL_FOUND_MOST - 1][512];
};

static int collect_library(struct dl_phdr_info *info, size_t size, void *argument)
{
	struct candidates *candidates = argument;
	const char *slash = info->dlpi_name ? strrchr(info->dlpi_name, '/') : NULL;

	(void)size;
	if (slash && (strncmp(slash, "/libssl", 7) == 0 || strncmp(slash, "/libcrypto", 10) == 0) &&
		strlen(info->dlpi_name) < sizeof(candidates->path[0]) &&
		candidates->count < sizeof(candidates->path) / sizeof(candidates->path[0]))
		strcpy(candidates->path[candidates->count++], info->dlpi_name);
	return 0;
}

static void *find_in_scan(const char *name)
{
	struct candidates candidates = {0};
	void *real = NULL;

	dl_iterate_phdr(collect_library, &candidates);
	for (size_t i = 0; i < candidates.count && !real; i++) {
		void *handle = dlopen(candidates.path[i], RTLD_LAZY | RTLD_NOLOAD);

		if (!handle)
			continue;
		real = find_real(handle, name);
		dlclose(handle);
	}
	return real;
}

/*
 * The real function behind a hook, as the caller would have reached it. Its own dependencies come
 * first: they are right for a module that was loaded RTLD_LOCAL, for libssl's calls of itself, and
 * where two versions are loaded. The main program has no handle of its own: for it, what comes
 * after us in the global order is right.
 */
static void *find_for_caller(const void *caller, const char *name)
{
	void *real = NULL;
	void *handle = NULL;
	Dl_info info;

	if (dladdr(caller, &info) && info.dli_fname)
		handle = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
	if (handle) {
		real = find_real(handle, name);
		dlclose(handle);
	}
	if (!real)
		real = find_real(RTLD_NEXT, name);
	return real ? real : find_in_scan(name);
}

/*
 * The version of an OpenSSL that the shim knows, or 0. LibreSSL, BoringSSL and AWS-LC have
 * functions of the same names and other objects behind them.
 */
static unsigned long find_version(void *handle)
{
	unsigned long (*version_num)(void);
	const char *(*version)(int);
	void *symbols[] = {dlsym(handle, "OpenSSL_version_num"), dlsym(handle, "OpenSSL_version")};

	if (!symbols[0] || !symbols[1])
		return 0;
	memcpy(&version_num, &symbols[0], sizeof(version_num));
	memcpy(&version, &symbols[1], sizeof(version));
	if (version_num() < 0x10101000UL || version_num() >= 0x50000000UL ||
		strncmp(version(OPENSSL_VERSION), "OpenSSL ", 8) != 0)
		return 0;
	return version_num();
}

static void bind_client_methods(struct libssl *lib, void *handle)
{
	static const char *const names[LIBSSL_CLIENT_METHODS] = {
		"TLS_client_method",
		"DTLS_client_method",
		"TLSv1_client_method",
		"TLSv1_1_client_method",
		"TLSv1_2_client_method",
		"DTLSv1_client_method",
		"DTLSv1_2_client_method",
		"OSSL_QUIC_client_method",
		"OSSL_QUIC_client_thread_method",
	};
	const SSL_METHOD *(*method)(void);

	for (size_t i = 0; i < LIBSSL_CLIENT_METHODS; i++) {
		void *symbol = dlsym(handle, names[i]);

		memcpy(&method, &symbol, sizeof(method));
		lib->client_methods[i] = symbol ? method() : NULL;
	}
}

/* False if one is missing. */
static bool bind_hooks(struct libssl *lib, void *handle)
{
	bool complete = true;
	void *symbol;

#define F(name)                            \
	symbol = find_real(handle, #name); \
	complete = complete && symbol;     \
	memcpy(&lib->name, &symbol, sizeof(symbol));
	LIBSSL_HOOKS(F)
#undef F
	return complete;
}

static bool bind_functions(struct libssl *lib, void *handle)
{
	bool complete = true;
	void *symbol;

#define F(name)                        \
	symbol = dlsym(handle, #name); \
	complete = complete && symbol; \
	memcpy(&lib->name, &symbol, sizeof(symbol));
	LIBSSL_FUNCTIONS(F)
#undef F
	return complete;
}

static struct libssl *find_bound(const void *real)
{
	struct libssl *lib = atomic_load_explicit(&libraries, memory_order_acquire);

	while (lib && !lies_in(lib, real))
		lib = lib->next;
	return lib;
}

/*
 * Without a lock: a thread that binds inside a module's constructor holds the loader's lock
 * already, and a lock of ours around dlsym would meet it the wrong way round. Two threads may bind
 * at once, then the later one's table is thrown away.
 */
static struct libssl *publish(struct libssl *made)
{
	struct libssl *head = atomic_load_explicit(&libraries, memory_order_acquire);

	do {
		struct libssl *other = find_bound(made->start);

		if (other) {
			free(made);
			return other;
		}
		made->next = head;
	} while (!atomic_compare_exchange_weak(&libraries, &head, made));
	return made;
}

static struct libssl *bind_library(const void *real)
{
	struct object object = {.address = real};
	struct libssl *lib;
	void *handle;
	Dl_info info;

	if (!dladdr(real, &info) || !dl_iterate_phdr(measure_object, &object))
		return NULL;
	/* Never unloaded again: the table and the ex_data callbacks outlive the host's dlclose. The
	 * name of the program itself is what its starter said, and may be anything. */
	handle = dlopen(
		object.is_program ? NULL : info.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
	lib = handle ? calloc(1, sizeof(*lib)) : NULL;
	if (!lib)
		return NULL;
	lib->start = object.start;
	lib->end = object.end;
	lib->x509_index = -1;
	lib->ctx_index = -1;
	lib->door_index = -1;
	lib->ssl_index = -1;
	lib->version = find_version(handle);
	if (bind_hooks(lib, handle) && bind_functions(lib, handle) && lib->version &&
		!libcrypto_bind(&lib->crypto, handle)) {
		bind_client_methods(lib, handle);
		lib->known = true;
		/* 3.6.0 can, but what it sends for certificates without a response is an empty one.
		 */
		lib->multistaples = lib->version >= 0x30600010UL;
	}
	/* A host that asks dlerror next must not read of what we did not find. */
	dlerror();
	return publish(lib);
}

/* OpenSSL takes no other allocator once it has used one, and says so; NULL changes nothing. */
static bool is_in_use(void *handle)
{
	void *symbol = dlsym(handle, "CRYPTO_set_mem_functions");
	__typeof__(&CRYPTO_set_mem_functions) set;

	memcpy(&set, &symbol, sizeof(set));
	return symbol && set(NULL, NULL, NULL) == 0;
}

static struct libssl *find_passed_by(void *handle)
{
	void *real = find_real(handle, "SSL_CTX_use_certificate");
	struct libssl *lib = real ? find_bound(real) : NULL;

	if (real && !lib && is_in_use(handle))
		lib = bind_library(real);
	if (!lib || !lib->known || atomic_load(&lib->reached) ||
		atomic_exchange(&lib->passed_by, true))
		return NULL;
	return lib;
}

size_t libssl_find_passed_by(struct libssl *found[static LIBSSL_FOUND_MOST])
{
	struct candidates candidates = {0};
	int saved = errno;
	size_t count = 0;

	dl_iterate_phdr(collect_library, &candidates);
	for (size_t i = 0; i <= candidates.count; i++) {
		/* Last, the program itself. */
		void *handle = dlopen(
			i < candidates.count ? candidates.path[i] : NULL, RTLD_LAZY | RTLD_NOLOAD);

		if (!handle)
			continue;
		found[count] = find_passed_by(handle);
		count += found[count] ? 1 : 0;
		dlclose(handle);
	}
	errno = saved;
	return count;
}

/* Where a library calls itself through the hooks, its host may still go past them. */
static struct libssl *note_caller(struct libssl *lib, const void *caller)
{
	if (lib && caller && !atomic_load_explicit(&lib->reached, memory_order_relaxed) &&
		!lies_in(lib, caller))
		atomic_store_explicit(&lib->reached, true, memory_order_relaxed);
	return lib;
}

struct libssl *libssl_of_caller(const void *caller)
{
	int saved = errno;
	/* Any hook will do: they all come from the same library. */
	void *real = find_for_caller(caller, "SSL_CTX_use_certificate");
	struct libssl *lib = real ? find_bound(real) : NULL;

	if (real && !lib)
		lib = bind_library(real);
	errno = saved;
	return note_caller(lib, caller);
}

void (*libssl_find_cleanup(const void *caller))(void)
{
	int saved = errno;
	void *symbol = find_for_caller(caller, "OPENSSL_cleanup");
	void (*real)(void);

	memcpy(&real, &symbol, sizeof(real));
	errno = saved;
	return real;
}

struct libssl *libssl_of_ctx(const SSL_CTX *ctx, const void *caller)
{
	struct libssl *lib = atomic_load_explicit(&libraries, memory_order_acquire);

	for (; ctx && lib; lib = lib->next)
		if (lib->known && lies_in(lib, lib->SSL_CTX_get_ssl_method(ctx)))
			return note_caller(lib, caller);
	return libssl_of_caller(caller);
}

struct libssl *libssl_of_ssl(const SSL *ssl, const void *caller)
{
	struct libssl *lib = atomic_load_explicit(&libraries, memory_order_acquire);

	for (; ssl && lib; lib = lib->next)
		if (lib->known && lies_in(lib, lib->SSL_get_ssl_method(ssl)))
			return note_caller(lib, caller);
	return libssl_of_caller(caller);
}

bool libssl_is_client_only(const struct libssl *lib, const SSL_CTX *ctx)
{
	const SSL_METHOD *method = lib->SSL_CTX_get_ssl_method(ctx);

	for (size_t i = 0; i < LIBSSL_CLIENT_METHODS; i++)
		if (method == lib->client_methods[i])
			return true;
	return false;
}
