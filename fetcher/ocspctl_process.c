/* SPDX-License-Identifier: MIT */
/*
 * The doctor's visit to a running process: why it staples nothing, by what /proc tells of it. The
 * process is not disturbed.
 */
#include "ocspctl.h"

#include "file.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PROC_LIMIT = 16 * 1024 * 1024, VERSION_SIZE = 40 };

/* "OpenSSL 3.0.19", or who else's TLS it is. */
struct flavour {
	char name[VERSION_SIZE];
	bool is_openssl;
};

struct process {
	const char *pid;
	char name[32];
	struct buffer maps, environment, status, auxv; /* as in /proc; the texts end with a NUL */
	bool has_shim, has_loader, is_go;
	bool is_replaced;      /* the shim in it is not the file that is there now */
	bool has_libssl;       /* OpenSSL's, or one that is called so */
	bool exports;          /* what the executable has inside can be hooked */
	struct flavour inside; /* of the executable */
	struct flavour library;
	size_t stranger; /* an index */
	struct config config;
	char tried[PRELOAD_PATH_SIZE]; /* the shim that the loader began to load; "" if none */
};

/*
 * How those that are not OpenSSL, and not made of it, are known: by the beginning of a file's name.
 * The first one that is there is it: Java may load the others for its own ends.
 */
static const struct {
	const char *prefix, *name;
} strangers[] = {
	{"libjvm.so", "Java"},
	{"libgnutls.so", "GnuTLS"},
	{"libnss3.so", "NSS"},
	{"libmbedtls", "Mbed TLS"},
	{"libwolfssl", "wolfSSL"},
	{"librustls", "rustls"},
	{"libs2n", "s2n-tls"},
	{"libbearssl", "BearSSL"},
	{"libbotan", "Botan"},
	{NULL, NULL},
};

/* Servers of OpenSSL for which there is nothing to gain, by the name of the executable. */
static const struct {
	const char *name, *why;
} in_vain[] = {
	{"openvpn", "its clients never ask for a staple"},
	{"tor", "it makes its certificates itself: there is no CA to ask about them"},
};

static bool begins(const char *text, const char *prefix)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static const char *read_proc(const struct process *process, const char *name, struct buffer *out)
{
	char path[64];
	const char *why;

	snprintf(path, sizeof(path), "/proc/%s/%s", process->pid, name);
	why = file_read(path, PROC_LIMIT, out);
	if (!why && !buffer_append(out, "", 1))
		why = "memory ran out";
	return why;
}

/* Only what is on disk, not what the process made of it. Empty if there is nothing to read. */
static struct bytes map_file(const char *path)
{
	struct bytes none = {NULL, 0};
	struct stat status;
	void *data = MAP_FAILED;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	if (fd < 0)
		return none;
	if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0)
		data = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	return data == MAP_FAILED ? none : (struct bytes){data, (size_t)status.st_size};
}

static void unmap_file(struct bytes file)
{
	if (file.data)
		munmap((void *)(uintptr_t)file.data, file.size);
}

static bool contains(struct bytes bytes, const char *text)
{
	return bytes.data && memmem(bytes.data, bytes.size, text, strlen(text)) != NULL;
}

static bool is_digit(unsigned char c)
{
	return c >= '0' && c <= '9';
}

/*
 * "OpenSSL 3.0.19 27 Jan 2026": without the date it is what OpenSSL's likes call themselves, or a
 * word in somebody's text.
 */
static bool find_openssl(struct bytes file, struct flavour *out)
{
	static const char mark[] = "OpenSSL ";
	const unsigned char *at = file.data, *end = file.data + file.size;

	while (at && (at = memmem(at, (size_t)(end - at), mark, sizeof(mark) - 1)) != NULL) {
		size_t size = sizeof(mark) - 1;

		while (size + 1 < VERSION_SIZE && at + size < end && at[size] > ' ' &&
			at[size] < 0x7f)
			size++;
		if (at + size + 1 < end && is_digit(at[sizeof(mark) - 1]) && at[size] == ' ' &&
			is_digit(at[size + 1])) {
			memcpy(out->name, at, size);
			out->name[size] = '\0';
			out->is_openssl = true;
			return true;
		}
		at += sizeof(mark) - 1;
	}
	return false;
}

