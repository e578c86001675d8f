# GNU make (4.0 or later): record the objects of a program, in one of two ways.
#
# Each object when it is compiled:
#
#   include $(shell recordmcount --print-dir)/recordmcount.mk
#   prog: main.recorded.o util.recorded.o
#   	$(LINK.o) $^ $(LDLIBS) -o $@
#
# Before the link, in one batch, those that changed; programs that share objects share a batch:
#
#   include $(shell recordmcount --print-dir)/recordmcount.mk
#   prog: prog.recorded main.o util.o
#   	$(LINK.o) $(filter %.o,$^) $(LDLIBS) -o $@
#   prog.recorded: main.o util.o
#
# prog.recorded must not be order-only (behind `|`): what the batch has recorded is linked again.
#
# A rule of your own that compiles: put $(RECORD) before the compiler. Options of recordmcount go
# into RECORDMCOUNT_FLAGS; --pic is always there, for the reason that compile-and-record gives.

ifndef RECORDMCOUNT
RECORDMCOUNT := $(shell recordmcount --print-command)
$(if $(RECORDMCOUNT),,$(error recordmcount is not in PATH: set RECORDMCOUNT to its command line))
endif
export RECORDMCOUNT RECORDMCOUNT_FLAGS

RECORD := $(dir $(lastword $(MAKEFILE_LIST)))compile-and-record

# As make's own rules for %.o.
%.recorded.o: %.c
	$(RECORD) $(COMPILE.c) $(OUTPUT_OPTION) $<
%.recorded.o: %.cc
	$(RECORD) $(COMPILE.cc) $(OUTPUT_OPTION) $<
%.recorded.o: %.cpp
	$(RECORD) $(COMPILE.cpp) $(OUTPUT_OPTION) $<
%.recorded.o: %.S
	$(RECORD) $(COMPILE.S) $(OUTPUT_OPTION) $<

# $? are the objects that are newer than this stamp: those that changed since the last batch, and
# after an interrupted one every object of it; those it had recorded stay as they are, and -q
# passes over them in silence. The stamp holds their names, and is touched after all of them.
%.recorded:
	$(if $^,,$(error $@ has no objects))
	$(file >$@.list,$(subst $(recordmcount.space),$(recordmcount.newline),$?))
	$(RECORDMCOUNT) --pic $(RECORDMCOUNT_FLAGS) -q @$@.list
	mv $@.list $@ && touch $@

recordmcount.space := $() $()
define recordmcount.newline :=


endef
