# The few rules that every folder shares: warnings, optimisation, and `wideep_module`, which makes one
# static library and one test program of a folder and links only the arrows of ARCHITECTURE.md.

add_library(wideep_flags INTERFACE)
target_compile_options(wideep_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Werror
  # The same bits on every machine: no fused multiply-add behind the code's back.
  -ffp-contract=off>)
target_include_directories(wideep_flags INTERFACE ${CMAKE_SOURCE_DIR}/src)

# wideep_module(NAME SOURCES a.cc... [TESTS a_test.cc...] [DEPS base...] [LIBS external...])
# Makes the library wideep_NAME and, where there are tests, the program NAME_test.
function(wideep_module name)
  cmake_parse_arguments(M "" "" "SOURCES;TESTS;DEPS;LIBS" ${ARGN})
  list(TRANSFORM M_DEPS PREPEND wideep_)
  add_library(wideep_${name} STATIC ${M_SOURCES})
  target_link_libraries(wideep_${name} PUBLIC wideep_flags ${M_DEPS} PRIVATE ${M_LIBS})
  if(M_TESTS)
    add_executable(${name}_test ${M_TESTS})
    target_link_libraries(${name}_test PRIVATE wideep_${name} ${M_LIBS} GTest::gmock GTest::gtest_main)
    target_compile_definitions(${name}_test PRIVATE WIDEEP_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
    # Tests spend their time in the library: compiling them fast matters more.
    target_compile_options(${name}_test PRIVATE $<$<CONFIG:Release>:-O1>)
    include(GoogleTest)
    gtest_discover_tests(${name}_test NO_PRETTY_VALUES DISCOVERY_TIMEOUT 60 PROPERTIES TIMEOUT ${WIDEEP_TEST_TIMEOUT})
  endif()
endfunction()

# wideep_gpu_test(NAME SOURCES a_test.cc... DEPS base... [LIBS external...])
# Makes the program NAME_gpu_test, of tests that skip with a reason where there is no GPU; ctest's label
# is gpu, tools/gpu_check.sh runs them.
function(wideep_gpu_test name)
  cmake_parse_arguments(T "" "" "SOURCES;DEPS;LIBS" ${ARGN})
  list(TRANSFORM T_DEPS PREPEND wideep_)
  add_executable(${name}_gpu_test ${T_SOURCES})
  target_link_libraries(${name}_gpu_test PRIVATE ${T_DEPS} ${T_LIBS} GTest::gmock GTest::gtest_main)
  target_compile_definitions(${name}_gpu_test PRIVATE WIDEEP_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  include(GoogleTest)
  gtest_discover_tests(${name}_gpu_test NO_PRETTY_VALUES DISCOVERY_TIMEOUT 60 PROPERTIES TIMEOUT ${WIDEEP_TEST_TIMEOUT} LABELS gpu)
endfunction()

# wideep_bench(NAME SOURCES a_bench.cc... DEPS eplb... [LIBS external...])
# Makes the Google Benchmark program NAME_bench, which `make bench` runs.
function(wideep_bench name)
  cmake_parse_arguments(B "" "" "SOURCES;DEPS;LIBS" ${ARGN})
  list(TRANSFORM B_DEPS PREPEND wideep_)
  add_executable(${name}_bench ${B_SOURCES})
  target_link_libraries(${name}_bench PRIVATE ${B_DEPS} ${B_LIBS} benchmark::benchmark_main)
  target_include_directories(${name}_bench PRIVATE ${CMAKE_SOURCE_DIR})
  target_compile_definitions(${name}_bench PRIVATE WIDEEP_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
endfunction()

# wideep_fuzz(NAME SOURCES a_fuzz.cc DEPS eplb...)
# Makes the libFuzzer program NAME_fuzz where WIDEEP_FUZZ is on (preset fuzz); `make fuzz` runs it from
# the inputs in tests/corpus/NAME/.
if(WIDEEP_FUZZ)
  add_custom_target(fuzzers)
endif()
function(wideep_fuzz name)
  if(NOT WIDEEP_FUZZ)
    return()
  endif()
  cmake_parse_arguments(F "" "" "SOURCES;DEPS;LIBS" ${ARGN})
  list(TRANSFORM F_DEPS PREPEND wideep_)
  add_executable(${name}_fuzz ${F_SOURCES})
  target_link_libraries(${name}_fuzz PRIVATE ${F_DEPS} ${F_LIBS})
  target_link_options(${name}_fuzz PRIVATE -fsanitize=fuzzer)
  add_dependencies(fuzzers ${name}_fuzz)
endfunction()