/* Whose TLS a library or an executable has inside. The name stays empty if nobody's. */
static void find_flavour(struct bytes file, struct flavour *out)
{
	/* rustls may have AWS-LC inside, which is made of BoringSSL and says so. */
	static const struct {
		const char *text, *name;
	} marks[] = {
		{"/rustls-0.", "rustls"},
		{"rustls::", "rustls"},
		{"AWS-LC", "AWS-LC"},
		{"BoringSSL", "BoringSSL"},
		{"LibreSSL", "LibreSSL"},
		{"wolfSSL ", "wolfSSL"},
		{"mbed TLS ", "Mbed TLS"},
		{"Mbed TLS ", "Mbed TLS"},
	};
	/* In what errors tell of their origin, where nobody asks for the version. */
	static const char source[] = "ssl/ssl_lib.c";

	if (!file.data || find_openssl(file, out))
		return;
	for (size_t i = 0; i < sizeof(marks) / sizeof(*marks); i++)
		if (contains(file, marks[i].text)) {
			snprintf(out->name, sizeof(out->name), "%s", marks[i].name);
			return;
		}
	if (memmem(file.data, file.size, source, sizeof(source)))
		*out = (struct flavour){.name = "OpenSSL", .is_openssl = true};
}

/* True if a function is among an executable's dynamic symbols; of those of this machine's kind. */
static bool is_exported(struct bytes file, const char *function)
{
	const ElfW(Ehdr) *header = (const void *)file.data;
	const ElfW(Shdr) * sections;
	size_t size = strlen(function) + 2;

	if (file.size < sizeof(*header) || memcmp(file.data, ELFMAG, SELFMAG) != 0 ||
		header->e_shentsize != sizeof(*sections) || header->e_shoff > file.size ||
		header->e_shoff % _Alignof(ElfW(Shdr)) != 0 ||
		header->e_shnum > (file.size - header->e_shoff) / sizeof(*sections))
		return false;
	sections = (const void *)(file.data + header->e_shoff);
	for (size_t i = 0; i < header->e_shnum; i++) {
		const ElfW(Shdr) * names;
		struct buffer word = {0};
		bool found;

		if (sections[i].sh_type != SHT_DYNSYM || sections[i].sh_link >= header->e_shnum)
			continue;
		names = &sections[sections[i].sh_link];
		if (names->sh_offset > file.size || names->sh_size > file.size - names->sh_offset)
			return false;
		found = buffer_append(&word, "", 1) && buffer_append(&word, function, size - 1) &&
			memmem(file.data + names->sh_offset, names->sh_size, word.data, size);
		buffer_free(&word);
		return found;
	}
	return false;
}

static void look_at_executable(struct process *process)
{
	char path[64];
	struct bytes file;

	snprintf(path, sizeof(path), "/proc/%s/exe", process->pid);
	file = map_file(path);
	process->is_go = contains(file, "\xff Go buildinf:");
	find_flavour(file, &process->inside);
	process->exports = is_exported(file, "SSL_CTX_set_ex_data");
	unmap_file(file);
}

/* range names the very file, wherever its path leads to now, but to the privileged only. */
static void look_at_libcrypto(struct process *process, const char *range, const char *path)
{
	char link[96];
	struct flavour found = {.name = ""};
	struct bytes file;

	snprintf(link, sizeof(link), "/proc/%s/map_files/%.40s", process->pid, range);
	file = map_file(link);
	if (!file.data)
		file = map_file(path);
	find_flavour(file, &found);
	unmap_file(file);
	if (found.is_openssl || (found.name[0] && !process->library.is_openssl))
		process->library = found;
}

