/* SPDX-License-Identifier: MIT */
/*
 * Why the loader did not take a library that LD_PRELOAD names, by looking at the file as the
 * process would see it.
 */
#include "ocspctl.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { KIND_SIZE = 4 };

/* Class, byte order and machine. False if it is no ELF file. */
static bool read_kind(int fd, unsigned char kind[static KIND_SIZE])
{
	enum { MACHINE = 18 };
	unsigned char head[MACHINE + 2];

	if (pread(fd, head, sizeof(head), 0) != sizeof(head) || memcmp(head, ELFMAG, SELFMAG) != 0)
		return false;
	memcpy(kind, head + EI_CLASS, 2);
	memcpy(kind + 2, head + MACHINE, 2);
	return true;
}

static int open_file(const char *path)
{
	return open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
}

/* Root may read what a server's user may not; who is not root cannot try. */
static bool is_readable_by(const char *path, uid_t uid, gid_t gid)
{
	uid_t own_user = geteuid();
	gid_t own_group = getegid();
	int fd;

	if (own_user != 0)
		return true;
	setfsgid(gid);
	setfsuid(uid);
	fd = open_file(path);
	setfsuid(own_user);
	setfsgid(own_group);
	if (fd < 0)
		return false;
	close(fd);
	return true;
}

static const char *examine_file(int fd, int program)
{
	unsigned char kind[KIND_SIZE], wanted[KIND_SIZE];
	struct statvfs mount;
	struct stat is;

	if (fstat(fd, &is) != 0 || !S_ISREG(is.st_mode) || !read_kind(fd, kind))
		return "it is no shared library";
	if (read_kind(program, wanted) && memcmp(kind, wanted, sizeof(kind)) != 0)
		return "it is for another kind of machine";
	if (fstatvfs(fd, &mount) == 0 && mount.f_flag & ST_NOEXEC)
		return "nothing may be executed where it is (a noexec mount, or NoExecPaths= of "
		       "its "
		       "unit, which ExecPaths= amends)";
	return NULL;
}

const char *preload_examine(const char *pid, const char *entry, uid_t uid, gid_t gid)
{
	char path[PRELOAD_PATH_SIZE + 64];
	const char *why = NULL;
	int fd, program;

	if (!strchr(entry, '/'))
		return "it has no directory, and is not among the system's own libraries";
	if (entry[0] != '/')
		return "it is not an absolute path";
	snprintf(path, sizeof(path), "/proc/%s/root%s", pid, entry);
	fd = open_file(path);
	if (fd < 0)
		return errno == ENOENT ? "there is no such file" : strerror(errno);
	if (!is_readable_by(path, uid, gid))
		why = "its user may not read it";
	snprintf(path, sizeof(path), "/proc/%s/exe", pid);
	program = open_file(path);
	if (!why)
		why = examine_file(fd, program);
	if (program >= 0)
		close(program);
	close(fd);
	return why;
}
