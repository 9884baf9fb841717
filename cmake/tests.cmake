# All tests, for ctest. Labels: fast (unit, scenario, checks; under 60 s in all), sim, slow.
find_package(GTest REQUIRED)
find_package(Python3 REQUIRED COMPONENTS Interpreter)
include(GoogleTest)

# sluice_test(<target> <label> <libraries> <sources...>): one gtest program. A source whose first line is `// own main`,
# and each process_test.cc, is a program of its own; one with an `int main` is one test for ctest, skipped where that
# returns 77. `// own main, slow` gives it the label slow instead.
function(sluice_test target label libraries)
  set(shared "")
  foreach(source IN LISTS ARGN)
    file(STRINGS ${source} first LIMIT_COUNT 1)
    if(first MATCHES "^// own main" OR source MATCHES "/process_test\\.cc$")
      cmake_path(GET source STEM stem)
      string(REGEX REPLACE "_test$" "" own ${target})
      set(own_label ${label})
      if(first MATCHES "^// own main, slow")
        set(own_label slow)
      endif()
      sluice_gtest(${own}_${stem} ${own_label} "${libraries}" ${source})
    else()
      list(APPEND shared ${source})
    endif()
  endforeach()
  if(shared)
    sluice_gtest(${target} ${label} "${libraries}" ${shared})
  endif()
endfunction()

function(sluice_gtest target label libraries)
  add_executable(${target} ${ARGN})
  target_link_libraries(${target} PRIVATE ${libraries})
  foreach(source IN LISTS ARGN)
    file(STRINGS ${source} main REGEX "^int main\\(")
    if(main)
      target_link_libraries(${target} PRIVATE GTest::gmock)
      add_test(NAME ${target} COMMAND ${target})
      set_tests_properties(${target} PROPERTIES LABELS ${label} TIMEOUT 300 SKIP_RETURN_CODE 77)
      return()
    endif()
  endforeach()
  target_link_libraries(${target} PRIVATE GTest::gmock_main)
  string(REGEX REPLACE "^sluice_|_test$" "" prefix ${target})
  set(seconds 120)
  if(label STREQUAL slow)
    set(seconds 600)
  endif()
  gtest_discover_tests(${target} DISCOVERY_MODE PRE_TEST TEST_PREFIX ${prefix}.
                       PROPERTIES LABELS ${label} TIMEOUT ${seconds})
endfunction()

function(sluice_python_test name label)
  add_test(NAME ${name} COMMAND Python3::Interpreter ${ARGN} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES LABELS ${label} TIMEOUT 300)
endfunction()

# Unit tests. Those of the lower layers get the test runtimes, the others the whole test kit.
get_property(layers GLOBAL PROPERTY sluice_layers)
foreach(layer IN LISTS layers)
  get_property(sources GLOBAL PROPERTY sluice_tests_${layer})
  set(kit sluice::testkit sluice::sluice)
  if(layer MATCHES "^(runtime|core|stream|testkit_runtime)$")
    set(kit sluice::testkit_runtime)
  endif()
  sluice_test(sluice_${layer}_test fast "sluice::${layer};${kit}" ${sources})
endforeach()

# Tests of the whole engine.
foreach(kind IN ITEMS scenario sim)
  sluice_glob(sources ${PROJECT_SOURCE_DIR}/tests/${kind}/*.cc)
  set(label ${kind})
  if(kind STREQUAL scenario)
    set(label fast)
  endif()
  sluice_test(sluice_${kind}_test ${label} "sluice::sluice;sluice::testkit" ${sources})
endforeach()

# Real processes, killed at any instant: the program that is killed, and who kills it (`./dev kill`).
add_executable(sluice_kill_job tests/kill/job.cc)
target_link_libraries(sluice_kill_job PRIVATE sluice::sluice)
get_property(modules GLOBAL PROPERTY sluice_pkg_config_modules)
foreach(module IN ITEMS sqlite3 libpqxx)
  if(module IN_LIST modules)
    target_compile_definitions(sluice_kill_job PRIVATE SLUICE_KILL_HAS_${module})
  endif()
endforeach()

# The scenarios once more, under many interleavings each: no threads, so no more than the simulation can repeat. Those
# that do not use tests/scenario/matrix.h run as ever. 200 seeds take 8 s in release, minutes with sanitizers.
set(scenario_seeds 200)
if(SLUICE_SANITIZE)
  set(scenario_seeds 20)
endif()
add_test(NAME scenario_seeds COMMAND sluice_scenario_test --gtest_brief=1)
set_tests_properties(scenario_seeds PROPERTIES LABELS sim TIMEOUT 600
                     ENVIRONMENT SLUICE_SCENARIO_SEEDS=${scenario_seeds})

# Fuzz targets: tests/fuzz/NAME_fuzz.cc with LLVMFuzzerTestOneInput, started from the files tests/fuzz/corpus/NAME/*.
sluice_glob(targets ${PROJECT_SOURCE_DIR}/tests/fuzz/*_fuzz.cc)
foreach(source IN LISTS targets)
  cmake_path(GET source STEM name)
  file(STRINGS ${source} includes REGEX "^#include \"examples/")
  if(includes AND NOT SLUICE_EXAMPLES)
    continue()
  endif()
  add_executable(${name} ${source})
  if(NOT SLUICE_SANITIZE MATCHES "fuzzer")
    target_sources(${name} PRIVATE tests/fuzz/standalone.cc)
  endif()
  sluice_link_public(${name} ${source})
  if(includes MATCHES "\"examples/([a-z_]+)/")
    target_link_libraries(${name} PRIVATE example_${CMAKE_MATCH_1})
  endif()
  string(REGEX REPLACE "_fuzz$" "" corpus ${name})
  file(GLOB seeds ${PROJECT_SOURCE_DIR}/tests/fuzz/corpus/${corpus}/*)
  if(NOT SLUICE_SANITIZE MATCHES "fuzzer")
    add_test(NAME fuzz.${corpus} COMMAND ${name} ${seeds})
    set_tests_properties(fuzz.${corpus} PROPERTIES LABELS fast TIMEOUT 300)
  endif()
endforeach()

# Checks of the source tree.
sluice_python_test(tidy fast checks/tidy.py)
sluice_python_test(tidy_test fast checks/tidy_test.py)

# The compiler as these tests call it.
set(compiler --compiler ${CMAKE_CXX_COMPILER} -- -std=c++20 -I${PROJECT_SOURCE_DIR} -Wall -Wextra)
if(SLUICE_MARCH)
  list(APPEND compiler -march=${SLUICE_MARCH})
endif()
sluice_glob(programs ${PROJECT_SOURCE_DIR}/tests/compile_fail/*.cpp)
foreach(program IN LISTS programs)
  cmake_path(GET program STEM name)
  sluice_python_test(compile_fail.${name} fast tests/compile_fail/run.py ${program} ${compiler})
endforeach()
sluice_python_test(docs fast checks/docs.py ${compiler})

# Installs this build and builds a small project against it.
set(sanitize "")
if(SLUICE_SANITIZE)
  set(sanitize -fsanitize=${SLUICE_SANITIZE})
endif()
add_test(NAME install
         COMMAND ${CMAKE_COMMAND} -DSOURCE=${PROJECT_SOURCE_DIR} -DBUILD=${PROJECT_BINARY_DIR}
                 -DGENERATOR=${CMAKE_GENERATOR} -DFLAGS=${sanitize}
                 -P ${PROJECT_SOURCE_DIR}/tests/install/run.cmake)
set_tests_properties(install PROPERTIES LABELS slow TIMEOUT 300)