/* The kernel's word for a file that is not there any more. True if it was at the end, and is cut.
 */
static bool cut_deleted(char *path)
{
	static const char deleted[] = " (deleted)";
	size_t size = strlen(path), end = sizeof(deleted) - 1;

	if (size <= end || strcmp(path + size - end, deleted) != 0)
		return false;
	path[size - end] = '\0';
	return true;
}

/* Where nothing may be executed, the loader gives up, and leaves behind what it had looked at. */
static void look_at_shim(struct process *process, const char *permissions, const char *path)
{
	char target[PRELOAD_PATH_SIZE];

	if (!begins(base_name(path), "libocspreload.so"))
		return;
	snprintf(target, sizeof(target), "%s", path);
	if (strchr(permissions, 'x')) {
		process->has_shim = true;
		process->is_replaced = cut_deleted(target);
	} else {
		memcpy(process->tried, target, sizeof(target));
	}
}

static void look_at_mapping(struct process *process, const char *range, const char *path)
{
	const char *name = base_name(path);

	if (begins(name, "ld-") || begins(name, "ld.so") || begins(name, "ld64"))
		process->has_loader = true;
	if (begins(name, "libcrypto"))
		look_at_libcrypto(process, range, path);
	/* Not NSS', which is libssl3.so. */
	if (begins(name, "libssl.") || begins(name, "libssl-"))
		process->has_libssl = true;
	for (size_t i = 0; i < process->stranger; i++)
		if (begins(name, strangers[i].prefix))
			process->stranger = i;
}

/* Lines of "RANGE PERMISSIONS OFFSET DEVICE INODE PATH"; a file begins where its OFFSET is 0. */
static void look_at_maps(struct process *process)
{
	char *rest = (char *)process->maps.data;
	char *line;

	while ((line = strsep(&rest, "\n")) != NULL) {
		char *path = strchr(line, '/');
		char *range = strsep(&line, " ");
		const char *permissions = strsep(&line, " ");
		const char *offset = strsep(&line, " ");

		if (path && offset)
			look_at_shim(process, permissions, path);
		if (path && offset && offset[strspn(offset, "0")] == '\0')
			look_at_mapping(process, range, path);
	}
}

static bool is_privileged(const struct process *process)
{
	for (size_t i = 0; i + sizeof(ElfW(auxv_t)) <= process->auxv.size;
		i += sizeof(ElfW(auxv_t))) {
		ElfW(auxv_t) entry;

		memcpy(&entry, process->auxv.data + i, sizeof(entry));
		if (entry.a_type == AT_SECURE)
			return entry.a_un.a_val != 0;
	}
	return false;
}

/* The value in the environment that it was started with, if it has not written over it. */
static const char *find_variable(const struct process *process, const char *prefix)
{
	const char *text = (const char *)process->environment.data;
	size_t size = process->environment.size;

	for (size_t i = 0; i < size; i += strlen(text + i) + 1)
		if (begins(text + i, prefix))
			return text + i;
	return NULL;
}

/* As its own shim has it. Nothing about logs: what is amiss is not for them, but for us to say. */
static void load_config(struct process *process)
{
	static const char *const wanted[] = {
		"OCSPRELOAD=", "OCSPRELOAD_ONLY=", "OCSPRELOAD_FETCH="};
	enum { WANTED = sizeof(wanted) / sizeof(*wanted) };
	const char *environment[WANTED + 1] = {NULL};
	size_t count = 0;

	for (size_t i = 0; i < WANTED && !is_privileged(process); i++) {
		environment[count] = find_variable(process, wanted[i]);
		count += environment[count] != NULL;
	}
	config_load(&process->config, environment, CONFIG_FILE);
}

