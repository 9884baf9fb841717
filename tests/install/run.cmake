# cmake -DSOURCE=repository -DBUILD=build directory -DGENERATOR=name -DFLAGS=flags -P run.cmake
# Installs a build to a new directory, then configures, builds and runs the project beside this file against it.
cmake_minimum_required(VERSION 3.25)
set(scratch ${BUILD}/install_test)
file(REMOVE_RECURSE ${scratch})
function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ERROR_IS_FATAL ANY)
endfunction()
run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${scratch}/prefix)
# Copied, so that nothing of the repository is found by a relative path.
file(COPY ${SOURCE}/tests/install/CMakeLists.txt ${SOURCE}/tests/install/main.cc DESTINATION ${scratch}/outside)
run(${CMAKE_COMMAND} -G ${GENERATOR} -S ${scratch}/outside -B ${scratch}/build -DCMAKE_BUILD_TYPE=Debug
    -DCMAKE_PREFIX_PATH=${scratch}/prefix -DCMAKE_CXX_FLAGS=${FLAGS})
run(${CMAKE_COMMAND} --build ${scratch}/build)
run(${scratch}/build/outside)
