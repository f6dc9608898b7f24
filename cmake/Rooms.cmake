# One object library per room. A room sees only the rooms that it may import (the tests link exactly those, so an
# import in the wrong direction does not link), and all objects together make the library `moelora`.
add_library(moelora_settings INTERFACE)
target_include_directories(moelora_settings INTERFACE
  $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/include> $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/src>)
target_compile_options(moelora_settings INTERFACE -Wall -Wextra $<$<BOOL:${MOELORA_WERROR}>:-Werror>)
if(MOELORA_SANITIZE)
  target_compile_options(moelora_settings INTERFACE
    -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g1)
  target_link_options(moelora_settings INTERFACE -fsanitize=address,undefined)
elseif(MOELORA_SANITIZE_THREADS)
  target_compile_options(moelora_settings INTERFACE -fsanitize=thread -fno-omit-frame-pointer -g1)
  target_link_options(moelora_settings INTERFACE -fsanitize=thread)
endif()

# moelora_room(NAME imports...): src/NAME/**.cpp; MOELORA_ROOM_<NAME> lists the room and all that it needs.
# MOELORA_LIBRARIES_OF_<NAME>: what this room alone is linked with (Dependencies.cmake).
function(moelora_room name)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${name}/*.cpp)
  list(FILTER sources EXCLUDE REGEX "${MOELORA_LEFT_OUT}")
  if(NOT sources)
    file(TOUCH ${CMAKE_BINARY_DIR}/empty.cpp)
    set(sources ${CMAKE_BINARY_DIR}/empty.cpp)
  endif()
  add_library(moelora_${name} OBJECT ${sources})
  target_link_libraries(moelora_${name} PUBLIC moelora_settings moelora_libtorch nlohmann_json::nlohmann_json
    moelora_sentencepiece ${MOELORA_LIBRARIES_OF_${name}} Threads::Threads)
  set_target_properties(moelora_${name} PROPERTIES UNITY_BUILD ${MOELORA_UNITY} UNITY_BUILD_BATCH_SIZE 6)
  # Loops of our own: vectorised, each file by itself (no LibTorch headers or few).
  list(FILTER sources INCLUDE REGEX "(_kernel|_loops)\\.cpp$")
  set_source_files_properties(${sources} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON
    COMPILE_OPTIONS "-O3;-fno-math-errno;-fno-trapping-math")
  set(all ${name})
  foreach(import IN LISTS ARGN)
    list(APPEND all ${MOELORA_ROOM_${import}})
  endforeach()
  list(REMOVE_DUPLICATES all)
  set(MOELORA_ROOM_${name} ${all} PARENT_SCOPE)
endfunction()

# Logging stands apart: spdlog wants Debian's fmt, LibTorch's include folder carries another one. Header-only, so that
# programs don't need libfmt.so.
add_library(moelora_log OBJECT ${CMAKE_SOURCE_DIR}/src/log/log.cpp)
target_compile_definitions(moelora_log PRIVATE FMT_HEADER_ONLY=1)
target_link_libraries(moelora_log PUBLIC moelora_settings PRIVATE spdlog::spdlog_header_only)
set(MOELORA_ROOM_log log)

# LibTorch's own BLAS, called directly where it can be (nn/gemm.h).
include(CheckCXXSourceCompiles)
set(CMAKE_REQUIRED_LIBRARIES moelora_libtorch)
check_cxx_source_compiles("
  extern \"C\" void sgemm_(const char*, const char*, const int*, const int*, const int*, const float*, const float*,
                          const int*, const float*, const int*, const float*, float*, const int*);
  int main() { sgemm_(nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr,
                      nullptr, nullptr); }" MOELORA_HAVE_SGEMM)
unset(CMAKE_REQUIRED_LIBRARIES)
if(MOELORA_HAVE_SGEMM)
  set_source_files_properties(${CMAKE_SOURCE_DIR}/src/nn/gemm.cpp PROPERTIES COMPILE_DEFINITIONS MOELORA_HAVE_SGEMM)
endif()

# The same loops for several instruction sets; the program chooses when it runs. Never part of a unity file: the flags
# must reach nothing else.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  # g++ 12 warns of its own AVX-512 header's deliberately undefined values.
  set(quiet "-Wno-uninitialized;-Wno-maybe-uninitialized")
  set(kernels ${CMAKE_SOURCE_DIR}/src/nn/kernels/row_kernels)
  set_source_files_properties(${kernels}_avx512.cpp PROPERTIES
    COMPILE_OPTIONS "-O3;-march=x86-64-v4;-mprefer-vector-width=512;-ffp-contract=fast;${quiet}")
  set_source_files_properties(${kernels}_avx2.cpp PROPERTIES COMPILE_OPTIONS "-O3;-march=x86-64-v3;-ffp-contract=fast")
  set_source_files_properties(${kernels}_avx512.cpp ${kernels}_avx2.cpp ${kernels}_plain.cpp PROPERTIES
    SKIP_UNITY_BUILD_INCLUSION ON)
endif()

moelora_room(io log)
moelora_room(nn io)
moelora_room(adapter nn)
moelora_room(model nn)
moelora_room(data model)
moelora_room(eval data)
moelora_room(train adapter data)
moelora_room(verify adapter eval train)
moelora_room(experiment adapter eval train)

set(MOELORA_ROOMS log io nn adapter model data eval train verify experiment)

add_library(moelora STATIC)
add_library(moelora::moelora ALIAS moelora)
foreach(room IN LISTS MOELORA_ROOMS)
  target_sources(moelora PRIVATE $<TARGET_OBJECTS:moelora_${room}>)
endforeach()
target_include_directories(moelora PUBLIC
  $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/include> $<INSTALL_INTERFACE:include>)
target_compile_features(moelora PUBLIC cxx_std_20)
set_target_properties(moelora PROPERTIES LINKER_LANGUAGE CXX)
target_link_libraries(moelora PUBLIC moelora_libtorch nlohmann_json::nlohmann_json
  moelora_sentencepiece ${MOELORA_LIBRARIES_OF_adapter} Threads::Threads)
if(MOELORA_SANITIZE)
  target_link_options(moelora PUBLIC -fsanitize=address,undefined)
elseif(MOELORA_SANITIZE_THREADS)
  target_link_options(moelora PUBLIC -fsanitize=thread)
endif()

file(GLOB cli_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/cli/*.cpp)
if(cli_sources)
  add_executable(moelora_cli ${cli_sources})
  set_target_properties(moelora_cli PROPERTIES OUTPUT_NAME moelora UNITY_BUILD ${MOELORA_UNITY} UNITY_BUILD_BATCH_SIZE 6)
  target_link_libraries(moelora_cli PRIVATE moelora_settings moelora CLI11::CLI11)
endif()