/* The name of its file; "" if it cannot be had. */
static const char *executable_name(const struct process *process, char buffer[PATH_MAX])
{
	char link[64];
	ssize_t size;

	snprintf(link, sizeof(link), "/proc/%s/exe", process->pid);
	size = readlink(link, buffer, PATH_MAX - 1);
	buffer[size > 0 ? size : 0] = '\0';
	cut_deleted(buffer);
	return base_name(buffer);
}

static bool is_listed(const struct process *process)
{
	const char *only = process->config.only;
	char target[PATH_MAX];
	struct buffer command = {0};
	bool listed;

	listed = config_lists(only, executable_name(process, target)) ||
		 (!read_proc(process, "cmdline", &command) &&
			 config_lists(only, base_name((const char *)command.data)));
	buffer_free(&command);
	return listed;
}

/* nginx and others write their title over it; what is left is not a list of NAME=value. */
static bool has_lost_environment(const struct process *process)
{
	const char *text = (const char *)process->environment.data;
	/* The last NUL is ours. */
	size_t size = process->environment.size - 1;

	for (size_t i = 0; i < size; i += strlen(text + i) + 1)
		if (!strchr(text + i, '='))
			return true;
	return false;
}

static void make_printable(char *text)
{
	for (; *text; text++)
		if (*text < ' ' || *text > '~')
			*text = '?';
}

/* The entry of LD_PRELOAD that is meant for us, whatever became of its name's end. */
static bool find_entry(const char *preload, char entry[static PRELOAD_PATH_SIZE])
{
	static const char ends[] = " :";
	const char *at = strchr(preload, '=') + 1;

	while (*(at += strspn(at, ends))) {
		snprintf(entry, PRELOAD_PATH_SIZE, "%.*s", (int)strcspn(at, ends), at);
		if (begins(base_name(entry), "libocsp"))
			return true;
		at += strcspn(at, ends);
	}
	return false;
}

/* The effective one of the ids in a line of status: its second. */
static unsigned read_id(const struct process *process, const char *line)
{
	const char *text = strstr((const char *)process->status.data, line);
	char *rest;

	if (!text)
		return 0;
	strtoul(text + strlen(line), &rest, 10);
	return (unsigned)strtoul(rest, NULL, 10);
}

static bool explain_refusal(const struct process *process, char *entry, struct buffer *out)
{
	const char *why = preload_examine(
		process->pid, entry, read_id(process, "\nUid:"), read_id(process, "\nGid:"));

	make_printable(entry);
	if (why)
		return buffer_printf(out,
			"LD_PRELOAD names %s, but the loader could not load it: %s", entry, why);
	return buffer_printf(out,
		"LD_PRELOAD names %s, but the loader could not load it when it was started: now "
		"it looks as if it could, so restart it; if that is not enough, its standard "
		"error says why (a sandbox may forbid it)",
		entry);
}

static bool explain_absence(const struct process *process, struct buffer *out)
{
	const char *preload = find_variable(process, "LD_PRELOAD=");
	char entry[PRELOAD_PATH_SIZE];

	if (is_privileged(process))
		return buffer_printf(out,
			"libocspreload.so is not in it: it has more rights than its user "
			"(AT_SECURE), and then the loader heeds no LD_PRELOAD with a path; name it "
			"in /etc/ld.so.preload");
	if (preload && find_entry(preload, entry))
		return explain_refusal(process, entry, out);
	if (process->tried[0]) {
		snprintf(entry, sizeof(entry), "%s", process->tried);
		return explain_refusal(process, entry, out);
	}
	if (has_lost_environment(process))
		return buffer_printf(out,
			"libocspreload.so is not in it: LD_PRELOAD did not name it when it was "
			"started, or the loader could not load it and has said why on the "
			"standard error (its environment has been written over)");
	return buffer_printf(out,
		"libocspreload.so is not in it: LD_PRELOAD did not name it when it was started "
		"(set it where that is done, such as its systemd unit, and restart it; some "
		"launchers clear the environment)");
}

