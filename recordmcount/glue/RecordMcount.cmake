# CMake (3.17 or later; Ninja and Makefile generators): record the objects of a target.
#
#   execute_process(COMMAND recordmcount --print-dir
#                   OUTPUT_VARIABLE dir OUTPUT_STRIP_TRAILING_WHITESPACE)
#   include(${dir}/RecordMcount.cmake)
#   mcount_record(TARGET [OPTION...])    # options of recordmcount, e.g. --symbol "my fentry"
#
# TARGET is an executable or a static, shared, module or object library. Each C and C++ object is
# recorded in the step that compiles it: Ninja would compile an object that a later step rewrites
# again in every build. A compiler launcher set before (ccache) keeps launching the compiler. Of two
# calls for a target the second holds. --pic is always passed on: see compile-and-record.

if(NOT RECORDMCOUNT)
  execute_process(COMMAND recordmcount --print-command
                  OUTPUT_VARIABLE command OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(NOT command)
    message(FATAL_ERROR "recordmcount is not in PATH: set RECORDMCOUNT to its command line")
  endif()
  set(RECORDMCOUNT "${command}" CACHE STRING "Command line of recordmcount")
endif()

function(mcount_record target)
  set(flags) # as the shell reads words
  foreach(option IN LISTS ARGN)
    string(REPLACE "'" "'\\''" option "${option}")
    string(APPEND flags " '${option}'")
  endforeach()
  foreach(property C_COMPILER_LAUNCHER CXX_COMPILER_LAUNCHER)
    set(launcher env "RECORDMCOUNT=${RECORDMCOUNT}" "RECORDMCOUNT_FLAGS=${flags}"
        "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/compile-and-record")
    get_target_property(existing ${target} ${property})
    # Without what an earlier call has put there.
    string(REGEX REPLACE "^env;RECORDMCOUNT=.*/compile-and-record(;|$)" "" existing "${existing}")
    if(existing)
      list(APPEND launcher ${existing})
    endif()
    set_target_properties(${target} PROPERTIES ${property} "${launcher}")
  endforeach()
endfunction()
