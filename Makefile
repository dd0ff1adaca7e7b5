# SPDX-License-Identifier: MIT
#
# make                build/libocspreload.so and build/ocspctl
# make help           everything else

VERSION := 0.1.0

PREFIX ?= /usr/local
DESTDIR ?=
BINDIR ?= $(PREFIX)/bin
LIBDIR ?= $(PREFIX)/lib
DOCDIR ?= $(PREFIX)/share/doc/ocspreload

# SANITIZE=address,undefined or SANITIZE=thread builds the same things instrumented, each in a
# directory of its own. BUILD is what the tests know as OCSPRELOAD_BUILD.
SANITIZE ?=
comma := ,
ifeq ($(SANITIZE),)
BUILD ?= build
else ifneq ($(findstring address,$(SANITIZE)),)
BUILD ?= build/asan
else ifneq ($(findstring thread,$(SANITIZE)),)
BUILD ?= build/tsan
else
BUILD ?= build/$(subst $(comma),-,$(SANITIZE))
endif

CC ?= cc
CFLAGS ?= -O2 -g
# c-ares goes in statically: the host must not see it, nor bring its own.
ifndef CARES_A
CARES_A := $(shell $(CC) -print-file-name=libcares.a 2>/dev/null || echo libcares.a)
endif

cflags := -std=c11 -fPIC -fvisibility=hidden -pthread
cflags += -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla
cppflags := -D_GNU_SOURCE -DOCSPRELOAD_VERSION='"$(VERSION)"'
ldlibs := -pthread -ldl

WERROR ?= $(if $(filter true,$(CI)),1)
ifeq ($(WERROR),1)
cflags += -Werror
endif

so_ldflags := -shared -Wl,-soname,libocspreload.so -Wl,--version-script=shim/exports.map
# Lazy binding: to bind a hundred functions at once would double the work of starting a program that
# never uses one of them (make bench).
so_ldflags += -Wl,--exclude-libs,ALL -Wl,-z,lazy -Wl,-z,relro -Wl,-z,nodelete
ifeq ($(SANITIZE),)
so_ldflags += -Wl,-z,defs
else
# The sanitizer's runtime is preloaded by the tests, so its symbols stay undefined here.
cflags += -fsanitize=$(SANITIZE) -fno-omit-frame-pointer
ldflags := -fsanitize=$(SANITIZE)
endif
ifneq ($(findstring undefined,$(SANITIZE)),)
cflags += -fno-sanitize-recover=undefined
endif

# Debian's own: the Python that its pytest and cryptography packages are for.
PYTHON ?= /usr/bin/python3
TESTS ?= tests
PYTEST_ARGS ?=
TEST_JOBS ?= $(shell nproc)
# The tests wait for most of their time: for a response to be due, a server to start.
TEST_WORKERS ?= $(shell echo $$(($(TEST_JOBS) * 2)))

obj := $(BUILD)/obj
library := $(BUILD)/libocspreload.so
tool := $(BUILD)/ocspctl