/* Whose TLS that is not OpenSSL's it has, or NULL. */
static const char *find_foreign(const struct process *process)
{
	if (process->library.name[0] && !process->library.is_openssl)
		return process->library.name;
	if (strangers[process->stranger].name)
		return strangers[process->stranger].name;
	return process->inside.name[0] ? process->inside.name : NULL;
}

/* Appends why a TLS that is not OpenSSL, or cannot be reached, is out of reach. */
static bool explain_foreign(const struct process *process, struct buffer *out)
{
	const char *foreign;

	if (process->is_go)
		return buffer_printf(out, "it is written in Go, which has a TLS of its own");
	if (!process->has_loader)
		return buffer_printf(out,
			"it is linked statically%s%s: nothing can be preloaded into it",
			process->inside.name[0] ? ", with " : "", process->inside.name);
	if (process->inside.is_openssl)
		return buffer_printf(out,
			"it has %s inside and does not export it: there is nothing to hook",
			process->inside.name);
	foreign = find_foreign(process);
	if (foreign)
		return buffer_printf(out, "its TLS is not OpenSSL's but that of %s", foreign);
	if (process->library.is_openssl)
		return buffer_printf(out,
			"it has loaded %s's libcrypto, but not its libssl: if it has a TLS, that "
			"is another's",
			process->library.name);
	return buffer_printf(out,
		"it has loaded no TLS library; the process that shakes hands may "
		"be another, its parent or its child");
}

/* Leaves *out empty where nothing stands in the way. False when memory ran out. */
static bool explain(struct process *process, struct buffer *out)
{
	bool can_be_hooked = (process->library.is_openssl && process->has_libssl) ||
			     (process->inside.is_openssl && process->exports);
	static const char where[] = " (in its environment, or in " CONFIG_FILE ")";
	char target[PATH_MAX];
	const char *name = executable_name(process, target);

	if (strcmp(name, "ocspctl") == 0)
		return buffer_printf(out, "it is ocspreload's own tool, and serves nobody");
	if (!can_be_hooked || !process->has_loader)
		return explain_foreign(process, out);
	for (size_t i = 0; i < sizeof(in_vain) / sizeof(*in_vain); i++)
		if (strcmp(name, in_vain[i].name) == 0)
			return buffer_printf(out, "%s", in_vain[i].why);
	if (!process->has_shim)
		return explain_absence(process, out);
	load_config(process);
	if (!process->config.enabled)
		return buffer_printf(out, "OCSPRELOAD is off for it%s", where);
	if (process->config.only && !is_listed(process))
		return buffer_printf(out, "OCSPRELOAD_ONLY does not list it%s", where);
	return true;
}

/* The name may be whatever the process likes. */
static void read_name(struct process *process)
{
	struct buffer name = {0};
	size_t size;

	if (!read_proc(process, "comm", &name))
		snprintf(process->name, sizeof(process->name), "%s", (const char *)name.data);
	size = strlen(process->name);
	if (size > 0 && process->name[size - 1] == '\n')
		process->name[size - 1] = '\0';
	make_printable(process->name);
	buffer_free(&name);
}

/*
 * What may keep the shim from fetching in a process that it is in.
 */

static bool is_told_not_to(const struct process *process)
{
	return !process->config.fetch;
}

static bool is_filtered(const struct process *process)
{
	return strstr((const char *)process->status.data, "\nSeccomp:\t2");
}

/* The kernel does not count what root runs. */
static bool may_have_no_thread(const struct process *process)
{
	static const char limit[] = "\nMax processes";
	struct buffer limits = {0};
	const char *line = NULL;
	bool none;

	if (!read_proc(process, "limits", &limits))
		line = strstr((const char *)limits.data, limit);
	none = line && strtoul(line + strlen(limit), NULL, 10) <= 1 &&
	       line[strlen(limit) + strspn(line + strlen(limit), " ")] != 'u' &&
	       !strstr((const char *)process->status.data, "\nUid:\t0\t");
	buffer_free(&limits);
	return none;
}

static bool is_in_chroot(const struct process *process)
{
	char link[64], root[2];

	snprintf(link, sizeof(link), "/proc/%s/root", process->pid);
	return readlink(link, root, sizeof(root)) > 1;
}

static const struct {
	bool (*applies)(const struct process *process);
	const char *text;
} hindrances[] = {
	{is_told_not_to, "OCSPRELOAD_FETCH, which forbids it to fetch"},
	{is_filtered, "a seccomp filter that may forbid it to fetch"},
	{may_have_no_thread, "a limit (RLIMIT_NPROC) that forbids it a thread to fetch"},
	{is_in_chroot, "a chroot, in which it may reach neither its store nor name servers"},
};

static bool describe_hindrances(const struct process *process, struct buffer *out)
{
	bool done = true;

	for (size_t i = 0; done && i < sizeof(hindrances) / sizeof(*hindrances); i++)
		if (hindrances[i].applies(process))
			done = buffer_printf(out, ", and %s", hindrances[i].text);
	if (done && out->size > 0)
		done = buffer_printf(out,
			": then another process of its service, or an agent "
			"(ocspctl agent), has to");
	return done;
}

static int print_well(const struct process *process)
{
	const struct flavour *flavour =
		process->library.is_openssl ? &process->library : &process->inside;
	const char *stranger = strangers[process->stranger].name;
	struct buffer but = {0};

	if (!describe_hindrances(process, &but)) {
		buffer_free(&but);
		return print_failure(process->pid, "memory ran out");
	}
	printf("ok: %s (%s): libocspreload.so is in it, and %s%s%s%s%.*s%s%s; ask about its "
	       "certificates, too (ocspctl doctor CERT.pem)\n",
		process->pid, process->name, flavour->name, stranger ? " (also " : "",
		stranger ? stranger : "", stranger ? ", which is out of reach)" : "", (int)but.size,
		but.size > 0 ? (const char *)but.data : "",
		process->is_replaced ? "; another file is in its place now: restart it" : "",
		has_lost_environment(process) ? "; what variables it got cannot be seen any more"
					      : "");
	buffer_free(&but);
	return EXIT_GOOD;
}

static int print_findings(struct process *process)
{
	struct buffer why = {0};
	int code = EXIT_NOT_GOOD;

	if (!explain(process, &why))
		print_failure(process->pid, "memory ran out");
	else if (why.size > 0)
		printf("not stapled: %s (%s): %.*s\n", process->pid, process->name, (int)why.size,
			(const char *)why.data);
	else
		code = print_well(process);
	buffer_free(&why);
	return code;
}

static const char *access_process(const struct process *process)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%s/environ", process->pid);
	if (access(path, R_OK) == 0)
		return NULL;
	if (errno == ENOENT)
		return "there is no such process";
	return errno == EACCES ? "only root, and mostly its own user, may look at it"
			       : strerror(errno);
}

int examine_process(const char *pid)
{
	enum { NOBODY = sizeof(strangers) / sizeof(*strangers) - 1 };
	struct process process = {.pid = pid, .stranger = NOBODY};
	const char *why = access_process(&process);
	int code;

	if (!why)
		why = read_proc(&process, "maps", &process.maps);

	/* A kernel thread's is empty, and so is that of a process that has ended. */
	if (!why && process.maps.size <= 1)
		why = "it has no memory: it has ended, or is the kernel's own";
	if (!why)
		why = read_proc(&process, "environ", &process.environment);
	if (!why)
		why = read_proc(&process, "status", &process.status);
	if (!why)
		why = read_proc(&process, "auxv", &process.auxv);
	if (why) {
		code = print_failure(pid, why);
	} else {
		read_name(&process);
		look_at_executable(&process);
		look_at_maps(&process);
		code = print_findings(&process);
	}
	buffer_free(&process.maps);
	buffer_free(&process.environment);
	buffer_free(&process.status);
	buffer_free(&process.auxv);
	return code;
}