shim_sources := $(wildcard shim/*.c)
tool_sources := $(wildcard fetcher/ocspctl*.c)
fetcher_sources := $(filter-out $(tool_sources),$(wildcard fetcher/*.c))
unit_sources := $(wildcard tests/unit/test_*.c)
unit_names := $(patsubst tests/unit/%.c,%,$(unit_sources))
units := $(unit_names:%=$(BUILD)/unit/%)
fuzz_names := $(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
FUZZ_SECONDS ?= 60
hosts := $(patsubst tests/hosts/%.c,$(BUILD)/hosts/%,$(wildcard tests/hosts/*.c))

library_objects := $(patsubst %.c,$(obj)/%.o,$(shim_sources) $(fetcher_sources))
tool_objects := $(patsubst %.c,$(obj)/%.o,$(tool_sources) $(fetcher_sources))

# c-ares first, for the sake of the message if it is missing.
all: $(CARES_A) $(library) $(tool)

$(library): $(library_objects) shim/exports.map $(CARES_A)
	$(CC) $(cflags) $(CFLAGS) $(ldflags) $(LDFLAGS) $(so_ldflags) -o $@ \
		$(library_objects) $(CARES_A) $(ldlibs)

$(tool): $(tool_objects) $(CARES_A)
	$(CC) $(cflags) $(CFLAGS) $(ldflags) $(LDFLAGS) -o $@ $(tool_objects) $(CARES_A) $(ldlibs)

$(obj)/%.o: %.c $(obj)/flags
	@mkdir -p $(@D)
	$(CC) $(cppflags) $(CPPFLAGS) $(cflags) $(CFLAGS) -MMD -MP -c -o $@ $<

# Rewritten only when the compiler or a flag changes, so that objects of two kinds never mix.
compile := $(CC) $(cppflags) $(CPPFLAGS) $(cflags) $(CFLAGS)
flags := $(compile) $(so_ldflags) $(LDFLAGS)
$(obj)/flags: FORCE
	@mkdir -p $(@D)
	@printf '%s\n' '$(subst ','\'',$(flags))' | cmp -s - $@ || \
		printf '%s\n' '$(subst ','\'',$(flags))' > $@

libcares.a:
	@echo "libcares.a is not installed: 'make deps' installs it, CARES_A= names another" >&2; \
		exit 1

# A unit test names the sources it is linked with: /* links: http.c bytes.c */. Words that begin
# with -l are libraries.
unit_words = $(shell sed -n 's,^/\* links: \(.*\) \*/$$,\1,p' tests/unit/$(1).c)
unit_source = $(firstword $(wildcard $(1) fetcher/$(1) shim/$(1) tests/unit/$(1)) fetcher/$(1))
unit_objects = $(foreach word,$(filter-out -l%,$(2)),\
	$(patsubst %.c,$(obj)/%.o,$(call unit_source,$(word))))
define unit_rule
$(BUILD)/unit/$(1): $(obj)/tests/unit/$(1).o $(call unit_objects,$(1),$(2)) $(CARES_A)
	@mkdir -p $$(@D)
	$$(CC) $$(cflags) $$(CFLAGS) $$(ldflags) $$(LDFLAGS) -o $$@ $$^ $(filter -l%,$(2)) $$(ldlibs)
endef
$(foreach name,$(unit_names),$(eval $(call unit_rule,$(name),$(call unit_words,$(name)))))

$(obj)/tests/unit/%.o: cppflags += -Ifetcher -Ishim

# Servers that are as nasty as one can be; like any host, they are linked with OpenSSL.
$(BUILD)/hosts/%: $(obj)/tests/hosts/%.o
	@mkdir -p $(@D)
	$(CC) $(cflags) $(CFLAGS) $(ldflags) $(LDFLAGS) -o $@ $^ -lssl -lcrypto $(ldlibs)

# clang's libFuzzer, with ASan and UBSan. An archive, so that a fuzzer can put functions of its own
# in the place of the fetcher's. They are linked with OpenSSL, to judge by it.
fuzz_flags := SANITIZE=address,undefined,fuzzer-no-link BUILD=build/fuzz CC=clang

$(BUILD)/libfetcher.a: $(patsubst %.c,$(obj)/%.o,$(fetcher_sources))
	rm -f $@
	$(AR) rcs $@ $^

$(obj)/tests/fuzz/%.o: cppflags += -Ifetcher
$(BUILD)/fuzz_config: fuzz_ldflags := -Wl,--wrap=fstat -Wl,--wrap=malloc
$(BUILD)/fuzz_exchange: fuzz_ldflags := -Wl,--wrap=socket -Wl,--wrap=connect
$(BUILD)/fuzz_exchange: fuzz_ldflags += -Wl,--wrap=getsockname -Wl,--wrap=getpeername
$(fuzz_names:%=$(BUILD)/%): $(BUILD)/%: $(obj)/tests/fuzz/%.o $(BUILD)/libfetcher.a $(CARES_A)
	$(CC) $(cflags) $(CFLAGS) $(ldflags) -fsanitize=fuzzer $(fuzz_ldflags) $(LDFLAGS) -o $@ \
		$^ -lcrypto $(ldlibs)

fuzzers: $(fuzz_names:%=$(BUILD)/%)

# FUZZ_SECONDS each.
fuzz:
	scripts/deps build fuzz
	$(MAKE) $(fuzz_flags) fuzzers
	printf '%s\n' $(fuzz_names) | FUZZ_SECONDS=$(FUZZ_SECONDS) xargs -P $(TEST_JOBS) -n 1 scripts/fuzz

unit: $(units) $(hosts)

objects: $(library_objects) $(tool_objects)

run-unit: unit
	@for unit in $(units); do echo "$$unit"; $$unit || exit 1; done

-include $(shell test -d $(obj) && find $(obj) -name '*.d')

# What is missing is installed with apt-get; see scripts/deps.
deps:
	scripts/deps build demo test lint

# The tests against one build: plain, or the one that SANITIZE names.
check: all unit
	OCSPRELOAD_BUILD=$(BUILD) OCSPRELOAD_SANITIZE=$(SANITIZE) PYTHONDONTWRITEBYTECODE=1 \
		$(PYTHON) -m pytest $(if $(filter-out 1,$(TEST_WORKERS)),-n $(TEST_WORKERS)) \
		$(PYTEST_ARGS) $(TESTS)

# The tests against all three builds, and the fuzzers.
test:
	scripts/deps build test
	$(MAKE) check SANITIZE=
	$(MAKE) check SANITIZE=address,undefined
	$(MAKE) check SANITIZE=thread
	$(MAKE) fuzz

# The long ones, with the numbers that they are for: an hour and a half.
endurance: all unit
	scripts/deps test
	OCSPRELOAD_BUILD=$(BUILD) OCSPRELOAD_SANITIZE=$(SANITIZE) PYTHON=$(PYTHON) scripts/endurance

# Other libc, other machine: everything compiles, and what needs no c-ares runs.
cross_units := test_cache test_clock test_http test_queue test_responders test_schedule
cross_include := $(abspath build/cross/include)
cross_make = $(MAKE) WERROR=1 SANITIZE= CARES_A= \
	CPPFLAGS='$(patsubst %,-isystem $(cross_include)/%,$(3))' LDFLAGS=-static \
	BUILD=build/cross/$(1) CC=$(2) objects \
	$(cross_units:%=build/cross/$(1)/unit/%)
cross_run = for unit in $(cross_units); do \
	echo "$(1): $$unit"; $(2) build/cross/$(1)/unit/$$unit || exit 1; done

cross:
	scripts/deps build cross
	scripts/cross-include $(cross_include)
	$(call cross_make,musl,musl-gcc,libraries kernel)
	@$(call cross_run,musl)
	$(call cross_make,arm64,aarch64-linux-gnu-gcc,libraries)
	@$(call cross_run,arm64,qemu-aarch64)

# One .so for all: built where libc and OpenSSL are the oldest that are supported.
release:
	scripts/deps roots
	scripts/roots --in bullseye make -C /mnt -j$(TEST_JOBS) WERROR=1 BUILD=build/release all
	scripts/check-release build/release 2.31

# That one .so in five releases of Debian: their OpenSSL, their servers.
matrix: release
	TEST_JOBS=$(TEST_JOBS) scripts/matrix

demo:
	@scripts/demo

# What the shim costs, in instructions.
bench: all unit
	scripts/deps test
	@OCSPRELOAD_BUILD=$(BUILD) scripts/bench

c_files = $(wildcard shim/*.[ch] fetcher/*.[ch] tests/*.[ch] tests/*/*.[ch])
c_sources = $(filter %.c,$(c_files))
shell_files = scripts/check-release scripts/cross-include scripts/deps scripts/demo scripts/fuzz
shell_files += scripts/endurance scripts/ocspreload scripts/roots scripts/unpack .ci/run
python_files = $(wildcard tests/*.py tests/*/*.py) scripts/bench scripts/demo-responder
python_files += scripts/matrix

# What must not be called in a stranger's process: see CONTRIBUTING.md.
unwanted := abort|exit|assert|printf|getaddrinfo|gethostby[a-z_]+|localtime(_r)?|gmtime(_r)?
unwanted := $(unwanted)|timegm|mktime|strftime|tzset|setlocale|system|popen

lint:
	scripts/deps build lint
	clang-format --dry-run -Werror $(c_files)
	shellcheck $(shell_files)
	$(PYTHON) -m pyflakes $(python_files)
	! grep -nE '(^|[^a-z_])($(unwanted))\(' $(shim_sources) $(fetcher_sources) | \
		grep -vE ':[[:space:]]*(/\*|\*)'
	grep -qx 'version=$(VERSION)' scripts/ocspreload
	cppcheck --quiet --error-exitcode=1 --std=c11 --inline-suppr \
		--enable=warning,performance,portability -D_GNU_SOURCE $(c_sources)
	printf '%s\n' $(c_sources) | xargs -P $(TEST_JOBS) -I FILE clang-tidy --quiet \
		--warnings-as-errors='*' FILE -- $(cppflags) -std=c11 -Ifetcher -Ishim -Wall -Wextra
	$(MAKE) CC=clang WERROR=1 BUILD=build/clang all unit
	$(MAKE) WERROR=1 $(fuzz_flags) fuzzers

contrib_files = $(sort $(wildcard contrib/* contrib/*/*))
contrib_files := $(filter-out $(patsubst %/,%,$(dir $(contrib_files))),$(contrib_files))

# What is to be copied and pasted names the places that it was installed to.
placed := sed -e 's,/usr/local/lib/,$(LIBDIR)/,g' -e 's,/usr/local/bin/,$(BINDIR)/,g'
placed += -e 's,/usr/local/share/doc/ocspreload,$(DOCDIR),g'

# The library at once and whole: with /etc/ld.so.preload, every program that starts meanwhile loads
# what is there.
install: all
	install -d '$(DESTDIR)$(LIBDIR)' '$(DESTDIR)$(BINDIR)' '$(DESTDIR)$(DOCDIR)'
	install -m 644 $(library) '$(DESTDIR)$(LIBDIR)/libocspreload.so.new'
	mv -f '$(DESTDIR)$(LIBDIR)/libocspreload.so.new' '$(DESTDIR)$(LIBDIR)/libocspreload.so'
	install -m 755 $(tool) '$(DESTDIR)$(BINDIR)/ocspctl'
	sed 's,^libdir=.*,libdir="$(LIBDIR)",' scripts/ocspreload > $(BUILD)/ocspreload
	install -m 755 $(BUILD)/ocspreload '$(DESTDIR)$(BINDIR)/ocspreload'
	for file in $(contrib_files) docs/*.md; do \
		install -d "$(DESTDIR)$(DOCDIR)/$${file%/*}" && \
		$(placed) "$$file" > $(BUILD)/placed && \
		install -m 644 $(BUILD)/placed "$(DESTDIR)$(DOCDIR)/$$file" || exit 1; done
	cd '$(DESTDIR)$(DOCDIR)' && install -m 644 contrib/systemd/ocspreload-agent.* .
	cd '$(DESTDIR)$(DOCDIR)' && install -m 644 contrib/systemd/ocspreload.conf systemd.conf
	install -m 644 README.md CONTRIBUTING.md DESIGN.md CHANGELOG.md LICENSE \
		'$(DESTDIR)$(DOCDIR)'

uninstall:
	rm -f '$(DESTDIR)$(LIBDIR)/libocspreload.so'
	rm -f '$(DESTDIR)$(BINDIR)/ocspctl' '$(DESTDIR)$(BINDIR)/ocspreload'
	rm -rf '$(DESTDIR)$(DOCDIR)'

clean:
	rm -rf build

help:
	@echo 'make                            build $(library) and $(tool)'
	@echo 'make SANITIZE=address,undefined the same with ASan and UBSan, in build/asan'
	@echo 'make SANITIZE=thread            the same with TSan, in build/tsan'
	@echo 'make demo                       nginx without and with stapling, side by side'
	@echo 'make bench                      what the shim costs a host, in instructions'
	@echo 'make test                       install what is missing, test all three builds'
	@echo 'make endurance                  100 reloads, 1,000 kills, 10,000 forks, an hour'
	@echo 'make check                      test one build; TESTS=tests/test_x.py PYTEST_ARGS=-x'
	@echo 'make unit, make run-unit        build, run the unit tests alone'
	@echo 'make fuzz                       fuzzers; FUZZ_SECONDS=60 for each'
	@echo 'make lint                       clang-format, clang-tidy, cppcheck, shellcheck, pyflakes'
	@echo 'make deps                       install all that the above need (apt-get)'
	@echo 'make cross                      compile for musl and for arm64; run the unit tests there'
	@echo 'make release                    one library for all, in build/release'
	@echo 'make matrix                     that library on OpenSSL 1.1.1, 3.0, 3.5, 3.6 and 4.0'
	@echo 'make install                    PREFIX=$(PREFIX) DESTDIR= LIBDIR= BINDIR='
	@echo 'make uninstall, make clean'
	@echo
	@echo 'CC, CFLAGS, CPPFLAGS, LDFLAGS as usual; WERROR=1 or CI=true: warnings are errors;'
	@echo 'CARES_A=PATH: the static c-ares.'

FORCE:
.DELETE_ON_ERROR:
.PHONY: all unit objects run-unit deps check test endurance fuzz fuzzers cross release matrix
.PHONY: demo bench lint install uninstall clean help FORCE
